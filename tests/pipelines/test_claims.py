"""Proves that claims are checked from registered arms to verdicts and the report, by the stage's
own command; that what is finished is kept, and that a run from nothing gives the same again.

The base is a tiny random one of the real class, what judges are the nano checkpoints.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from insitu.errors import UserError
from insitu.evaluation.claims import registered as registry
from insitu.params import load
from insitu.serving.study import read
from pipelines import _step, claims, study
from pipelines._wanted import WORK
from tests.pipelines.test_trained_methods import project

__all__ = ["project"]

ROOT = Path(__file__).resolve().parents[2]
FEW = {"train.steps": 2, "train.validate_every": 2, "train.save_every": 2}


def content() -> dict[str, Any]:
    of_rows = {"of": "rows", "requests": 2, "metrics": ["in_mask", "clip_t", "location_error"]}
    described = {"of": "eligen-boxes", "requests": 2, "metrics": ["in_mask", "box_iou"]}
    return {
        "rule": {"level": 0.05, "power": 0.8},
        "seeds": [1, 2],
        "methods": {
            "eligen": {
                "paper": "EliGen", "starts": {"shared": FEW}, "train": FEW,
                "benchmarks": {"rows": of_rows, "boxes": described},
                "arms": {
                    "full": {}, "untrained": {"trained": False},
                    "small": {"start": None, "set": {"rank": 2}},
                    "two passes": {"like": "full", "paint": {"guidance_scale": 3.0}},
                },
                "claims": [
                    {
                        "id": "eligen.training", "at": "Figure 2", "quick": True,
                        "says": "Training adds control of the layout.",
                        "tests": [
                            {"metric": "clip_t", "of": "full", "over": "untrained", "effect": 0.1},
                            {"metric": "in_mask", "of": "full", "over": "small", "on": "boxes",
                             "margin": 0.5},
                        ],
                    },
                    {
                        "id": "eligen.passes", "at": "section 4", "says": "Two passes are slower.",
                        "tests": [
                            {"metric": "seconds", "of": "two passes", "over": "full",
                             "ratio": True, "effect": 0.01},
                        ],
                    },
                ],
                "curves": [
                    {"title": "Rank", "x": "rank", "metrics": ["clip_t"],
                     "arms": {2: "small", 16: "full"}},
                ],
                "grids": [{"on": "rows", "metric": "clip_t", "arms": ["full", "untrained"]}],
            }
        },
    }  # fmt: skip


@pytest.fixture
def within(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    if not Path("benchmarks").exists():
        Path("benchmarks").symlink_to(ROOT / "benchmarks")
    changed = load("params.yaml").model_dump(mode="json")
    changed["eligen"]["train"]["schedule"]["warmup"] = 0
    changed["models"]["flux"]["max_sequence_length"] = 48
    YAML().dump(changed, Path("params.yaml"))
    YAML().dump(content(), registry.FILE)
    return project


def check(**asked: Any) -> int:
    given = claims.Asked(workers=2, **asked)
    return _step.run(lambda params, report: claims.main(params, report, given))


def verdicts(path: Path) -> dict[str, Any]:
    return {claim["id"]: claim for claim in json.loads(path.read_text())["claims"]}


@pytest.mark.slow
def test_claims_are_checked_kept_and_come_out_the_same_again(
    within: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert check(to=Path("first.json")) == 0
    told = json.loads(Path("docs/claims.json").read_text())
    assert told == json.loads(Path("first.json").read_text())
    assert set(told["arms"]["eligen"]) == {"full", "untrained", "small"}
    assert set(told["arms"]["eligen"]["full"]["adapters"]) == {"1", "2"}
    assert told["arms"]["eligen"]["untrained"]["adapters"] == {}
    assert told["arms"]["eligen"]["full"]["start"] == "shared"
    assert told["curves"][0]["lines"]["clip_t"][0]["x"] == 2
    page = Path("reports/index.html").read_text()
    assert "Training adds control of the layout." in page
    assert Path("reports/claims/overview.png").is_file()
    report = json.loads(Path("reports/claims/eligen/report.json").read_text())
    assert [claim["id"] for claim in report["claims"]] == ["eligen.training", "eligen.passes"]

    Path("reports/index.html").unlink()
    assert check(report=True) == 0
    assert Path("reports/index.html").read_text() == page
    assert json.loads(Path("docs/claims.json").read_text()) == told

    study.main(load(), lambda facts: None, "eligen", "rows", Path("study"), ["full", "untrained"])
    made = read(Path("study"))
    assert made.ways == ("full", "untrained") and len(made.items) == 2
    assert [shown.label for shown in made.items[0].context] == ["where"]
    with pytest.raises(UserError, match="There is nothing in"):
        study.main(load(), lambda facts: None, "eligen", "boxes", Path("s"), ["untrained", "full"])

    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in WORK.rglob("*") if path.is_file()}
    assert check(ids=["eligen.training"], to=Path("again.json")) == 0
    after = {path: path.stat().st_mtime_ns for path in WORK.rglob("*") if path.is_file()}
    assert before == after  # nothing was done again
    first = verdicts(Path("first.json"))["eligen.training"]
    assert verdicts(Path("again.json"))["eligen.training"] == first

    shutil.rmtree(WORK)
    assert check(ids=["eligen.training"], to=Path("fresh.json")) == 0
    assert verdicts(Path("fresh.json"))["eligen.training"] == first


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    path.rename(path.with_name("away"))
    try:
        yield
    finally:
        path.with_name("away").rename(path)


def test_what_cannot_be_checked_is_refused_before_any_work(within: Path) -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    for more in ({"log": True}, {"report": True}):
        with pytest.raises(UserError, match="Both tell of all claims"):
            claims.main(load(), lambda facts: None, claims.Asked(quick=True, **more))
    with pytest.raises(UserError, match="No such claim"):
        claims.main(load(), lambda facts: None, claims.Asked(ids=["eligen.other"]))
    learned_from = Path("data/entities")
    with moved_away(learned_from), pytest.raises(UserError, match=f"not there: {learned_from}"):
        claims.main(load(), lambda facts: None, claims.Asked())
    broken = content()
    broken["methods"]["eligen"]["benchmarks"]["boxes"]["of"] = "elsewhere"
    YAML().dump(broken, registry.FILE)
    with pytest.raises(UserError, match="elsewhere"):
        claims.main(load(), lambda facts: None, claims.Asked())
    assert not WORK.exists()
