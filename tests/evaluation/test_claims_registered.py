"""Proves that the shipped claims can be checked as they are written, that a claims file which
contradicts itself is refused, and that verdicts and curves follow from scores.

Needs no model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from insitu.errors import UserError
from insitu.evaluation import sets
from insitu.evaluation.claims import results
from insitu.evaluation.claims.registered import Registered, load
from insitu.params import load as load_params
from pipelines import _arm_settings
from pipelines._wanted import Place, Wanted

ROOT = Path(__file__).resolve().parents[2]


def small() -> dict[str, Any]:
    return {
        "rule": {"level": 0.05, "power": 0.8},
        "seeds": [1, 2, 3],
        "methods": {
            "eligen": {
                "paper": "A paper",
                "benchmarks": {"own": {"of": "rows", "requests": 30, "metrics": ["clip_t"]}},
                "arms": {"full": {}, "less": {"set": {"rank": 4}}, "seen": {"like": "full"}},
                "claims": [
                    {
                        "id": "eligen.more", "at": "Table 1", "says": "More is better here.",
                        "tests": [
                            {"metric": "clip_t", "of": "full", "over": "less", "effect": 0.1}
                        ],
                    },
                    {
                        "id": "eligen.seen", "at": "Table 2", "says": "It looks as it does.",
                        "tests": [
                            {"metric": "clip_t", "of": "seen", "over": "full", "margin": 0.1}
                        ],
                    },
                ],
                "curves": [
                    {"title": "Rank", "x": "rank", "metrics": ["clip_t"],
                     "arms": {4: "less", 16: "full"}},
                ],
            }
        },
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def to(content: Any) -> Path:
        YAML().dump(content, tmp_path / "claims.yaml")
        return tmp_path / "claims.yaml"

    return to


def test_the_shipped_claims_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm's settings are settings, every benchmark has its description."""
    monkeypatch.chdir(ROOT)
    registered = load()
    wanted = Wanted.of(registered, registered.ids(), curves=True)
    _arm_settings.require(load_params(), registered, wanted)
    quick = {id.split(".")[0] for id in registered.ids(quick=True)}
    assert quick == set(registered.methods) and len(registered.ids(quick=True)) == 5


def test_every_arm_and_benchmark_of_the_shipped_claims_is_used() -> None:
    registered = load(ROOT / "claims.yaml")
    wanted = Wanted.of(registered, registered.ids(), curves=True)
    arms = {(m, arm) for m, own in registered.methods.items() for arm in own.arms}
    assert arms == set(wanted.benchmarks)
    described = {b.of for own in registered.methods.values() for b in own.benchmarks.values()}
    assert {p.stem for p in (ROOT / "benchmarks/sets").glob("*.yaml")} == described - {"rows"}


def test_an_arm_like_another_paints_with_its_adapter() -> None:
    registered = Registered.model_validate(small())
    wanted = Wanted.of(registered, ["eligen.seen"], curves=False)
    assert dict(wanted.adapters) == {("eligen", "full"): [1, 2, 3]}
    assert wanted.painting("eligen", "full") == ["seen", "full"]


