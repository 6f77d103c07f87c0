"""Stage `faces`: the reference bank of AnyPhoto, several faces of each identity.

Run from the repository's root: `python -m pipelines.faces`.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial

from insitu.params import Params
from insitu.records.engines import BankFace
from insitu.synthesis import groups
from insitu.synthesis.people import Portrait, WorldPeople
from pipelines import _engines, _models, _step
from pipelines._paths import FACES


def main(params: Params, report: _step.Report) -> None:
    own = params.groups
    cut = _engines.numbers(own.identities * own.references, params.runner.shard)
    facts = own.model_dump(include={"identities", "references", "size"})
    manifest = _engines.make(
        params,
        FACES,
        BankFace,
        worker=_worker,
        rows=partial(_rows, params, cut),
        shards=len(cut),
        settings=_models.pins(params, params.models.face, params.models.detector) | facts,
        finish=_engines.card(
            FACES,
            BankFace,
            title="Face bank",
            text="Reference faces of each identity, with landmarks and embedding (AnyPhoto).",
            filters=groups.BANK_FILTERS,
            settings={"groups": facts} | _engines.seeing(params),
        ),
    )
    print(f"{manifest.rows} faces of {own.identities} people, {manifest.rejected_rows} refused")
    report(_engines.counts(manifest))


def people(params: Params) -> WorldPeople:
    """The world's people."""
    own = params.groups
    return WorldPeople(
        identities=own.identities,
        size=own.size,
        seed=params.seed,
        misnamed=own.misnamed,
        shares=(params.pairs.validation, params.pairs.test),
    )


def _rows(params: Params, cut: Sequence[range], index: int) -> Iterator[Portrait]:
    crowd = people(params)
    for number in cut[index]:
        person, view = divmod(number, params.groups.references)
        name = crowd.name(person)
        yield Portrait(
            id=f"{name}/{view}",
            identity=name,
            image=crowd.reference(person, view),
            source=f"{name}, view {view}",
            split=crowd.split(person),
        )


def _worker(params: Params) -> groups.Bank:
    return groups.Bank(_models.faces(params))


if __name__ == "__main__":
    sys.exit(_step.run(main))
