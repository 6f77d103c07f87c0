"""Proves BoundID from the bank to the row. Needs the embedded checkpoints and the shipped
thresholds.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from insitu import world
from insitu.params import Params, load
from insitu.records import Image
from insitu.records.engines import BoundId, Candidate, Detections, Pair, Reference
from insitu.synthesis import bank, boundid
from insitu.synthesis.boundid import FILTERS, Filters, Thresholds
from insitu.synthesis.boxes import blank, enlarge
from insitu.synthesis.generators import WorldGenerator, pinned
from insitu.synthesis.lineage import source
from insitu.synthesis.runner import Verdict
from pipelines import detections
from tests.synthesis.some_pairs import BANK, records
from tests.synthesis.toy import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Every stage's rows: the first half is missing an identity, the second is sound."""

    params: Params
    pairs: list[Pair]
    candidates: list[Candidate]
    detections: list[Detections]
    verdicts: list[Verdict[BoundId]]


@pytest.fixture(scope="module")
def chain() -> Chain:
    params = load(REPOSITORY / "params.yaml").model_copy(update={"device": "cpu"})
    size, half = params.candidates.size, 12
    own = bank.WorldBank(identities=40, size=params.pairs.size, seed=3, shares=(0.1, 0.1))
    pairs = list(bank.pairs(own, range(2 * half), seed=3))
    candidates = [
        row
        for rate, part in ((1.0, pairs[:half]), (0.0, pairs[half:]))
        for row in records(
            boundid.Candidates(WorldGenerator(size=size, rates={"missing": rate}, degraded=0.0))(
                part
            )
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)  # where the checkpoints' paths start
        found = records(detections._worker(params)(candidates))
    verdicts = list(filters(params)(list(zip(candidates, found, strict=True))))
    return Chain(
        params=params, pairs=pairs, candidates=candidates, detections=found, verdicts=verdicts
    )


def filters(params: Params) -> Filters:
    own = params.boundid
    return Filters(
        asked=Thresholds(
            detection=own.detection, identity=own.identity, hidden=own.hidden, quality=own.quality
        ),
        growth=own.growth,
        grow=own.grow,
        fill=own.fill,
    )


def test_filter_a_refuses_what_is_missing_and_sound_pictures_pass(chain: Chain) -> None:
    missing, sound = chain.verdicts[:12], chain.verdicts[12:]
    assert all(v.record.faults and v.record.faults[0].kind == "missing" for v in missing)
    # Models err: of what is missing one may be seen all the same, of what is there a few not.
    assert sum(v.filter == FILTERS[0] for v in missing) >= 10
    assert sum(v.filter is None for v in sound) >= 7
    for verdict in missing:
        faults = verdict.record.faults
        if verdict.filter == FILTERS[0] and faults and faults[0].thing is not None:
            other = verdict.record.findings[1 - faults[0].thing]
            assert verdict.record.findings[faults[0].thing].detection <= other.detection


def test_a_row_has_its_boxes_grown_and_blanked(chain: Chain) -> None:
    own = chain.params.boundid
    for verdict in chain.verdicts:
        row = verdict.record
        grown = [b and enlarge(b, own.growth, own.grow) for b in row.found]
        assert list(row.boxes) == grown == [b and enlarge(b, own.growth, own.grow) for b in
                                            (f.box for f in row.findings)]  # fmt: skip
        image, masked = row.image.array(), row.masked.array()
        assert np.array_equal(masked, blank(image, [b for b in row.boxes if b], own.fill))
        if verdict.filter is None:
            assert None not in row.boxes and len(row.boxes) == len(row.references) == 2


def test_a_rows_lineage_names_everything_that_it_was_made_from(chain: Chain) -> None:
    models = chain.params.models
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        names = [
            pinned("detector", models.detector), pinned("dino", models.dino),
            pinned("clip", models.clip),
        ]  # fmt: skip
    rows = zip(chain.pairs, chain.candidates, chain.detections, chain.verdicts, strict=True)
    for pair, candidate, found, verdict in rows:
        lineage = verdict.record.lineage
        assert lineage.sources == (
            source(candidate), source(found), source(pair), *pair.lineage.sources,
        )  # fmt: skip
        assert [name.partition("@")[0] for name in pair.lineage.sources] == [
            reference.identity for reference in pair.references
        ]
        assert list(lineage.models) == [f"world {world.WORLD_VERSION}", *names]


def test_a_source_is_another_when_anything_of_its_row_is(chain: Chain) -> None:
    candidate = chain.candidates[0]
    other = Image.from_array(255 - candidate.image.array())
    first = candidate.references[0]
    changed: list[Candidate] = [
        replace(candidate, prompt=f"{candidate.prompt}."),
        replace(candidate, image=other),
        replace(candidate, faults=None),
        replace(candidate, references=(replace(first, other=other), candidate.references[1])),
        replace(candidate, references=candidate.references[::-1]),
    ]
    assert len({source(row) for row in (candidate, *changed)}) == len(changed) + 1
    assert source(candidate) == source(replace(candidate))
    assert source(candidate).startswith(f"{candidate.id}@")


def test_batches_of_other_sizes_find_the_same(chain: Chain) -> None:
    params = chain.params
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        alone = records(detections._worker(params)(chain.candidates[-1:]))
    together, single = chain.detections[-1], alone[0]
    assert single.quality == pytest.approx(together.quality, abs=2e-3)
    for a, b in zip(single.findings, together.findings, strict=True):
        assert (a.detection, a.similarity) == pytest.approx((b.detection, b.similarity), abs=2e-3)


def test_references_are_what_the_bank_says_they_are() -> None:
    reference: Reference = BANK.reference(3)
    again = bank.subject_of(reference.identity)
    assert reference.category == again.category
    assert reference.description == world.describe(again, detail="pattern")
