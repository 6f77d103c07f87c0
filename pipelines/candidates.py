"""Stage `candidates`: the picture that a generator makes of each pair.

Run from the repository's root: `python -m pipelines.candidates`.
"""

import importlib
import sys
from functools import partial
from typing import Any

from insitu.params import Params
from insitu.records.engines import Candidate, Pair
from insitu.synthesis import boundid
from insitu.synthesis.generators import PairGenerator, WorldGenerator, pinned
from pipelines import _engines, _step
from pipelines._paths import CANDIDATES, PAIRS


def main(params: Params, report: _step.Report) -> None:
    settings = params.candidates
    drawn_by = _drawn_by(params)
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


def _drawn_by(params: Params) -> dict[str, str]:
    """What pins the generator, where the settings alone do not."""
    kind = params.candidates.generator
    if kind == "world":
        return {}
    if kind == "flux":
        return {"by": pinned("flux", params.models.flux)}
    return {"by": _uno().name(params)}


def _uno() -> Any:
    """By name: the stage runs its code, and depends on it, only where UNO draws."""
    return importlib.import_module("pipelines._uno")


def _worker(params: Params) -> boundid.Candidates:
    settings = params.candidates
    generator: PairGenerator
    if settings.generator == "world":
        generator = WorldGenerator(
            size=settings.size,
            rates=settings.faults.rates(),
            degraded=settings.faults.degraded,
        )
    elif settings.generator == "uno":
        generator = _uno().UnoGenerator(params)
    else:
        from pipelines import _models

        generator = _models.flux(params, settings.size, settings.flux)
    return boundid.Candidates(generator)


if __name__ == "__main__":
    sys.exit(_step.run(main))
