"""Proves that the report tells each claim's verdict and figures, asks for nothing from outside of
itself, escapes what it is told, and refuses what does not belong together.

Needs synthetic scores only.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.evaluation.claims import page, page_charts, page_text, results
from insitu.evaluation.claims.page import Grid, Output, Shown
from insitu.evaluation.claims.registered import Registered

MEANS = {"full": 0.6, "less": 0.4, "same": 0.6, "slow": 3.0, "quick": 1.5}
ALPHA, BETA = "Alpha: putting things & people", "Beta: tuning"


def registered() -> Registered:
    arms = {
        "full": {}, "less": {"set": {"part": False}}, "same": {"like": "full"}, "slow": {},
        "quick": {"start": None}, "untrained": {"trained": False},
    }  # fmt: skip
    own = {
        "paper": ALPHA, "limits": "All but `quick` share a start.", "arms": arms,
        "starts": {"shared": {"train.steps": 9}}, "train": {"train.steps": 3},
        "benchmarks": {
            "rows": {"of": "rows", "requests": 8, "metrics": ["dino"]},
            "others": {"of": "others", "requests": 8, "metrics": ["dino"]},
        },
        "claims": [
            _claim("alpha.more", "It is <more>.", of="full", over="less", effect=0.1,
                   reported=[75.0, 68.62]),
            _claim("alpha.less", "It is less than before.", of="full", over="less", effect=-0.1),
            _claim("alpha.kept", "Nothing is lost here.", of="same", over="full", margin=0.05),
            _claim("alpha.time", "It takes less time.", of="quick", over="slow", effect=-0.2,
                   metric="seconds", ratio=True, reported=[6.5, 15.7]),
        ],
        "curves": [
            {"title": "Parts", "x": "parts", "metrics": ["dino", "seam"],
             "arms": {1: "less", 4: "same", 16: "full"}}
        ],
    }  # fmt: skip
    tuned = {
        "paper": BETA, "subjects": 4, "arms": {"full": {}, "less": {}},
        "benchmarks": {"rows": {"of": "rows", "requests": 5, "metrics": ["clip_t", "noise"]}},
        "claims": [
            {"id": "beta.both", "at": "Table 3", "says": "Both are so.", "note": "A note on it.",
             "tests": [
                 {"metric": "clip_t", "of": "full", "over": "less", "effect": 0.001},
                 {"metric": "noise", "of": "full", "over": "less", "effect": 0.001},
             ]}
        ],
    }  # fmt: skip
    return Registered.model_validate(
        {
            "rule": {"level": 0.05, "power": 0.8}, "seeds": [1, 2, 3],
            "methods": {"alpha": own, "beta": tuned},
        }
    )  # fmt: skip


def _claim(id: str, says: str, *, metric: str = "dino", **test: Any) -> dict[str, Any]:
    return {"id": id, "at": "Table 2", "says": says, "tests": [{"metric": metric, **test}]}


def scores(method: str, arm: str, benchmark: str, metric: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(zlib.crc32(f"{method} {arm} {metric}".encode()))
    replicates, requests = (4, 5) if method == "beta" else (3, 8)
    mean, spread = (0.5, 0.5) if metric == "noise" else (MEANS[arm], 0.002)
    return mean + rng.normal(0, spread, (replicates, requests))


def found(registered: Registered) -> dict[str, Any]:
    arms = {
        "alpha": {
            "full": _learned("shared"), "less": _learned("shared"), "quick": _learned(None),
            "untrained": {**_learned(None), "adapters": {}, "data_digest": None, "seconds": []},
        },
        "beta": {"full": _learned(None)},
    }  # fmt: skip
    return {
        "made": {
            "date": "2026-03-04T05:06:07+00:00", "claims_file": "claims.yaml",
            "claims_sha256": "5a" * 32, "claims_commit": f"{'c0' * 20} 2026-03-01T00:00:00+01:00",
            "seconds": 7384, "machine": "2 cores", "python": "3.11.9", "torch": "2.13.0",
            "device": "cpu",
        },
        "rule": registered.rule.model_dump(), "seeds": list(registered.seeds), "arms": arms,
        "claims": results.judged(registered, registered.ids(), scores, {}),
        "curves": results.curves(registered, scores),
    }  # fmt: skip


def _learned(start: str | None) -> dict[str, Any]:
    return {
        "set": {}, "data": {}, "start": start, "adapters": {1: "ad" * 32, 2: "be" * 32},
        "data_digest": "da" * 32, "seconds": [61.2, 58.8],
    }  # fmt: skip


def grid(method: str = "alpha") -> Grid:
    picture = np.zeros((8, 12, 3), np.uint8)
    outputs = (
        Output(label="full", image=picture, score=0.7512),
        Output(label="less", image=picture, score=None),
    )
    one = Shown(
        prompt='a <b>cup</b> & "a cat"', words=("a <i>cup</i>",), photo=picture, keep=True,
        boxes=((0.25, 0.5, 0.75, 1.0),), references=(picture,), outputs=outputs,
    )  # fmt: skip
    canvas = replace(one, keep=False, references=(), prompt="a canvas")
    return Grid(method=method, title="Pictures", metric="dino", shown=(one, *[canvas] * 7))


def written(folder: Path, told: Mapping[str, Any], *grids: Grid) -> str:
    target = folder / "reports" / "index.html"
    page.write(told, registered(), grids, target)
    assert [path.name for path in target.parent.iterdir()] == ["index.html"]
    return target.read_text(encoding="utf-8")


def test_runs_are_linked_where_there_are_some(tmp_path: Path) -> None:
    told = found(registered())
    assert "its run" not in written(tmp_path, told)
    runs = {"all": "http://mlflow/1", "arms": {"alpha": {"less": "http://mlflow/2"}}}
    page.write(told, registered(), [], tmp_path / "index.html", runs)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<a href="http://mlflow/1">the run of all claims</a>' in text
    assert text.count("its run") == 1
    assert 'less<small><a href="http://mlflow/2">its run</a></small>' in text


def without_pictures(text: str) -> str:
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "data:", text)


def seen(html: str) -> str:
    """What is read: no tags, no space twice."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def part(text: str, id: str) -> str:
    match = re.search(rf'<tbody id="{re.escape(id)}">(.*?)</tbody>', text, re.DOTALL)
    assert match is not None
    return seen(match[1])


