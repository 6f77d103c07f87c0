"""Proves BoundID from the bank to the row: boxes, places, filters, lineage, and the faults that are
planted so that filters can be measured.

Boxes are proved against pixels that are counted, places against every choice; the whole chain needs
the embedded checkpoints and the shipped thresholds.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu import world
from insitu.errors import UserError
from insitu.params import Params, load
from insitu.perception.detector import Detection
from insitu.randomness import rng_for
from insitu.records import Box, Image
from insitu.records.engines import BoundId, Candidate, Detections, Finding, Lineage, Pair, Reference
from insitu.records.pictures import Picture
from insitu.synthesis import bank, boundid
from insitu.synthesis.boundid import FILTERS, Filters, Thresholds, _Place, assign, refuse
from insitu.synthesis.boxes import blank, covered, enlarge, overlap
from insitu.synthesis.generators import WorldGenerator, background_of, pinned
from insitu.synthesis.lineage import source
from insitu.synthesis.runner import Verdict
from pipelines import detections
from tests.synthesis.test_runner import REPOSITORY

Corners = tuple[float, float, float, float]
GRID = 24
NOTHING = Lineage(sources=(), models=())


def spans(step: float = 0.0) -> st.SearchStrategy[tuple[float, float]]:
    """Two ends in 0..1, in their order and apart."""
    ends = st.floats(0, 1) if not step else st.integers(0, GRID).map(lambda n: n * step)
    return st.tuples(ends, ends).map(sorted).map(tuple).filter(lambda s: s[1] - s[0] > 1e-3)


boxes = st.builds(lambda x, y: Box(x0=x[0], y0=y[0], x1=x[1], y1=y[1]), spans(), spans())
on_grid: st.SearchStrategy[Corners] = st.builds(
    lambda x, y: (x[0], y[0], x[1], y[1]), spans(1 / GRID), spans(1 / GRID)
)
growths = st.floats(0, 3)
ways = st.sampled_from(["side", "edge"])


@given(boxes, growths, growths, ways)
def test_a_grown_box_holds_the_box_and_every_less_grown_one_inside_the_picture(
    box: Box, growth: float, other: float, grow: Literal["side", "edge"]
) -> None:
    less, more = (enlarge(box, g, grow) for g in sorted((growth, other)))
    for inner, outer in ((box, less), (less, more)):
        assert 0 <= outer.x0 <= inner.x0 < inner.x1 <= outer.x1 <= 1
        assert 0 <= outer.y0 <= inner.y0 < inner.y1 <= outer.y1 <= 1


@given(boxes, growths)
def test_side_and_edge_grow_as_they_say(box: Box, growth: float) -> None:
    wide, high = box.x1 - box.x0, box.y1 - box.y0
    by_side, by_edge = enlarge(box, growth, "side"), enlarge(box, growth, "edge")
    for grown, times in ((by_side, 1 + growth), (by_edge, 1 + 2 * growth)):
        if grown.x0 > 0 and grown.x1 < 1:
            assert grown.x1 - grown.x0 == pytest.approx(wide * times)
            assert grown.x0 + grown.x1 == pytest.approx(box.x0 + box.x1)
        if grown.y0 > 0 and grown.y1 < 1:
            assert grown.y1 - grown.y0 == pytest.approx(high * times)
    twice = enlarge(box, 2 * growth, "side")
    assert twice.xyxy01 == pytest.approx(by_edge.xyxy01)


@given(st.lists(boxes, max_size=3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_blanked_are_the_pixels_that_a_box_touches_and_no_other(
    own: list[Box], height: int, width: int, fill: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    masked = blank(image, own, fill)
    assert np.array_equal(image, before)
    for row, column in itertools.product(range(height), range(width)):
        # By how much the pixel's square and a box share, across and down, in pixels.
        shared = [
            min(
                min(column + 1, b.x1 * width) - max(column, b.x0 * width),
                min(row + 1, b.y1 * height) - max(row, b.y0 * height),
            )
            for b in own
        ]
        if max(shared, default=-1.0) > 1e-9:
            assert (masked[row, column] == fill).all()
        elif max(shared, default=-1.0) < -1e-9:
            assert (masked[row, column] == image[row, column]).all()


def cells(box: Corners) -> np.ndarray:
    """The squares of the grid that a box covers, bool [GRID, GRID]."""
    x0, y0, x1, y1 = (round(v * GRID) for v in box)
    found = np.zeros((GRID, GRID), bool)
    found[y0:y1, x0:x1] = True
    return found


@given(on_grid, st.lists(on_grid, max_size=3))
def test_overlap_and_covered_are_what_counting_squares_tells(
    box: Corners, others: list[Corners]
) -> None:
    own = cells(box)
    shares = [(own & cells(other)).sum() / own.sum() for other in others]
    assert covered(box, others) == pytest.approx(max(shares, default=0.0), abs=1e-9)
    for other in others:
        wanted = (own & cells(other)).sum() / (own | cells(other)).sum()
        assert overlap(box, other) == pytest.approx(wanted, abs=1e-9)
        assert overlap(other, box) == overlap(box, other)
    assert overlap(box, box) == pytest.approx(1)


places = st.builds(
    lambda score, similarity, box: _Place(
        Detection(query="a mug", score=score, box_xyxy01=box), similarity
    ),
    st.floats(0.02, 1),
    st.floats(-1, 1),
    on_grid,
)


def value(choice: Sequence[_Place | None]) -> float:
    return sum(p.detection.score * (1 + p.similarity) for p in choice if p is not None)


def shared(choice: Sequence[_Place | None]) -> bool:
    taken = [cells(p.detection.box_xyxy01) for p in choice if p is not None]
    return any(
        (a & b).sum() / (a | b).sum() > boundid.SAME_PLACE + 1e-9
        for a, b in itertools.combinations(taken, 2)
    )


@given(st.lists(st.lists(places, max_size=3), min_size=1, max_size=3))
def test_no_two_identities_get_one_place_and_no_better_choice_is_left(
    proposals: list[list[_Place]],
) -> None:
    chosen = assign(proposals)
    assert len(chosen) == len(proposals)
    assert all(p is None or p in own for p, own in zip(chosen, proposals, strict=True))
    assert not shared(chosen)
    # A choice for each identity is a number from 0, none, to 3: counted through like digits.
    best = 0.0
    for digits in np.ndindex(*(len(own) + 1 for own in proposals)):
        choice = [own[d - 1] if d else None for own, d in zip(proposals, digits, strict=True)]
        best = max(best, 0.0 if shared(choice) else value(choice))
    assert value(chosen) == pytest.approx(best)


def test_two_identities_of_one_category_part_by_likeness() -> None:
    left, right = (
        Detection(query="a mug", score=0.5, box_xyxy01=box)
        for box in ((0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0))
    )
    first = [_Place(left, 0.6), _Place(right, 0.9)]
    second = [_Place(left, 0.5), _Place(right, 0.95)]
    chosen = assign([first, second])
    assert [p.detection for p in chosen if p] == [left, right]  # .6 + .95 is over .9 + .5


SOUND = Finding(box=Box(x0=0, y0=0, x1=0.5, y1=1), detection=0.5, similarity=0.5, covered=0.0)
ASKED = Thresholds(detection=0.5, identity=0.5, hidden=0.5, quality=2.0)


def seen(*findings: Finding, quality: float = 2.0) -> Detections:
    return Detections(id="a", findings=findings, quality=quality, lineage=NOTHING)


def under(threshold: float) -> float:
    return float(np.nextafter(threshold, 0))


def test_a_score_that_equals_its_threshold_passes_and_the_next_lower_one_does_not() -> None:
    assert refuse(seen(SOUND, SOUND), ASKED) is None
    bad: dict[str, Detections] = {
        FILTERS[0]: seen(SOUND, replace(SOUND, detection=under(0.5))),
        FILTERS[1]: seen(SOUND, replace(SOUND, similarity=under(0.5))),
        FILTERS[2]: seen(SOUND, quality=under(2.0)),
    }
    for name, found in bad.items():
        verdict = refuse(found, ASKED)
        assert verdict is not None and verdict[0] == name


def test_the_first_filter_in_order_refuses_and_says_why() -> None:
    nowhere = Finding(box=None, detection=0.0, similarity=0.0, covered=0.0)
    unlike = replace(SOUND, similarity=0.25)
    assert refuse(seen(SOUND, nowhere, quality=0.0), ASKED) == (
        FILTERS[0], 0.0, "identity 2 scores 0.000 < 0.5"
    )  # fmt: skip
    assert refuse(seen(unlike, SOUND, quality=0.0), ASKED) == (
        FILTERS[1], 0.25, "similarity 0.250 < 0.5"
    )  # fmt: skip
    assert refuse(seen(SOUND, quality=1.5), ASKED) == (FILTERS[2], 1.5, "quality 1.50 < 2")


def test_less_likeness_is_asked_of_what_others_cover() -> None:
    half_hidden = replace(SOUND, similarity=0.25, covered=0.5)
    assert refuse(seen(SOUND, half_hidden), ASKED) is None
    assert refuse(seen(SOUND, replace(half_hidden, covered=0.49)), ASKED) is not None


@dataclass
class Fixed:
    """A detector, and a judge, that say the same of every picture."""

    box: Corners

    def detect(
        self, images: Sequence[Any], queries: Sequence[str], *, threshold: float
    ) -> list[list[Detection]]:
        found = [Detection(query=q, score=0.5, box_xyxy01=self.box) for q in queries]
        return [found for _ in images]

    def same(self, found: Sequence[Any], *others: Any) -> list[float]:
        return [0.5] * len(found)

    def quality(self, images: Sequence[Any]) -> list[float]:
        return [3.0] * len(images)


def test_a_box_thinner_than_what_is_kept_of_it_spoils_no_row() -> None:
    own = bank.WorldBank(identities=4, size=32, seed=0, shares=(0.0, 0.0))
    generator = WorldGenerator(size=32, rates={}, degraded=0.0)
    (candidate,) = records(boundid.Candidates(generator)(list(bank.pairs(own, [0], seed=0))))
    thin: Any = Fixed((0.5, 0.1, 0.50001, 0.9))
    worker = boundid.Detector(detector=thin, judge=thin, names=("fixed",), floor=0.0)
    assert len(list(worker([candidate]))) == 1


# The bank and its pairs.

BANK = bank.WorldBank(identities=40, size=32, seed=7, shares=(0.2, 0.2))


def test_a_pair_is_two_identities_of_one_split_and_no_identity_is_in_two() -> None:
    found = list(bank.pairs(BANK, range(60), seed=1))
    members: dict[str, set[str]] = {}
    for pair in found:
        names = [reference.identity for reference in pair.references]
        assert len(set(names)) == 2
        members.setdefault(pair.split, set()).update(names)
        for reference in pair.references:
            assert reference.description in pair.prompt
            assert reference.image != reference.other
    assert set(members) == {"train", "validation", "test"}
    assert not any(a & b for a, b in itertools.combinations(members.values(), 2))
    for split, names in members.items():
        assert names <= {bank.name_of(7, n) for n in range(40) if BANK.split(n) == split}


def test_a_pair_follows_from_its_number_whatever_else_is_asked_for() -> None:
    many = list(bank.pairs(BANK, range(12), seed=1))
    assert list(bank.pairs(BANK, [7], seed=1)) == [many[7]]
    assert list(bank.pairs(BANK, [9, 2], seed=1)) == [many[9], many[2]]
    assert list(bank.pairs(BANK, [7], seed=2)) != [many[7]]
    assert len({pair.id for pair in many}) == len({pair.seed for pair in many}) == 12


def test_growing_the_bank_moves_no_identity_to_another_split() -> None:
    larger = replace(BANK, identities=80)
    assert [larger.split(n) for n in range(40)] == [BANK.split(n) for n in range(40)]


def test_the_prompts_place_is_the_one_that_the_world_draws() -> None:
    kinds = {k: phrase for k, phrase in world.BACKGROUNDS.items() if phrase in bank.WORLD_PLACES}
    assert len(kinds) == len(bank.WORLD_PLACES) > 5
    for pair in bank.pairs(BANK, range(60), seed=1):
        kind = background_of(pair.prompt)
        assert kind is not None and pair.prompt.endswith(kinds[kind])
    assert background_of("a red mug in a dream") is None


@pytest.mark.parametrize("name", ["my-red-mug", "world-0-7-1", "mug"])
def test_an_identity_that_the_world_cannot_draw_is_refused(name: str) -> None:
    (pair,) = bank.pairs(BANK, [0], seed=1)
    foreign = replace(
        pair, references=(replace(pair.references[0], identity=name), pair.references[1])
    )
    with pytest.raises(UserError) as refused:
        WorldGenerator(size=32, rates={}, degraded=0.0).draw([foreign])
    error = refused.value
    assert repr(name) in error.given and "only its own" in error.why
    assert "candidates.generator" in error.todo


def picture(identity: str | None, number: int, **changed: Any) -> Picture:
    image = Image.from_array(np.full((20, 20, 3), number, np.uint8))
    fields: dict[str, Any] = {
        field: None for field in Picture.__dataclass_fields__ if field not in ("id", "image")
    }
    return Picture(
        **fields | {"id": f"p{number}", "image": image, "identity": identity, "split": "train"}
        | changed
    )  # fmt: skip


def test_a_users_pictures_are_a_bank_of_those_with_two_of_one_identity() -> None:
    rows = [picture(name, n) for n, name in enumerate(["red-mug-3", "cat", None, "red-mug-3"])]
    with pytest.raises(UserError, match="a pair needs two"):
        bank.PictureBank(rows)
    own = bank.PictureBank([*rows, picture("cat", 9), picture("lone", 10)])
    assert len(own) == 2
    (pair,) = bank.pairs(own, [0], seed=0)
    assert {r.identity for r in pair.references} == {"cat", "red-mug-3"}
    mug = next(r for r in pair.references if r.identity == "red-mug-3")
    assert (mug.category, mug.description) == ("red mug", "a red mug")
    assert (mug.image, mug.other) == (rows[0].image, rows[3].image)


def test_a_bank_in_which_no_split_has_two_is_refused() -> None:
    rows = [
        picture(name, 2 * n + k, split=("train", "test")[n])
        for n, name in enumerate(["cat", "mug"]) for k in range(2)
    ]  # fmt: skip
    with pytest.raises(UserError, match="No split has two"):
        list(bank.pairs(bank.PictureBank(rows), [0], seed=0))


# What the world plants.


def intended(pair: Pair) -> tuple[world.Scene, list[int], np.random.Generator]:
    """The scene as it was meant, which reference each of its things is, and what draws on."""
    subjects = [bank.subject_of(reference.identity) for reference in pair.references]
    rng = rng_for("candidate", pair.seed, pair.id)
    scene = world.sample_scene(
        rng, things=list(subjects), style="photo", background=background_of(pair.prompt)
    )
    return scene, [subjects.index(thing) for thing in scene.things], rng


def test_a_missing_fault_names_the_reference_that_is_not_in_the_picture() -> None:
    generator = WorldGenerator(size=64, rates={"missing": 1.0}, degraded=0.0)
    found = list(bank.pairs(BANK, range(8), seed=1))
    orders = set()
    for pair, drawn in zip(found, generator.draw(found), strict=True):
        assert drawn.faults is not None
        ((kind, gone),) = [(fault.kind, fault.thing) for fault in drawn.faults]
        scene, order, _ = intended(pair)
        orders.add(tuple(order))
        assert kind == "missing" and gone in (0, 1)
        keep = order.index(1 - gone)
        without = replace(scene, things=(scene.things[keep],), frames=(scene.frames[keep],))
        assert np.array_equal(world.render(without, 64).image, drawn.image)
    assert orders == {(0, 1), (1, 0)}  # else the scene's order would do as well


def test_a_wrong_identity_fault_names_the_reference_that_was_replaced() -> None:
    generator = WorldGenerator(size=64, rates={"wrong identity": 1.0}, degraded=0.0)
    found = list(bank.pairs(BANK, range(8), seed=1))
    for pair, drawn in zip(found, generator.draw(found), strict=True):
        assert drawn.faults is not None
        ((kind, wrong),) = [(fault.kind, fault.thing) for fault in drawn.faults]
        assert kind == "wrong identity" and wrong is not None
        scene, order, rng = intended(pair)
        spoilt, _ = world.inject(scene, rng, {"wrong identity": 1.0})
        differs = [a != b for a, b in zip(scene.things, spoilt.things, strict=True)]
        assert [order[k] for k, other in enumerate(differs) if other] == [wrong]
        assert np.array_equal(world.render(spoilt, 64).image, drawn.image)


def test_a_degraded_picture_says_how() -> None:
    sound = WorldGenerator(size=64, rates={}, degraded=0.0)
    spoilt = WorldGenerator(size=64, rates={}, degraded=1.0)
    found = list(bank.pairs(BANK, range(6), seed=1))
    for one, other in zip(sound.draw(found), spoilt.draw(found), strict=True):
        assert one.faults == () and other.faults is not None
        assert other.faults[0].kind in world.DEGRADATIONS and other.faults[0].thing is None
        assert not np.array_equal(one.image, other.image)


# From pairs to rows.


def records(verdicts: Any) -> list[Any]:
    return [verdict.record for verdict in verdicts]


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
