"""Stage `candidates`: the picture that a generator makes of each pair.

Run from the repository's root: `python -m pipelines.candidates`.
"""

import sys
from functools import partial

from insitu.params import Params
from insitu.records.engines import Candidate, Pair
from insitu.synthesis import boundid
from insitu.synthesis.generators import PairGenerator, WorldGenerator, pinned
from pipelines import _engines, _step
from pipelines._paths import CANDIDATES, PAIRS


def main(params: Params, report: _step.Report) -> None:
    settings = params.candidates
    drawn_by = {} if settings.generator == "world" else {"by": pinned("flux", params.models.flux)}
    manifest = _engines.make(
        params,
        CANDIDATES,
        Candidate,
        worker=_worker,
        rows=partial(_engines.rows_of, PAIRS, Pair),
        shards=_engines.shards_of(PAIRS),
        settings=settings.model_dump() | drawn_by,
        inputs=[PAIRS],
    )
    print(f"{manifest.rows} candidates, {len(manifest.set_aside)} set aside")
    report(_engines.counts(manifest))


def _worker(params: Params) -> boundid.Candidates:
    settings = params.candidates
    generator: PairGenerator
    if settings.generator == "world":
        generator = WorldGenerator(
            size=settings.size,
            rates=settings.faults.rates(),
            degraded=settings.faults.degraded,
        )
    else:
        from pipelines import _models

        generator = _models.flux(params, settings.size, settings.flux)
    return boundid.Candidates(generator)


if __name__ == "__main__":
    sys.exit(_step.run(main))
