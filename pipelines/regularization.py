"""Stage `regularization`: pictures of each subject's class with attributes, by the untuned base.

Finished subjects whose inputs are unchanged are kept, so a new subject costs only itself. Run from
the repository's root: `python -m pipelines.regularization`.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from insitu.digest import code_digest
from insitu.errors import UserError
from insitu.files import replacing
from insitu.params import Params
from insitu.records import ShardWriter, load_manifest, read
from insitu.records.engines import RegularPhoto
from insitu.records.subjects import SubjectPhoto
from insitu.synthesis import regularization
from insitu.synthesis.generators import pinned
from insitu.synthesis.lineage import source
from pipelines import _models, _step
from pipelines._paths import ATTRIBUTES, REGULARIZATION, SUBJECTS

CODE = ("backbones", "methods/__init__", "perception", "records", "requests", "synthesis")


def main(params: Params, report: _step.Report) -> None:
    dictionaries = json.loads(ATTRIBUTES.read_text())
    names = sorted(path.name for path in SUBJECTS.iterdir() if path.is_dir())
    bench = _Bench(params)
    pictures = 0
    for name in names:
        pictures += bench.paint(name, dictionaries[name])
    for path in sorted(REGULARIZATION.iterdir()):
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)
            print(f"{path.name}: removed, it is no longer a subject")
    report({"subjects": len(names), "pictures": pictures})


class _Bench:
    """The base and the segmenter, loaded when the first subject needs them."""

    def __init__(self, params: Params) -> None:
        self._params = params
        self._base = pinned("sdxl-inpaint", params.models.inpaint)
        self._loaded: Any = None

    def paint(self, name: str, dictionary: dict[str, list[str]]) -> int:
        """Paint one subject's pictures, unless they lie there; how many there are."""
        own, folder = self._params.regularization, REGULARIZATION / name
        photos = list(read(SUBJECTS / name, SubjectPhoto))
        wanted = regularization.asked(
            photos,
            dictionary,
            self._params.subjects.attributes.model_dump(),
            words=own.words,
            images=own.images,
            seed=self._params.seed,
        )
        digest = self._digest(wanted)
        if _finished(folder) == digest:
            print(f"{name}: unchanged")
            return len(wanted)
        rows = []
        if wanted:
            method, backbone, segmenter = self._load()
            from insitu.methods import Placement, Request

            painted = method.paint(
                backbone,
                [
                    Request(
                        image=one.photo.image.array(),
                        placements=(Placement(box_xyxy01=one.photo.box.xyxy01),),
                        prompt=one.prompt,
                        seed=one.seed,
                    )
                    for one in wanted
                ],
            )
            rows = regularization.records(wanted, painted, segmenter, self._base)
        with replacing(folder) as fresh:
            writer = ShardWriter(fresh, RegularPhoto, digest)
            with writer.shard(0) as shard:
                for row in rows:
                    shard.keep(row)
            writer.finish(1)
        print(f"{name}: {len(rows)} pictures")
        return len(rows)

    def _digest(self, wanted: list[regularization.Asked]) -> str:
        facts = {
            "asked": [(source(one.photo), one.prompt, one.seed) for one in wanted],
            "base": self._base,
            "dtype": self._params.dtype,
            "segmenter": self._params.perception.segmenter,
            "settings": self._params.tune.dreammix.model_dump(),
            "code": code_digest(*CODE, f"methods/{self._params.tune.method}"),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _load(self) -> Any:
        if self._loaded is None:
            _step.quiet()
            from insitu.backbones.loading import choose_device
            from insitu.backbones.precision import Precision
            from insitu.backbones.unet import InpaintBackbone
            from insitu.methods import find

            params = self._params
            settings = getattr(params.tune, params.tune.method).model_dump()
            self._loaded = (
                find(params.tune.method, settings),
                InpaintBackbone.load(
                    params.models.inpaint,
                    device=choose_device(params.device),
                    precision=Precision.of(params.painting_base()),
                ),
                _models.segmenter(params),
            )
        return self._loaded


def _finished(folder: Path) -> str | None:
    """The input digest of the pictures that lie there whole, None without them."""
    try:
        return load_manifest(folder).input_digest
    except UserError:
        return None


if __name__ == "__main__":
    sys.exit(_step.run(main))
