"""Batches as a function of the step alone, so that an interrupted run continues exactly.

Whatever is random about a sample (how its mask grows, its noise, its timestep, whether its prompt
is dropped) comes from the stream of (seed, sample, step): it depends neither on what was drawn
before nor on which process draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insitu.backbones.zoom import Window, box_mask
from insitu.errors import UserError
from insitu.methods import Batch, Image
from insitu.randomness import rng_for

Box = tuple[float, float, float, float]
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where validation looks: shares of the way from picture to noise."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture of the base's size, the box of what it shows, and its prompt."""

    id: str
    image: Image
    box_xyxy01: Box
    prompt: str
    regular: bool = False


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A batch with its noise [B, C, h, w] and times [B] in [0, 1)."""

    batch: Batch
    noise: Tensor
    t: Tensor

    def to(self, device: torch.device) -> "Draw":
        """The same with noise and times on a device; pictures go there when they are encoded."""
        return Draw(batch=self.batch, noise=self.noise.to(device), t=self.t.to(device))


class SubjectData:
    """Samples of one subject, with regularization images mixed in.

    Args:
        samples: of the subject and regular ones.
        batch: samples a step; about `regular_share` of them regular, at least one of the subject.
        drop: share of prompts replaced by the empty one, as guidance asks for; 0 to 1.
        grow: how much longer a mask's sides become at most than the box's, as a share.
        latent_shape: [C, h, w].
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        batch: int,
        regular_share: float,
        drop: float,
        grow: float,
        latent_shape: tuple[int, int, int],
        seed: int,
    ) -> None:
        self.subject = [sample for sample in samples if not sample.regular]
        self.regular = [sample for sample in samples if sample.regular]
        if not self.subject:
            raise UserError(
                f"{len(samples)} samples were given to tune on.",
                "None of them is of the subject.",
                "Give at least one photo of the subject.",
            )
        self.batch, self.regular_share, self.drop, self.grow = batch, regular_share, drop, grow
        self.latent_shape, self.seed = latent_shape, seed

    def draw(self, step: int) -> Draw:
        """The training batch of a step."""
        rng = rng_for("batch", self.seed, step)
        chosen = []
        for slot in range(self.batch):
            # The first is always of the subject: every step teaches something about it.
            regular = slot > 0 and bool(self.regular) and rng.random() < self.regular_share
            pool = self.regular if regular else self.subject
            chosen.append(pool[int(rng.integers(len(pool)))])
        streams = [
            rng_for("sample", self.seed, sample.id, slot, step)
            for slot, sample in enumerate(chosen)
        ]
        return self._draw(chosen, streams, [None] * len(chosen))

    def validation(self) -> list[Draw]:
        """Every photo of the subject at fixed times with fixed noise, a draw for each time."""
        return [
            self._draw(
                self.subject,
                [rng_for("validation", self.seed, sample.id, str(t)) for sample in self.subject],
                [t] * len(self.subject),
            )
            for t in TIMES
        ]

    def _draw(
        self,
        samples: Sequence[Sample],
        streams: Sequence[np.random.Generator],
        times: Sequence[float | None],
    ) -> Draw:
        masks, noise, t, prompts = [], [], [], []
        for sample, rng, time in zip(samples, streams, times, strict=True):
            masks.append(box_mask(_grown(sample.box_xyxy01, self.grow, rng), sample.image))
            t.append(rng.random() if time is None else time)
            noise.append(rng.standard_normal(self.latent_shape, np.float32))
            dropped = time is None and rng.random() < self.drop
            prompts.append("" if dropped else sample.prompt)
        batch = Batch(
            images=np.stack([sample.image for sample in samples]),
            masks=np.stack(masks),
            prompts=tuple(prompts),
            regular=np.array([sample.regular for sample in samples]),
        )
        return Draw(
            batch=batch,
            noise=torch.from_numpy(np.stack(noise)),
            t=torch.tensor(t, dtype=torch.float32),
        )


def to_sample(
    id: str,
    image: Image,
    box_xyxy01: Box,
    prompt: str,
    *,
    size: int,
    context: float,
    regular: bool = False,
) -> Sample:
    """Cut the square around a box out of a photo, as painting does, at `size` x `size` pixels."""
    window = Window.around(box_xyxy01, image, context=context)
    height, width = image.shape[:2]
    corners = np.array(box_xyxy01) * (width, height, width, height)
    inside = (corners - np.array([window.left, window.top] * 2)) / window.side
    x0, y0, x1, y1 = (float(v) for v in np.clip(inside, 0, 1))
    return Sample(
        id=id, image=window.cut(image, size), box_xyxy01=(x0, y0, x1, y1), prompt=prompt,
        regular=regular,
    )  # fmt: skip


def _grown(box: Box, most: float, rng: np.random.Generator) -> Box:
    """Each edge moved out by its own share, up to half of `most`, within the picture."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = rng.uniform(0, most / 2, 4)
    wide, high = x1 - x0, y1 - y0
    return (
        max(0.0, x0 - left * wide),
        max(0.0, y0 - top * high),
        min(1.0, x1 + right * wide),
        min(1.0, y1 + bottom * high),
    )
