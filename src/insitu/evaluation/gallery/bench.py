"""What all sections share: the settings, the device, random streams, and the judging models."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from insitu import world
from insitu.backbones.loading import choose_device, load_pretrained
from insitu.errors import UserError
from insitu.evaluation.checkpoints.judging import Judges
from insitu.params import Checkpoint, Gallery, Models, Params, float16_on_cpu
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings with the device and number format they come to on this machine."""

    params: Params
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def prepare(cls, params: Params) -> Self:
        """Check all that can be checked without loading a model.

        Raises:
            UserError: a checkpoint's folder is missing, or the device or number format is not to
                be had here.
        """
        for name in Models.model_fields:
            _check_there(name, getattr(params.models, name))
        device = choose_device(params.device)
        if params.dtype == "float16" and device.type == "cpu":
            raise float16_on_cpu("float16 is asked for, and `device: auto` finds no CUDA device.")
        return cls(params=params, device=device, dtype=getattr(torch, params.dtype))

    @property
    def models(self) -> Models:
        return self.params.models

    @property
    def settings(self) -> Gallery:
        return self.params.gallery

    def rng(self, *key: int | str) -> np.random.Generator:
        """A stream of held-out cases that belongs to the page, the settings' seed and `key`."""
        return world.rng_for("held-out", "gallery", self.params.seed, *key)

    def seed(self, *key: int | str) -> int:
        """A seed for what draws its own streams, in 0..2^31 - 1."""
        return int(self.rng(*key).integers(2**31))

    def load(self, model_class: Any, checkpoint: Checkpoint, **options: Any) -> Any:
        """`model_class.from_pretrained` of a checkpoint, for analysis models with a device."""
        return load_pretrained(
            model_class, checkpoint, device=self.device, dtype=self.dtype, **options
        )

    def load_diffusers(self, model_class: Any, checkpoint: Checkpoint, **options: Any) -> Any:
        """The same for diffusers' pipelines and models."""
        return load_pretrained(model_class, checkpoint, dtype=self.dtype, **options).to(self.device)

    @cached_property
    def clip(self) -> ClipScorer:
        scorer: ClipScorer = self.load(ClipScorer, self.models.clip)
        return scorer

    @cached_property
    def detector(self) -> ZeroShotDetector:
        detector: ZeroShotDetector = self.load(ZeroShotDetector, self.models.detector)
        return detector

    @property
    def judges(self) -> Judges:
        """The two models that say what a painted picture shows."""
        return Judges(clip=self.clip, detector=self.detector)


def _check_there(name: str, checkpoint: Checkpoint) -> None:
    if not checkpoint.is_hub_id and not Path(checkpoint.path).is_dir():
        raise UserError(
            f"`models.{name}` is the folder {checkpoint.path}.",
            "There is no such folder, and the page shows every checkpoint.",
            "Correct the path, or build the checkpoint (make nano).",
        )
