"""Proves the figures of a study: shares with intervals that respect voters and items,
Krippendorff's alpha against published and independent values, positions, and the command.

Needs neither models nor pictures, but for the command's.
"""

import json
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from typer.testing import CliRunner

from insitu.cli import app
from insitu.serving.study import VOTES
from insitu.serving.study.figures import NONE, agreement, positions, preferences
from insitu.serving.study.votes import Vote, append
from tests.serving import studies

Chosen = NDArray[np.int64]


# Agreement


def by_pairs(chosen_VI: Chosen) -> float | None:
    """Alpha in its definition's words: disagreement of two answers to one item over that of any
    two answers, each item weighted by its number of answers."""
    items = [[v for v in column if v != NONE] for column in chosen_VI.T]
    items = [item for item in items if len(item) > 1]
    pool = [value for item in items for value in item]
    expected = [a != b for a, b in permutations(pool, 2)]
    if not any(expected):
        return None
    observed = 0.0
    for item in items:
        observed += len(item) * float(np.mean([a != b for a, b in permutations(item, 2)]))
    return 1 - (observed / len(pool)) / float(np.mean(expected))


def test_alpha_is_the_published_one() -> None:
    """Krippendorff (2011), C: nominal data, four observers, missing data; 0.743."""
    observed = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    values = np.array([[NONE if c == "." else int(c) for c in row] for row in observed])
    assert agreement(values) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_hand_made_cases() -> None:
    perfect = np.array([[0, 1, 2], [0, 1, 2], [NONE, 1, 2]])
    assert agreement(perfect) == 1
    # Two voters who never agree: of 4 answers, 2 and 2, any two differ in 8 of 12 pairs.
    opposed = np.array([[0, 1], [1, 0]])
    assert agreement(opposed) == pytest.approx(1 - 1 / (8 / 12))
    assert agreement(np.zeros((3, 4), np.int64)) is None
    assert agreement(np.array([[0, NONE], [NONE, 1]])) is None
    assert agreement(np.full((2, 2), NONE)) is None
    rng = np.random.default_rng(0)
    assert agreement(rng.integers(0, 3, (40, 200))) == pytest.approx(0, abs=0.01)


@given(
    arrays(
        np.int64,
        st.tuples(st.integers(1, 5), st.integers(1, 6)),
        elements=st.integers(NONE, 3),
    )
)
def test_alpha_equals_its_definition(chosen_VI: Chosen) -> None:
    expected = by_pairs(chosen_VI)
    found = agreement(chosen_VI)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected)


# Shares


def test_shares_are_of_the_answers_there_are() -> None:
    chosen = np.array([[0, 0, 1], [0, 2, NONE], [NONE, NONE, NONE]])
    found = preferences(chosen, 3)
    assert [share.value for share in found.shares] == pytest.approx([3 / 5, 1 / 5, 1 / 5])
    assert [share.n for share in found.shares] == [5, 5, 5]
    assert [lead.value for lead in found.leads] == pytest.approx([2 / 5, 2 / 5])
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in found.shares)
    assert found == preferences(chosen, 3)
    with pytest.raises(ValueError, match="no answers"):
        preferences(np.full((2, 2), NONE), 3)


def test_votes_that_are_alike_count_less() -> None:
    """40 x 40 votes: by voter, each voter's are one; independent ones are nearly 1600."""
    by_voter = np.repeat(np.arange(40)[:, None] % 2, 40, axis=1)
    apart = np.random.default_rng(0).integers(0, 2, (40, 40))
    widths = []
    for chosen in (by_voter, by_voter.T, apart):
        share = preferences(chosen, 2).shares[0]
        widths.append(share.high - share.low)
    as_forty = 2 * 1.96 * (0.25 / 40) ** 0.5
    assert widths[0] == pytest.approx(as_forty, rel=0.1)
    assert widths[1] == pytest.approx(as_forty, rel=0.1)
    assert widths[2] < as_forty / 3


def test_intervals_cover_what_is_true_of_other_voters_and_items() -> None:
    """Voters and items both lean one way or the other, half of the answers are missing."""
    covered = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        lean = rng.normal(0, 1, (30, 1)) + rng.normal(0, 1, (1, 25))
        chosen = (rng.random((30, 25)) < 1 / (1 + np.exp(-lean))).astype(np.int64)
        chosen[rng.random((30, 25)) < 0.5] = NONE
        share = preferences(chosen, 2).shares[1]
        covered.append(share.low <= 0.5 <= share.high)
    # 95%, less what 150 trials may miss; intervals for independent votes cover about 55%.
    assert np.mean(covered) > 0.89


def test_votes_that_are_all_the_same_still_have_an_interval() -> None:
    found = preferences(np.zeros((12, 8), np.int64), 3)
    one, none, _ = found.shares
    # Wilson's for 8 of 8: 8 / (8 + 1.96**2).
    assert (one.value, one.high) == (1, 1) and one.low == pytest.approx(0.6756, abs=1e-3)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(0.3244, abs=1e-3)
    assert found.leads[0].high == 1 and found.leads[0].low < 0.7


# Positions


def test_positions_are_balanced_where_they_are_shuffled() -> None:
    ways, rng = ("a", "b", "c"), np.random.default_rng(0)
    shuffled = [[ways[k] for k in rng.permutation(3)] for _ in range(300)]
    assert all(at.balanced and at.expected == 2 for at in positions(shuffled, ways).values())
    fixed = positions([ways] * 300, ways)
    assert [at.mean for at in fixed.values()] == [1, 2, 3]
    assert [at.balanced for at in fixed.values()] == [False, True, False]


# The command


def vote(folder: Path, voter: str, item: int, question: str, way: str | None) -> None:
    shown = np.random.default_rng([ord(voter), item]).permutation(studies.WAYS)
    given = {
        "voter": voter * 22, "item": f"scene-{item}", "question": question, "way": way,
        "shown": shown.tolist(), "time": datetime.now(UTC),
    }  # fmt: skip
    append(folder / VOTES, Vote.model_validate(given))


def test_results_are_told_and_written(tmp_path: Path) -> None:
    folder, file = tmp_path / "study", tmp_path / "results.json"
    studies.written(folder)
    runner = CliRunner()
    nothing = runner.invoke(app, ["study", "results", str(folder)])
    assert nothing.exit_code == 2 and "no vote" in nothing.stderr
    vote(folder, "a", 0, "identity", "older")
    for voter in "abcd":
        for item in range(3):
            vote(folder, voter, item, "identity", ("ours", "baseline", None)[item])
    done = runner.invoke(app, ["study", "results", str(folder), "--json", str(file)])
    assert done.exit_code == 0, done.output
    for told in ("4 voters, 3 items, 12 votes (1 more", "ours leads older by 0.333", "alpha) 1.000",
                 "too narrow", "balanced"):  # fmt: skip
        assert told in done.output, told
    found = json.loads(file.read_text())
    asked = found["questions"]["identity"]
    assert [asked["preferred"][way]["value"] for way in studies.WAYS] == [0.3333, 0.3333, 0.0]
    assert asked["no difference"]["value"] == 0.3333 and asked["agreement"] == 1
    assert set(found["questions"]) == {"identity"} and set(found["positions"]) == {*studies.WAYS}
    again = runner.invoke(app, ["study", "results", str(folder), "--votes", str(folder / VOTES)])
    assert again.output == done.output


@pytest.mark.parametrize("command", ["serve", "results"])
def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, ["study", command, str(tmp_path)])
    assert done.exit_code == 2
    assert all(part in done.stderr for part in ("given:", "why:", "to do:"))
