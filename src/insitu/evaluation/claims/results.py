"""What came of the claims: verdicts with the figures behind them, as plain JSON."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.claims.registered import Registered, Replication, Test
from insitu.evaluation.claims.rule import Comparison, decide, difference, raw

FILE = Path("docs/claims.json")
Scores = Callable[[str, str, str, str], NDArray[np.float64]]
"""Scores [replicates, requests] of a method's arm on a benchmark, by metric."""
Plain = dict[str, Any]


def judged(
    registered: Registered, ids: Sequence[str], scores: Scores, others: Mapping[str, float]
) -> list[Plain]:
    """Each claim of `ids` with its verdict and its comparisons.

    Args:
        others: unadjusted p of claims that are not judged now; of those that are not in it, 1.
    """
    found: list[Plain] = []
    for method, own in registered.methods.items():
        asked = {
            claim.id: [_compared(own, test, scores, method) for test in claim.tests]
            for claim in own.claims
            if claim.id in ids
        }
        if not asked:
            continue
        rest = {c.id: others.get(c.id, 1.0) for c in own.claims if c.id not in asked}
        decisions = decide(asked, level=registered.rule.level, others=rest)
        unadjusted = raw(asked)
        family = len(own.claims)
        for claim in own.claims:
            if claim.id in asked:
                found.append(
                    {
                        "id": claim.id, "method": method, "paper": own.paper, "at": claim.at,
                        "says": claim.says, "verdict": decisions[claim.id].verdict,
                        "p": _round(decisions[claim.id].p), "p_alone": unadjusted[claim.id],
                        "tests": [
                            _told(test, compared, registered, own, family)
                            for test, compared in zip(claim.tests, asked[claim.id], strict=True)
                        ],
                    }
                )  # fmt: skip
    return found


def _compared(own: Replication, test: Test, scores: Scores, method: str) -> Comparison:
    first, second = (
        scores(method, arm, benchmark, test.metric) for arm, benchmark in own.sides(test)
    )
    if test.ratio:
        first, second = np.log(first), np.log(second)
    found = difference(first, second, nested=own.subjects is not None)
    if test.margin is not None:
        return Comparison.margin(found, test.margin)
    assert test.effect is not None  # one of the two is there
    return Comparison.effect(found, test.effect)


def _told(
    test: Test, compared: Comparison, registered: Registered, own: Replication, family: int
) -> Plain:
    found, rule = compared.found, registered.rule
    level = rule.level / (2 * family)
    low, high = found.interval(rule.level)
    turned = test.margin is None and test.effect is not None and test.effect < 0
    value = -found.value if turned else found.value
    low, high = (-high, -low) if turned else (low, high)
    means = (math.exp(found.first), math.exp(found.second)) if test.ratio else None
    return {
        "metric": test.metric, "of": test.of, "over": test.over,
        "on": own.benchmark(test.on), "over_on": test.over_on, "effect": test.effect,
        "margin": test.margin, "ratio": test.ratio, "reported": test.reported,
        "first": _round(means[0] if means else found.first),
        "second": _round(means[1] if means else found.second),
        "difference": _round(value), "low": _round(low), "high": _round(high),
        "error": _round(found.error), "freedom": _round(found.freedom),
        "replicates": found.replicates, "requests": found.requests,
        "power": _round(compared.power(level)),
        "times_as_many": _round(compared.factor(level, rule.power)),
    }  # fmt: skip


def curves(registered: Registered, scores: Scores) -> list[Plain]:
    """Every registered curve: means with intervals over trainings and requests."""
    found = []
    for method, own in registered.methods.items():
        for curve in own.curves:
            benchmark = own.benchmark(curve.on)
            lines = {
                metric: [
                    {"x": x, **_mean(scores(method, arm, benchmark, metric), own, registered)}
                    for x, arm in sorted(curve.arms.items())
                ]
                for metric in curve.metrics
            }
            found.append(
                {"method": method, "title": curve.title, "x": curve.x, "on": benchmark,
                 "lines": lines}
            )  # fmt: skip
    return found


def benchmarks(
    registered: Registered,
    painted: Mapping[tuple[str, str], Sequence[str]],
    scores: Scores,
    groups: Callable[[str, str, str], Sequence[str]],
) -> list[Plain]:
    """Every benchmark's table: each arm's means, of all requests and of each group of them.

    Args:
        painted: by method and arm, the benchmarks.
        groups: of a method's arm on a benchmark, the group of each request.
    """
    found = []
    for method, own in registered.methods.items():
        for name, asked in own.benchmarks.items():
            rows = []
            for arm in own.arms:
                if name not in painted.get((method, arm), ()):
                    continue
                values = {m: scores(method, arm, name, m) for m in asked.metrics}
                of = np.array(groups(method, arm, name))
                kinds = sorted(set(of)) if own.subjects is None and len(set(of)) > 1 else []
                for kind in ("", *kinds):
                    these = of == kind if kind else np.ones(len(of), np.bool_)
                    if these.sum() > 1:
                        means = {m: _mean(v[:, these], own, registered) for m, v in values.items()}
                        rows.append(
                            {"arm": arm, "group": kind, "requests": int(these.sum()),
                             "means": means}
                        )  # fmt: skip
            if rows:
                found.append({"method": method, "name": name, "of": asked.of, "rows": rows})
    return found


def _mean(values_RK: NDArray[np.float64], own: Replication, registered: Registered) -> Plain:
    zero = np.zeros_like(values_RK)
    found = difference(values_RK, zero, nested=own.subjects is not None)
    low, high = found.interval(registered.rule.level)
    return {"mean": _round(found.value), "low": _round(low), "high": _round(high)}


def read(path: Path = FILE) -> Plain | None:
    """The committed results, None where there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def line(claim: Plain) -> str:
    """A claim in one line, with its first comparison, and what would decide it."""
    test = claim["tests"][0]
    value = f"{test['metric']} {test['difference']:+.3f} ({test['low']:.3f} to {test['high']:.3f})"
    more = ""
    if claim["verdict"] == "undecided":
        least = max(t["times_as_many"] for t in claim["tests"])
        power = min(t["power"] for t in claim["tests"])
        more = f"; power {power:.0%}, "
        more += (
            f"{least:.1f} times as many would decide"
            if least > 1
            else "what was seen lies between nothing and what counts"
        )
    if len(claim["tests"]) > 1:
        value += f" and {len(claim['tests']) - 1} more"
    return f"{claim['verdict']:12} {claim['id']:36} {value}; p {claim['p']:.3g}{more}"


def _round(value: float) -> float:
    return float(f"{value:.5g}")
