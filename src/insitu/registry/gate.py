"""The gate: may this adapter become champion? Verdict and reasons, from measured figures alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from insitu.errors import UserError

METRIC = "dino"


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What is asked of a champion.

    Attributes:
        gain: how much higher than the untuned base it must score at least, with the whole 95%
            interval of the difference.
        margin: how much lower than the present champion's its score may be.
    """

    gain: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether it may, and why or why not, a sentence each."""

    passed: bool
    reasons: tuple[str, ...]


def decide(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, thresholds: Thresholds
) -> Verdict:
    """Judge a candidate's figures, and those of the champion it would replace, if there is one.

    Figures are a subject's part of the evaluation: metric -> tuned, untuned, difference, each with
    value, low and high.

    Raises:
        UserError: the candidate was not evaluated; a missing figure is not a pass.
    """
    if METRIC not in candidate:
        raise UserError(
            "An adapter without figures was to pass the gate.",
            f"It has no {METRIC} figure, and what was not measured cannot be compared.",
            "Evaluate it first: dvc repro evaluate.",
        )
    gain, tuned = candidate[METRIC]["difference"], candidate[METRIC]["tuned"]
    checks = [
        (
            gain["low"] > thresholds.gain,
            f"{METRIC} above the untuned base by {gain['value']:.3f} ({gain['low']:.3f} to "
            f"{gain['high']:.3f}), asked: more than {thresholds.gain:g} with the whole interval",
        )
    ]
    if champion is not None:
        floor = champion[METRIC]["tuned"]["value"] - thresholds.margin
        checks.append(
            (
                tuned["value"] >= floor,
                f"{METRIC} {tuned['value']:.3f}, asked: the champion's less the margin, "
                f"{floor:.3f}",
            )
        )
    return Verdict(
        passed=all(passed for passed, _ in checks),
        reasons=tuple(f"{'met' if passed else 'not met'}: {text}" for passed, text in checks),
    )
