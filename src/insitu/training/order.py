"""Which examples make up the batch of a step, as a function of the step alone.

Nothing is carried from step to step, so a run continues exactly wherever it stopped, and on any
number of processes: rank r of R takes its own slots of the same batch.
"""

import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.randomness import rng_for

Indices = NDArray[np.int64]


class Order:
    """Batches of one size of picture each, from pools at given shares, every epoch shuffled anew.

    A batch has one bucket, drawn at its share of the first pool. Within a bucket the pools take
    turns so that after n slots each has had its share of n, rounded; a pool's examples all come
    once before any comes twice.

    Args:
        pools, buckets: of each example; a pool without a share is left out.
        shares: of a batch by pool; the first one, whose is above 0, gets what others lack.
        batch: examples a step, over all processes.
        blocks: files that examples lie in; a shuffle stays within `window` files, so that few are
            open at a time. None = all in one.
    """

    def __init__(
        self,
        pools: Sequence[str],
        buckets: Sequence[str],
        *,
        shares: Mapping[str, float],
        batch: int,
        steps: int,
        seed: int,
        blocks: Sequence[int] | None = None,
        window: int = 4,
    ) -> None:
        self.batch_size, self.steps, self.seed, self.window = batch, steps, seed, window
        shares = {pool: share for pool, share in shares.items() if share > 0}
        self._blocks = np.zeros(len(pools), np.int64) if blocks is None else np.array(blocks)
        self._members: dict[tuple[str, str], Indices] = {}
        for pool in shares:
            for bucket in sorted(set(buckets)):
                where = [p == pool and b == bucket for p, b in zip(pools, buckets, strict=True)]
                if any(where):
                    self._members[bucket, pool] = np.flatnonzero(where)
        main = next(iter(shares))
        sizes = {b: len(rows) for (b, p), rows in self._members.items() if p == main}
        if not sizes:
            raise UserError(
                f"{len(pools)} examples were given to learn from.",
                f"None of them is of the pool {main!r}, which every batch draws from.",
                "Give at least one; for a subject that is a photo of it.",
            )
        self._main_size = sum(sizes.values())
        self._shares = {
            bucket: [
                (pool, Fraction(share).limit_denominator(10_000))
                for pool, share in shares.items()
                if (bucket, pool) in self._members
            ]
            for bucket in sizes
        }
        names = list(sizes)
        weights = np.array(list(sizes.values())) / self._main_size
        drawn = rng_for("bucket", seed).choice(len(names), steps, p=weights)
        self._bucket = [names[index] for index in drawn]
        seen = (drawn[:, None] == np.arange(len(names))).cumsum(0)
        self._earlier = seen[np.arange(steps), drawn] - 1
        self._shuffled = functools.lru_cache(maxsize=16)(self._shuffle)

    def batch(self, step: int) -> list[int]:
        """The examples of a step, their numbers, in slots 0 to `batch_size` - 1."""
        bucket = self._bucket[step]
        first = int(self._earlier[step]) * self.batch_size
        return [self._at(bucket, first + slot) for slot in range(self.batch_size)]

    def epoch(self, step: int) -> float:
        """How often the first pool has been gone through before a step, at its share."""
        shares = self._shares[self._bucket[min(step, self.steps - 1)]]
        share = shares[0][1] / sum(part for _, part in shares)
        return float(step * self.batch_size * share / self._main_size)

    def _at(self, bucket: str, slot: int) -> int:
        pool, turn = _turn(slot, self._shares[bucket])
        epoch, place = divmod(turn, len(self._members[bucket, pool]))
        return int(self._shuffled(bucket, pool, epoch)[place])

    def _shuffle(self, bucket: str, pool: str, epoch: int) -> Indices:
        """An epoch's order: files shuffled, then the examples of each few files together."""
        rng = rng_for("order", self.seed, bucket, pool, epoch)
        members = self._members[bucket, pool]
        blocks = self._blocks[members]
        files = rng.permutation(np.unique(blocks))
        parts = [files[k : k + self.window] for k in range(0, len(files), self.window)]
        return np.concatenate([rng.permutation(members[np.isin(blocks, part)]) for part in parts])


def _turn(slot: int, shares: Sequence[tuple[str, Fraction]]) -> tuple[str, int]:
    """The pool whose turn a slot is, and how many turns it has had before.

    After n slots the first pool has had n minus floor(n r), r = what the others ask for together;
    their floor(n r) slots are dealt among them in the same way.
    """
    (pool, share), *others = shares
    if not others:
        return pool, slot
    rest = sum((part for _, part in others), Fraction(0))
    ratio = rest / (share + rest)
    before, after = int(slot * ratio), int((slot + 1) * ratio)
    return _turn(before, others) if after > before else (pool, slot - before)
