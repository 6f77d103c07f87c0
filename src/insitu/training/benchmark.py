"""How like its subject an adapter paints while it is trained: DINO and CLIP-I, as evaluated later.

The models are held on the CPU. A GPU's memory is planned without them, and a few pictures take
seconds.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image as Pillow

from insitu.backbones.loading import load_pretrained
from insitu.evaluation.metrics import Case, Entity, Metric, Photo
from insitu.evaluation.metrics.regions import RegionLikeness, Regions
from insitu.files import replace_text
from insitu.methods import Image, Request
from insitu.params import Checkpoint
from insitu.perception.clip import ClipScorer
from insitu.perception.dino import IdentityEncoder

FACTS = "benchmark.json"


class Benchmark:
    """Scores painted requests against photos of the subject.

    Args:
        references: photos of the subject, with the boxes that it is in.
        checkpoints: path and revision of `clip` and `dino`; loaded at the first scoring, once for
            all subjects of a process.
    """

    def __init__(
        self, references: Sequence[Photo], checkpoints: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.references, self.checkpoints = tuple(references), checkpoints

    def __call__(self, requests: Sequence[Request], painted: Sequence[Image]) -> dict[str, float]:
        """By metric, the mean over the requests of their boxes' cosine with each photo, -1..1."""
        cases = [
            Case(
                image=picture,
                entities=tuple(
                    Entity(box_xyxy01=placement.box_xyxy01, references=self.references)
                    for placement in request.placements
                ),
                source=request.image,
            )
            for request, picture in zip(requests, painted, strict=True)
        ]
        metrics = [_dino(**self.checkpoints["dino"]), _clip_i(**self.checkpoints["clip"])]
        return {metric.scale.name: float(metric(cases).values.mean()) for metric in metrics}

    def save(self, folder: Path) -> None:
        """Write what other processes need to score alike."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, photo in enumerate(self.references):
            Pillow.fromarray(photo.image).save(folder / f"{index}.png")
        boxes = [photo.box_xyxy01 for photo in self.references]
        told = {"checkpoints": self.checkpoints, "boxes_xyxy01": boxes}
        replace_text(folder / FACTS, json.dumps(told, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it back."""
        told = json.loads((folder / FACTS).read_text())
        photos = [
            Photo(
                image=np.asarray(Pillow.open(folder / f"{index}.png").convert("RGB")),
                box_xyxy01=tuple(box),
            )
            for index, box in enumerate(told["boxes_xyxy01"])
        ]
        return cls(photos, told["checkpoints"])


@functools.lru_cache(maxsize=1)
def _dino(path: str, revision: str | None = None) -> Metric:
    checkpoint = Checkpoint(path=path, revision=revision)
    dino = load_pretrained(IdentityEncoder, checkpoint, device="cpu")
    return RegionLikeness("dino", Regions(dino, size=dino.model.config.image_size))


@functools.lru_cache(maxsize=1)
def _clip_i(path: str, revision: str | None = None) -> Metric:
    checkpoint = Checkpoint(path=path, revision=revision)
    clip = load_pretrained(ClipScorer, checkpoint, device="cpu")
    return RegionLikeness("clip_i", Regions(clip, size=clip.model.config.vision_config.image_size))
