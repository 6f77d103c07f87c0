"""What settings of tuning do: drawn subjects, tuned with each setting, against the untuned base.

Settings are chosen here and reported by the chain, so the seed is another one: other subjects,
other places, other noise. Photos, regularization pictures, training and comparison are the chain's;
nothing is registered, and all settings have the same subjects and the same untuned pictures.

    python -m benchmarks.tuning                          # params.yaml as it is, 4 subjects
    python -m benchmarks.tuning "tune.average=0.99" "tune.clip=0.5 tune.steps=400"
"""

import argparse
import contextlib
import copy
import functools
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from insitu.backbones.loading import load_pretrained
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.evaluation import tuned, tuned_page
from insitu.evaluation.checkpoints.judging import PRESENT
from insitu.evaluation.placement import places
from insitu.methods import Request
from insitu.methods.dreammix.data import REGULAR, SUBJECT
from insitu.params import Params, load
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import IdentityEncoder
from insitu.synthesis import regularization, subjects
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import ADAPTER, fit
from insitu.training.recipe import Devices, Recipe, Watch
from pipelines import _models, _step, _tuning

FACTS = {"photos": "of this run"}
NEVER = 10**9
SHOWN = ("dino", "clip_i", "found")


def changed(params: Params, setting: str) -> Params:
    """`a.b=1 c=2` on top of params, a key in the file's own words."""
    values = copy.deepcopy(params.model_dump())
    for part in setting.split():
        name, _, value = part.partition("=")
        *groups, key = name.split(".")
        place: Any = values
        for group in groups:
            place = place.get(group, {})
        if key not in place:
            raise UserError(
                f"The setting {part!r} was given.",
                "params.yaml has no such key.",
                "Write group.key=value, as for `dvc exp run -S`.",
            )
        place[key] = YAML(typ="safe", pure=True).load(value)
    return Params.model_validate(values)


class Bench:
    """The base, the metrics and the places, which all settings have in common."""

    def __init__(self, params: Params, folder: Path) -> None:
        cpu, models, own = torch.device("cpu"), params.models, params.evaluate
        self.params, self.folder = params, folder
        self.backbone = InpaintBackbone.load(models.inpaint, device=cpu)
        self.metrics = tuned.make_metrics(
            clip=load_pretrained(ClipScorer, models.clip, device=cpu),
            dino=load_pretrained(IdentityEncoder, models.dino, device=cpu),
            detector=load_pretrained(ZeroShotDetector, models.detector, device=cpu),
            threshold=PRESENT,
        )
        self.rooms = places(own.scenes, size=own.size, seed=params.seed)
        self.segmenter = _models.segmenter(params)
        self.painted: dict[Any, Any] = {}

    def trial(self, index: int, params: Params) -> tuned.Trial:
        """One subject, tuned and compared."""
        method, rows = _tuning.method(params), self._rows(index, params)
        state = self._tune(params, rows)

        def paint_tuned(requests: Sequence[Request]) -> Any:
            method.load(self.backbone, state)
            try:
                return method.paint(self.backbone, requests)
            finally:
                method.detach(self.backbone)

        return tuned.trial(
            rows[0], self.rooms, seeds=params.evaluate.seeds, seed=params.seed,
            identifier=_tuning.identifier(params, rows[0]), paint_tuned=paint_tuned,
            paint_untuned=functools.partial(self._once, (index, "untuned"), params),
            metrics=self.metrics,
        )  # fmt: skip

    def _once(self, what: Any, params: Params, requests: Sequence[Request]) -> Any:
        """The untuned base's pictures, painted once for all settings that paint alike."""
        own = params.tune.dreammix
        key = (*what, own.steps, own.guidance_scale, own.context)
        if key not in self.painted:
            self.painted[key] = _tuning.method(params).paint(self.backbone, requests)
        return self.painted[key]

    def _rows(self, index: int, params: Params) -> _tuning.Rows:
        own, regular = params.subjects, params.regularization
        photos = list(subjects.drawn(index, photos=own.photos, size=own.size, seed=params.seed))
        wanted = regularization.asked(
            photos, {}, own.attributes.model_dump(), words=regular.words, images=regular.images,
            seed=params.seed,
        )  # fmt: skip
        requests = [
            Request(
                image=one.photo.image.array(), box_xyxy01=one.photo.box.xyxy01,
                prompt=one.prompt, seed=one.seed,
            )
            for one in wanted
        ]  # fmt: skip
        painted = self._once((index, "regular", regular.images), params, requests)
        return photos, regularization.records(wanted, painted, self.segmenter, "untuned base")

    def _tune(self, params: Params, rows: _tuning.Rows) -> Any:
        own, method = params.tune, _tuning.method(params)
        shares = {SUBJECT: 1 - own.regular_share, REGULAR: own.regular_share}
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            work = Path(name)
            found = _tuning.examples(params, rows, self.backbone.size)
            encode(method, self.backbone, found, work / "e", facts=FACTS, root=work / "work")
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(
                    method, self.backbone, Encoded.open(work / "e", FACTS),
                    _tuning.requests(rows[0][:1], params),
                    recipe=Recipe.of(own.recipe(shares=shares, seed=params.seed)),
                    devices=Devices(), watch=Watch(validate=own.steps, save=NEVER), work=work,
                )  # fmt: skip
            return load_file(work / ADAPTER)


def show(setting: str, trials: Sequence[tuned.Trial], seconds: float, seed: int) -> None:
    """A line a setting, then a line a subject: means with 95% intervals."""
    print(f"\n{setting or 'params.yaml'}, {seconds:.0f} s of the processor")
    for name, own in [("all", trials), *[(trial.subject, [trial]) for trial in trials]]:
        summary = tuned.summarize(own, seed=seed)
        parts = []
        for metric in SHOWN:
            c = summary[metric].comparison
            d = c.difference
            parts.append(
                f"{metric} {c.first.value:.3f} - {c.second.value:.3f} ="
                f" {d.value:.3f} ({d.low:.3f} to {d.high:.3f})"
            )
        print(f"  {name:12} {'; '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare settings of tuning on drawn subjects.")
    parser.add_argument("settings", nargs="*", default=[""], help="key=value key=value, each a run")
    parser.add_argument("--seed", type=int, default=1, help="of subjects, places and training")
    parser.add_argument("--first", type=int, default=0, help="number of the first subject")
    parser.add_argument("--count", type=int, default=4, help="of subjects")
    parser.add_argument("--pictures", type=Path, help="folder for a PNG of each setting")
    asked = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    _step.quiet()
    torch.set_num_threads(1)
    params = load().model_copy(update={"device": "cpu", "seed": asked.seed})
    every = {setting: changed(params, setting) for setting in asked.settings}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(params, Path(folder))
        for number, (setting, own) in enumerate(every.items()):
            start, trials = time.process_time(), []
            for index in range(asked.first, asked.first + asked.count):
                trials.append(bench.trial(index, own))
            show(setting, trials, time.process_time() - start, asked.seed)
            if asked.pictures is not None:
                asked.pictures.mkdir(parents=True, exist_ok=True)
                overview = tuned_page.overview(trials, places=6)
                Image.fromarray(overview).save(asked.pictures / f"setting-{number}.png")


if __name__ == "__main__":
    main()
