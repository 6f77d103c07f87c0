"""Batches with their noise and times, as a function of the step and the rank alone.

Whatever is random about an example (noise, time, which conditions are dropped) comes from the
stream of (seed, example, slot, step): it depends neither on what was drawn before nor on which
process draws it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from insitu.errors import UserError
from insitu.methods import VALIDATION, Told
from insitu.randomness import rng_for
from insitu.training.encoding import Encoded
from insitu.training.order import Order
from insitu.training.times import Times

BANDS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where validation looks: times, 1 = noise."""
TEXT = "text"
CHANCES = 16
"""Numbers in 0..1 that a method's loss has for each example and step, for chances of its own."""


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """What one process works on at once.

    Attributes:
        told: by name, [b, ...].
        noise: as large as `told["z_0"]`.
        t: [b] in [0, 1), 1 = noise.
        ids: of the examples.
        counts: false for what only keeps a process at work while others have something to do.
    """

    told: Told
    noise: Tensor
    t: Tensor
    ids: tuple[str, ...]
    counts: bool = True

    def to(self, device: torch.device) -> "Minibatch":
        return Minibatch(
            told={name: value.to(device, non_blocking=True) for name, value in self.told.items()},
            noise=self.noise.to(device, non_blocking=True),
            t=self.t.to(device),
            ids=self.ids,
            counts=self.counts,
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of each batch a process has: rank r of R, in `accumulate` turns."""

    rank: int = 0
    ranks: int = 1
    accumulate: int = 1

    def slots(self, batch: int, turn: int) -> range:
        """The slots of a turn. Raises UserError where a batch cannot be shared out evenly."""
        parts = self.ranks * self.accumulate
        if batch % parts:
            raise UserError(
                f"A batch of {batch} was to be worked on by {self.ranks} processes in"
                f" {self.accumulate} turns.",
                f"{batch} is no multiple of {parts}; uneven parts would weigh examples unevenly.",
                f"Make the batch a multiple of {parts}, or use fewer devices or turns.",
            )
        size = batch // parts
        first = (turn * self.ranks + self.rank) * size
        return range(first, first + size)


class Minibatches(Dataset[Minibatch]):
    """Item i is turn `i % accumulate` of step `i // accumulate`.

    Args:
        drop: probability of each condition's being withheld, by name; `text` becomes the empty
            prompt, of others `told["dropped.<name>"]` tells.
    """

    def __init__(
        self,
        encoded: Encoded,
        order: Order,
        *,
        times: Times,
        drop: Mapping[str, float],
        seed: int,
        share: Share,
    ) -> None:
        share.slots(order.batch_size, 0)
        self.encoded, self.order, self.times = encoded, order, times
        self.drop, self.seed, self.share = dict(drop), seed, share

    def __len__(self) -> int:
        return self.order.steps * self.share.accumulate

    def __getitem__(self, index: int) -> Minibatch:
        step, turn = divmod(index, self.share.accumulate)
        slots = self.share.slots(self.order.batch_size, turn)
        rows = self.order.batch(step)[slots.start : slots.stop]
        streams = [
            rng_for("example", self.seed, self.encoded.ids[row], slot, step)
            for row, slot in zip(rows, slots, strict=True)
        ]
        _, height, width = self.encoded.latent_shape(rows[0])
        tokens = height * width // 4  # packed 2 x 2
        t = [self.times.draw(rng, tokens=tokens) for rng in streams]
        noise = noise_of(self.encoded, rows, streams)
        # Last, so that what is dropped changes nothing else.
        dropped = {
            name: [rng.random() < probability for rng in streams]
            for name, probability in self.drop.items()
        }
        return assemble(
            self.encoded, rows, noise, t, dropped, streams, progress=step / self.order.steps
        )


class Validation(Dataset[Minibatch]):
    """Examples of the pool `validation` at fixed times with fixed noise, nothing dropped.

    One item is up to `size` examples of one bucket at one time. Rank r of R has every R-th item;
    all have equally many, since they may have to work together: what is too many does not count.
    """

    def __init__(self, encoded: Encoded, *, size: int, seed: int, share: Share) -> None:
        self.encoded, self.seed, self.share = encoded, seed, share
        by_bucket: dict[str, list[int]] = {}
        for row, pool in enumerate(encoded.pools):
            if pool == VALIDATION:
                by_bucket.setdefault(encoded.buckets[row], []).append(row)
        self.parts = [
            (rows[start : start + size], t)
            for t in BANDS
            for rows in by_bucket.values()
            for start in range(0, len(rows), size)
        ]

    def __len__(self) -> int:
        return math.ceil(len(self.parts) / self.share.ranks)

    def __getitem__(self, index: int) -> Minibatch:
        number = index * self.share.ranks + self.share.rank
        rows, t = self.parts[number % len(self.parts)]
        streams = [rng_for("validation", self.seed, self.encoded.ids[row], str(t)) for row in rows]
        noise = noise_of(self.encoded, rows, streams)
        batch = assemble(self.encoded, rows, noise, [t] * len(rows), {}, streams, progress=1.0)
        return replace(batch, counts=number < len(self.parts))


class From(Sampler[int]):
    """The items from a step on, which is asked for when the iteration begins."""

    def __init__(self, step: Callable[[], int], items: int, accumulate: int) -> None:
        self.step, self.items, self.accumulate = step, items, accumulate

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.step() * self.accumulate, self.items))

    def __len__(self) -> int:
        return self.items - self.step() * self.accumulate


def noise_of(
    encoded: Encoded, rows: Sequence[int], streams: Sequence[np.random.Generator]
) -> Tensor:
    """Gaussian noise [B, C, h, w], each from its own stream."""
    shapes = [encoded.latent_shape(row) for row in rows]
    drawn = [
        rng.standard_normal(shape, np.float32) for rng, shape in zip(streams, shapes, strict=True)
    ]
    return torch.from_numpy(np.stack(drawn))


def assemble(
    encoded: Encoded,
    rows: Sequence[int],
    noise: Tensor,
    t: Sequence[float],
    dropped: Mapping[str, Sequence[bool]],
    streams: Sequence[np.random.Generator],
    *,
    progress: float,
) -> Minibatch:
    """Examples of one size as one process works on them."""
    told = encoded.told(rows)
    without = dropped.get(TEXT, [False] * len(rows))
    prompts = [
        "" if gone else encoded.prompts[row] for row, gone in zip(rows, without, strict=True)
    ]
    told |= {f"{TEXT}.{name}": value for name, value in encoded.text(prompts).items()}
    told |= {
        f"dropped.{name}": torch.tensor(values) for name, values in dropped.items() if name != TEXT
    }
    chances = [rng.random(CHANCES, np.float32) for rng in streams]
    told |= {
        "chances": torch.from_numpy(np.stack(chances)),
        "progress": torch.full((len(rows),), progress),
    }
    return Minibatch(
        told=told,
        noise=noise,
        t=torch.tensor(t, dtype=torch.float32),
        ids=tuple(encoded.ids[row] for row in rows),
    )
