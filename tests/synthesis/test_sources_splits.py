"""Proves that no identity is in two splits, that the split of a name depends on nothing else, and
that a given split is kept or refused. Needs no model and no network.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.errors import UserError
from insitu.synthesis import sources
from tests.synthesis.picture_sources import asked, encoded, painted, parquet, put, rows, tar


@settings(max_examples=25)
@given(
    names=st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=20),
    validation=st.floats(0, 0.5),
    test=st.floats(0, 0.49),
    more=st.floats(0, 0.5),
)
def test_the_split_of_a_name_depends_on_nothing_else(
    names: list[str], validation: float, test: float, more: float
) -> None:
    def split(name: str, test: float = test) -> str:
        return sources.split_of(name, validation=validation, test=test)

    alone = {name: split(name) for name in names}
    assert {name: split(name) for name in reversed(names)} == alone
    assert all(split(n, test + more) == "test" for n, where in alone.items() if where == "test")


@settings(max_examples=25)
@given(validation=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4), prefix=st.text(max_size=5))
def test_shares_are_those_of_a_fair_draw(validation: float, test: float, prefix: str) -> None:
    count = 400
    drawn = [
        sources.split_of(f"{prefix}{i}", validation=validation, test=test) for i in range(count)
    ]
    for name, share in (("validation", validation), ("test", test)):
        # Five standard deviations of a binomial: passed by all but one in a million.
        slack = 5 * (count * share * (1 - share)) ** 0.5
        assert abs(drawn.count(name) - count * share) <= slack


def test_an_identity_stays_where_it_is_when_pictures_come(tmp_path: Path) -> None:
    people = [f"p{i}" for i in range(30)]
    put(tmp_path, {f"{who}/0.png": encoded(painted(i)) for i, who in enumerate(people)})
    before = {row.identity: row.split for row in rows(tmp_path, near_duplicate_bits=None)}
    assert set(before.values()) == {"train", "validation", "test"}
    put(tmp_path, {f"{who}/1.png": encoded(painted(99 + i)) for i, who in enumerate(people)})
    put(tmp_path, {"newcomer/0.png": encoded(painted(999))})
    for row in rows(tmp_path, near_duplicate_bits=None):
        assert row.identity == "newcomer" or row.split == before[row.identity]


def splits(path: Path, **changed: Any) -> list[str]:
    return [row.split for row in rows(path, split="given", **changed)]


def test_a_given_split_is_kept(tmp_path: Path) -> None:
    one, two, three = (encoded(painted(i)) for i in range(3))
    folder = put(tmp_path / "f", {"test/a/0.png": one, "train/b/0.png": two, "Val/c/0.png": three})
    assert splits(folder) == ["validation", "test", "train"]
    tars = {"test-00000.tar": tar({"0.png": one}), "train-00000.tar": tar({"0.png": two})}
    assert splits(put(tmp_path / "w", tars)) == ["test", "train"]
    columns = {"image": [one, two], "split": ["dev", "train"]}
    table = put(tmp_path / "p", {"x.parquet": parquet(columns)})
    assert splits(table) == ["validation", "train"]


def test_a_given_split_with_a_leak_or_a_gap_is_refused(tmp_path: Path) -> None:
    one, two = encoded(painted(0)), encoded(painted(1))
    leaking = put(tmp_path / "f", {"test/a/0.png": one, "train/a/1.png": two})
    with pytest.raises(UserError, match="pictures of 'a' in test and in train"):
        sources.pictures(asked(leaking, split="given"))
    for said, problem in ((None, "in none of"), ("holdout", "but in 'holdout'")):
        table = {"image": [one, two], "split": ["train", said]}
        with pytest.raises(UserError, match=problem):
            sources.pictures(
                asked(put(tmp_path / "p", {"x.parquet": parquet(table)}), split="given")
            )