def test_an_arm_changes_what_it_says_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params, registered = load_params(), Registered.model_validate(small())
    own = registered.methods["eligen"]
    chosen = _arm_settings.params_of(params, own, Place(method="eligen", arm="less", replicate=7))
    assert (chosen.eligen.rank, chosen.eligen.train.seed) == (4, 7)
    same = {"rank": params.eligen.rank, "train": params.eligen.train}
    assert chosen.eligen.model_copy(update=same) == params.eligen
    assert chosen.model_copy(update={"eligen": params.eligen}) == params


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown arm": (lambda m: m["claims"][0]["tests"][0].update(over="none"), "'none'"),
    "unknown benchmark": (lambda m: m["claims"][0]["tests"][0].update(on="none"), "'none'"),
    "unmeasured": (lambda m: m["claims"][0]["tests"][0].update(metric="dino"), "'dino'"),
    "no effect": (lambda m: m["claims"][0]["tests"][0].pop("effect"), "an effect other than 0"),
    "both": (lambda m: m["claims"][0]["tests"][0].update(margin=0.1), "not both"),
    "like a like": (lambda m: m["arms"].update(third={"like": "seen"}), "has no adapter"),
    "like and set": (lambda m: m["arms"]["seen"].update(set={"rank": 1}), "only `paint`"),
    "unknown start": (lambda m: m["arms"]["less"].update(start="there"), "no start"),
    "another's id": (lambda m: m["claims"][0].update(id="uno.more"), "stands under eligen"),
    "an id twice": (lambda m: m["claims"][1].update(id="eligen.more"), "two claims"),
    "unknown key": (lambda m: m["arms"]["full"].update(sets={}), "Extra inputs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_contradicts_itself_is_refused(name: str, write: Any) -> None:
    content = small()
    change, why = BROKEN[name]
    change(content["methods"]["eligen"])
    with pytest.raises(UserError, match=why):
        load(write(content))


def test_settings_that_there_are_not_are_refused_before_any_work(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    content = small()
    content["methods"]["eligen"]["arms"]["less"]["set"] = {"train.optimiser": "adamw"}
    registered = load(write(content))
    wanted = Wanted.of(registered, registered.ids(), curves=False)
    with pytest.raises(UserError, match=r"eligen\.train\.optimiser"):
        _arm_settings.require(load_params(), registered, wanted)
    with pytest.raises(UserError, match="No such claim"):
        registered.claim("eligen.none")
    with pytest.raises(UserError, match="cannot be read"):
        load(Path("nowhere.yaml"))


def test_verdicts_and_curves_follow_from_scores() -> None:
    registered = Registered.model_validate(small())
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (3, 30))
    known = {"full": 0.6 + noise, "less": 0.4 + noise[::-1], "seen": 0.6 + noise}

    def scores(method: str, arm: str, benchmark: str, metric: str) -> Any:
        assert (method, benchmark, metric) == ("eligen", "own", "clip_t")
        return known[arm]

    told = {c["id"]: c for c in results.judged(registered, registered.ids(), scores, {})}
    assert [c["verdict"] for c in told.values()] == ["holds", "holds"]
    test = told["eligen.more"]["tests"][0]
    assert test["difference"] == pytest.approx(known["full"].mean() - known["less"].mean(), 1e-3)
    assert test["low"] < test["difference"] < test["high"]
    (curve,) = results.curves(registered, scores)
    assert [point["x"] for point in curve["lines"]["clip_t"]] == [4, 16]
    known["less"] = known["full"] + rng.normal(0, 0.5, (3, 30))
    (alone,) = results.judged(registered, ["eligen.more"], scores, {"eligen.seen": 1e-9})
    assert alone["verdict"] == "undecided"
    assert "times as many would decide" in results.line(alone)


def test_tables_have_every_arm_and_group_that_was_painted() -> None:
    registered = Registered.model_validate(small())
    values = np.stack([np.arange(6.0)] * 3)
    painted = {("eligen", "full"): ["own"], ("eligen", "less"): []}
    (table,) = results.benchmarks(
        registered, painted, lambda *_: values, lambda *_: ["a", "a", "b", "b", "b", "c"]
    )
    told = {(row["arm"], row["group"]): row for row in table["rows"]}
    assert set(told) == {("full", ""), ("full", "a"), ("full", "b")}  # one request is no group
    assert told["full", ""]["means"]["clip_t"]["mean"] == 2.5
    assert told["full", "b"]["means"]["clip_t"]["mean"] == 3 and told["full", "b"]["requests"] == 3


def test_descriptions_that_lack_something_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are: none"):
        sets.load("nothing", tmp_path)
    (tmp_path / "a.yaml").write_text("title: some\npaper: a\nkind: pairs\nseed: 1\nsize: 64\n")
    with pytest.raises(UserError, match="pairs needs subjects"):
        sets.load("a", tmp_path)
