"""Stage `subjects`: photos of every subject, your own and drawn ones, a folder of records each.

Run from the repository's root: `python -m pipelines.subjects`.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from insitu.errors import UserError
from insitu.files import replacing
from insitu.params import Params
from insitu.records import ShardWriter
from insitu.records.subjects import SubjectPhoto
from insitu.synthesis import subjects
from pipelines import _step
from pipelines._paths import SUBJECTS


def main(params: Params, report: _step.Report) -> None:
    """Check and read every photo before the first record is written."""
    settings = params.subjects
    found = _own(params)
    for index in range(settings.drawn):
        found.append(
            list(
                subjects.drawn(index, photos=settings.photos, size=settings.size, seed=params.seed)
            )
        )
    if not found:
        raise UserError(
            f"`subjects.drawn` is 0 and {settings.folder} holds no folder.",
            "There is no subject to tune on.",
            f"Put a folder of photos into {settings.folder}, or set `subjects.drawn`.",
        )
    _refuse_twins(found)
    with replacing(SUBJECTS) as fresh:
        for photos in found:
            _write(photos, fresh / photos[0].subject)
            print(f"{photos[0].subject}: {len(photos)} photos of {photos[0].description}")
    report({"subjects": len(found), "photos": sum(map(len, found))})


def _own(params: Params) -> list[list[SubjectPhoto]]:
    folders = subjects.folders(Path(params.subjects.folder))
    if not folders:
        return []
    _step.quiet()
    from insitu.backbones.loading import choose_device, load_pretrained
    from insitu.perception.clip import ClipScorer
    from insitu.perception.detector import ZeroShotDetector
    from insitu.synthesis import tagging

    device = choose_device(params.device)
    clip = load_pretrained(ClipScorer, params.models.clip, device=device)
    detector = load_pretrained(ZeroShotDetector, params.models.detector, device=device)
    words = params.subjects.attributes.model_dump()

    def find(image: subjects.Pixels, query: str) -> tuple[float, float, float, float] | None:
        best = detector.detect([image], [query], threshold=params.subjects.detection_threshold)[0]
        return best[0].box_xyxy01 if best else None

    def describe(crops: list[subjects.Pixels], class_word: str) -> str:
        return tagging.describe(tagging.tag(clip, crops, class_word, words), class_word)

    return [subjects.own(folder, find=find, describe=describe) for folder in folders]


def _refuse_twins(found: Sequence[Sequence[SubjectPhoto]]) -> None:
    names = [photos[0].subject for photos in found]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise UserError(
            f"Two subjects are called {twins[0]}.",
            "A drawn subject has the name of one of your folders.",
            "Rename your folder.",
        )


def _write(photos: Sequence[SubjectPhoto], folder: Path) -> None:
    total = hashlib.sha256()
    for photo in photos:
        total.update(repr((photo.id, photo.box, photo.description)).encode() + photo.image.data)
    writer = ShardWriter(folder, SubjectPhoto, total.hexdigest())
    with writer.shard(0) as shard:
        for photo in photos:
            shard.keep(photo)
    writer.finish(1)


if __name__ == "__main__":
    sys.exit(_step.run(main))
