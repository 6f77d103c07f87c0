"""The report's words and numbers: three significant digits, and what a figure shows, said."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from insitu.evaluation.claims.page_charts import span

Plain = Mapping[str, Any]

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
MOST_DIGITS = 6  # after the point
SIGNS = {"holds": "✓", "contradicted": "✗", "undecided": "?"}
"""So that a verdict can be told without its colour."""
METRICS = {
    "dino": "DINO: does the place show this very subject; higher is better",
    "clip_i": "CLIP-I: does the place look like its reference; higher is better",
    "clip_t": "CLIP-T: does the place show what its prompt says; higher is better",
    "clip_t_global": "CLIP-T of the whole picture with the prompt; higher is better",
    "own_box": "share of boxes that look more like their own reference; higher is better",
    "found": "share of things that a detector sees anywhere; higher is better",
    "seconds": "time of a picture; lower is better",
    "face_sim_gt": "face similarity to the person's own photo; higher is better",
    "face_sim_ref": "face similarity to the reference; higher is better",
    "face_copy_paste": "1 = the reference itself, -1 = the person's own photo; lower is better",
    "face_found": "share of faces that were found; higher is better",
    "seam": "how far the box's edge stands out; lower is better",
    "in_mask": "share of things found in their place, IoU from 0.5; higher is better",
    "box_iou": "IoU of what was found with the box asked for; higher is better",
    "mask_iou": "IoU of what was found with the mask asked for; higher is better",
    "entity_recall": "share of things found anywhere; higher is better",
    "attribute_accuracy": "share of attributes shown as asked for; higher is better",
    "background_mean": "mean change outside of the places, in grey levels; lower is better",
}
"""What a metric asks, for those who do not know its name."""
LOWER = tuple(name for name, text in METRICS.items() if text.endswith("lower is better"))
"""Of which less is better."""


def number(value: float | None, *others: float, sign: bool = False) -> str:
    """Three significant digits, of the greatest where `others` stand beside it."""
    if value is None or not math.isfinite(value):
        return "not known"
    greatest = max((abs(v) for v in (value, *others) if math.isfinite(v)), default=0.0)
    digits = 2 if greatest == 0 else 2 - math.floor(math.log10(greatest))
    text = f"{abs(value):,.{min(MOST_DIGITS, max(0, digits))}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def means(test: Plain) -> tuple[str, str]:
    """A comparison's two means; of times in seconds."""
    both, unit = (test["first"], test["second"]), " s" if test["ratio"] else ""
    return number(both[0], both[1]) + unit, number(both[1], both[0]) + unit


def reported(test: Plain) -> tuple[str, str] | None:
    """The paper's two numbers, both with as many digits as either has there."""
    if test["reported"] is None:
        return None
    first, second = (f"{v:.{_digits(*test['reported'])}f}" for v in test["reported"])
    return first.replace("-", MINUS), second.replace("-", MINUS)


def reported_difference(test: Plain) -> str:
    """What the paper's two numbers differ by, told as the difference here is."""
    first, second = test["reported"]
    if test["ratio"]:
        return f"{TIMES} {number(first / second)}"
    return f"{first - second:+.{_digits(first, second)}f}".replace("-", MINUS)


def _digits(*values: float) -> int:
    """How many stand after the point, where most do."""
    return max(len(f"{value:g}".partition(".")[2]) for value in values)


def difference(test: Plain) -> str:
    """First minus second; of times, how many times as long the first takes."""
    value, low, high = test["difference"], test["low"], test["high"]
    if test["ratio"]:
        return f"{TIMES} {number(math.exp(value))}"
    return number(value, low, high, sign=True)


def interval(test: Plain) -> str:
    """Its interval, in the same terms."""
    value, low, high = test["difference"], test["low"], test["high"]
    if test["ratio"]:
        low, high = math.exp(low), math.exp(high)
        return f"{number(low, high)} to {number(high, low)}"
    return f"{number(low, value, high)} to {number(high, value, low)}"


def counts(test: Plain) -> str:
    """From where on a difference is as claimed."""
    if test["margin"] is not None:
        return f"kept: at most {test['margin']:g} lower"
    effect, way = test["effect"], "less" if test["effect"] < 0 else "more"
    least = f"{TIMES} {number(math.exp(effect))}" if test["ratio"] else f"{effect:+g}"
    return f"counts: {least} or {way}".replace("-", MINUS)


def reading(test: Plain) -> str:
    """What the difference alone shows, its interval aside."""
    at = span(test).at
    if test["margin"] is not None:
        return "no loss" if at >= 1 else "lost less than the margin" if at > 0 else "lost more"
    if at == 0:
        return "no difference"
    return "as claimed" if at >= 1 else "as claimed, too small" if at > 0 else "the other way round"


def chance(p: float) -> str:
    """p, with two significant digits from 0.001 on."""
    if not math.isfinite(p):
        return "p not known"
    return f"p = {p:#.2g}" if p >= 0.001 else "p < 0.001"


def deciding(claim: Plain, rule: Plain, *, tuned: bool) -> str:
    """Of an undecided claim: what chance it had, and how large a study would decide it."""
    power = min(test["power"] for test in claim["tests"])
    times = max(test["times_as_many"] for test in claim["tests"])
    drawn = "subjects" if tuned else "trainings"
    if claim["p"] <= rule["level"]:
        return (
            "It is as claimed with the certainty asked for, but what was seen is smaller than what"
            " counts."
        )
    told = f"{power:.0%}" if power >= 0.01 else "under 1%"
    had = f"Power for a difference that just counts: {told}"
    if power >= rule["power"]:
        return f"{had}, which is enough; what was seen lies in between."
    if not 1 < times < math.inf:
        few = min(test["replicates"] for test in claim["tests"])
        return f"{had}; {few} {drawn} tell too little of how they differ, and more are needed."
    many = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
    every = drawn if tuned else f"{drawn} and requests"
    return f"{had}; it is {rule['power']:.0%} with {many} times as many {every}."


def duration(seconds: float) -> str:
    """In the two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def date(text: str) -> str:
    """A time with its zone, to the minute, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def setting(value: Any) -> str:
    """A setting's value, as JSON."""
    return json.dumps(value, ensure_ascii=False)


def marked(text: str) -> list[tuple[str, bool]]:
    """Its parts, and whether they stand between backticks."""
    return [(part, n % 2 == 1) for n, part in enumerate(text.split("`")) if part]


def brief(paper: str) -> str:
    """What stands before a title's colon."""
    return paper.partition(":")[0]


FILTERS = {
    "number": number, "means": means, "reported": reported, "difference": difference,
    "reported_difference": reported_difference, "interval": interval, "counts": counts,
    "reading": reading, "chance": chance, "duration": duration, "date": date, "setting": setting,
    "brief": brief, "marked": marked,
}  # fmt: skip
"""For the template, by name."""