def test_every_claim_stands_on_it_with_its_verdict_and_both_means(tmp_path: Path) -> None:
    told = found(registered())
    text = written(tmp_path, told, grid())
    verdicts = {claim["id"]: claim["verdict"] for claim in told["claims"]}
    assert verdicts == {
        "alpha.more": "holds", "alpha.less": "contradicted", "alpha.kept": "holds",
        "alpha.time": "holds", "beta.both": "undecided",
    }  # fmt: skip
    for claim in told["claims"]:
        own = part(text, claim["id"])
        assert f"{page_text.SIGNS[claim['verdict']]} {claim['verdict']}" in own
        assert claim["says"] in own and claim["at"] in own
        for test in claim["tests"]:
            means = (test["first"], test["second"])
            digits = 2 if max(means) >= 1 else 3
            unit = " s" if test["ratio"] else ""
            assert " vs ".join(f"{mean:.{digits}f}{unit}" for mean in means) in own
            assert f"{test['of']} vs {test['over']}" in own
    assert f"3 trainings {page_text.TIMES} 8 requests" in part(text, "alpha.more")
    assert "75.00 vs 68.62 +6.38" in part(text, "alpha.more")
    assert f"{page_text.TIMES} 0.414" in part(text, "alpha.time")
    both = part(text, "beta.both")
    assert f"4 subjects {page_text.TIMES} 5 requests" in both and "A note on it." in both
    assert "Power for a difference that just counts" in both and "subjects." in both


def test_it_says_how_it_was_made_and_shows_curves_arms_and_pictures(tmp_path: Path) -> None:
    told = found(registered())
    html = written(tmp_path, told, grid())
    text = seen(html)
    assert "2026-03-04 05:06 UTC, in 2 h 3 min; the 8 trainings it rests on took 8 min 0 s" in text
    assert "c0" * 20 in text and "2026-02-28 23:00 UTC" in text
    assert "not committed" not in text
    assert html.count('class="panel"') == 2 and "parts, logarithmic" in text
    assert "paints with the adapter of full" in text and "part = false" in text
    assert f'title="{"ad" * 32}">{"ad" * 5}<' in html
    assert "0.751 full" in text and "no score less" in text and "The other 2" in text
    uncommitted = {**told, "made": {**told["made"], "claims_commit": None}}
    assert "not committed as they were used" in seen(written(tmp_path, uncommitted))


