"""Stage `pairs`: distinct identities of the subject bank, two to a picture, with a prompt.

Run from the repository's root: `python -m pipelines.pairs`.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial

from insitu.params import Params
from insitu.records.engines import Pair
from insitu.synthesis import bank
from insitu.synthesis.runner import Verdict
from pipelines import _engines, _step
from pipelines._paths import IMAGES, PAIRS


def main(params: Params, report: _step.Report) -> None:
    settings = params.pairs
    cut = _engines.numbers(settings.count, params.runner.shard)
    manifest = _engines.make(
        params,
        PAIRS,
        Pair,
        worker=_Pairs,
        rows=partial(_numbers, cut),
        name=str,
        shards=len(cut),
        settings=settings.model_dump(),
        inputs=[IMAGES] if settings.bank == "pictures" else [],
    )
    print(f"{manifest.rows} pairs")
    report(_engines.counts(manifest))


class _Pairs:
    """Draws pairs by their numbers."""

    def __init__(self, params: Params) -> None:
        own = params.pairs
        self._seed = params.seed
        self._bank: bank.Bank = (
            bank.picture_bank(IMAGES)
            if own.bank == "pictures"
            else bank.WorldBank(
                identities=own.identities,
                size=own.size,
                seed=params.seed,
                shares=(own.validation, own.test),
            )
        )

    def __call__(self, numbers: Sequence[int]) -> Iterator[Verdict[Pair]]:
        for pair in bank.pairs(self._bank, numbers, seed=self._seed):
            yield Verdict(record=pair)


def _numbers(cut: Sequence[range], index: int) -> range:
    return cut[index]


if __name__ == "__main__":
    sys.exit(_step.run(main))