def test_it_needs_nothing_from_outside_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    html = without_pictures(written(tmp_path, found(registered()), grid()))
    for outside in ("http:", "https:", "//", "url(", "@import", "<script"):
        assert outside not in html
    addresses = re.findall(r'\b(?:src|href)="([^"]*)"', html)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", html))
    assert not re.search(r"\b(nan|inf|None)\b", html)


def test_what_it_is_told_is_escaped(tmp_path: Path) -> None:
    html = written(tmp_path, found(registered()), grid())
    assert "a &lt;b&gt;cup&lt;/b&gt; &amp; " in html and "<b>cup" not in html
    assert "a &lt;i&gt;cup" in html and "<i>cup" not in html
    assert "It is &lt;more&gt;." in html and "things &amp; people" in html


def test_some_claims_without_pictures_and_curves_make_a_page(tmp_path: Path) -> None:
    told = found(registered())
    some = {**told, "claims": told["claims"][:1], "curves": []}
    html = written(tmp_path, some)
    assert "<img" not in html and "Alpha" in html and "Beta" not in html


@pytest.mark.parametrize("wrong", ["method", "none", "comparison", "curve"])
def test_what_does_not_belong_together_is_refused(tmp_path: Path, wrong: str) -> None:
    told = found(registered())
    grids = [grid("gamma")] if wrong == "method" else []
    if wrong == "none":
        told["claims"] = []
    elif wrong == "comparison":
        told["claims"][0]["tests"][0]["over"] = "same"
    elif wrong == "curve":
        told["curves"][0]["title"] = "Others"
    with pytest.raises(UserError):
        page.write(told, registered(), grids, tmp_path / "index.html")
    assert not list(tmp_path.iterdir())


def test_a_difference_is_as_claimed_above_zero_and_counts_from_one() -> None:
    test = {"difference": -0.02, "low": -0.03, "high": 0.01, "margin": None, "effect": -0.01}
    span = page_charts.span(test)
    assert (span.low, span.at, span.high) == pytest.approx((-1, 2, 3))
    kept = page_charts.span({**test, "margin": 0.04, "effect": None})
    assert (kept.low, kept.at, kept.high) == pytest.approx((0.25, 0.5, 1.25))


def test_what_lies_beyond_the_axis_is_clipped_and_marked() -> None:
    far = page_charts.Span(at=50.0, low=40.0, high=60.0)
    axis = page_charts.Axis.of([far])
    assert (axis.low, axis.high) == (-1, page_charts.MOST) and {0, 1} <= set(axis.ticks)
    mark = page_charts.mark(far, axis)
    assert mark.at is None and mark.beyond and not mark.before and mark.low < mark.high == 100
    inside = page_charts.mark(page_charts.Span(at=1.0, low=-9.0, high=2.0), axis)
    assert inside.at == axis.share(1.0) and inside.before and inside.low == 0


def test_a_curve_that_is_flat_has_a_panel() -> None:
    flat = [{"x": x, "mean": 0.0, "low": 0.0, "high": 0.0} for x in (0.0, 1.0)]
    panel = page_charts.panel("dino", flat)
    assert len(panel.y_ticks) >= 2 and not panel.logarithmic
    assert all(page_charts.TOP <= p.y <= page_charts.BOTTOM for p in panel.points)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.05124,), "0.0512"), ((0.5, 12.0), "0.5"), ((-1234.5,), f"{page_text.MINUS}1,234"),
        ((0.0,), "0.00"), ((-1e-9,), "0.000000"), ((float("nan"),), "not known"),
        ((None,), "not known"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_and_are_never_nan(values: tuple[Any, ...], text: str) -> None:
    assert page_text.number(*values) == text


def test_chances_and_signs_read_well() -> None:
    assert [page_text.chance(p) for p in (1e-9, 0.0123, 0.6)] == [
        "p < 0.001", "p = 0.012", "p = 0.60",
    ]  # fmt: skip
    assert page_text.number(0.1, sign=True) == "+0.100"
    assert page_text.number(0.0, sign=True) == "0.00"
