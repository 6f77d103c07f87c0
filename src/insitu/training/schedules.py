"""How the learning rate changes: a factor of it for each step."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from insitu.errors import UserError

Name = Literal["constant", "linear", "cosine"]


def schedule(
    name: Name, *, steps: int, warmup: int = 0, cooldown: float = 0.0
) -> Callable[[int], float]:
    """The factor, 0 to 1, by which the rate is multiplied at a step, as LambdaLR takes it.

    Steps are the optimizer's, counted from 0: neither the number of ranks nor gradient
    accumulation changes them. Every step of a run has a factor above 0, also the first and the
    last; the factor is 0 from `steps` on.

    Args:
        name: `constant`; `linear`, from 1 after the warm-up to 0 at `steps`; `cosine`, the same
            along half a cosine (Loshchilov & Hutter 2017, equation 5, without restarts).
        steps: of the whole run, at least 1.
        warmup: steps over which the rate rises evenly to its full value; at least 0.
        cooldown: share of the steps, the last ones, over which a constant rate falls evenly to 0;
            0 to 1. (Hu et al. 2024, "MiniCPM", section 4: warm up, hold, fall.)

    Raises:
        UserError: a value is out of its range, two overlap, or a rate that falls anyway was given a
            cooldown.
    """
    _check(name, steps, warmup, cooldown)
    falling = max(1.0, cooldown * steps)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        done = min(1.0, max(0, step - warmup) / (steps - warmup))
        match name:
            case "constant":
                fall = max(0.0, min(1.0, (steps - step) / falling))
            case "linear":
                fall = 1 - done
            case "cosine":
                fall = 0.5 * (1 + math.cos(math.pi * done))
        return min(rise, fall)

    return factor


def staged(
    name: Name, ends: Sequence[float], *, steps: int, warmup: int = 0, cooldown: float = 0.0
) -> Callable[[int], float]:
    """The same for a run in stages, each with a rate that rises and falls by itself.

    Args:
        ends: shares of the steps at which stages end, rising, the last one 1; empty = one stage.
    """
    edges = sorted({0, *(math.ceil(end * steps) for end in ends or (1.0,))})
    factors = [
        schedule(name, steps=last - first, warmup=warmup, cooldown=cooldown)
        for first, last in itertools.pairwise(edges)
    ]

    def factor(step: int) -> float:
        stage = min(bisect.bisect_right(edges, step), len(factors)) - 1
        return factors[stage](step - edges[stage])

    return factor


def _check(name: Name, steps: int, warmup: int, cooldown: float) -> None:
    given = f"The schedule is {name}, with {steps} steps, warmup {warmup}, cooldown {cooldown}."
    if name not in get_args(Name):
        raise UserError(given, "Its name is not known.", f"Use {', '.join(get_args(Name))}.")
    if steps < 1 or warmup < 0 or not 0 <= cooldown <= 1:
        raise UserError(
            given,
            "There must be a step, no fewer than 0 warm-up steps, and a cooldown of 0 to 1.",
            "Change the value that is out of its range; cooldown is a share, not a percentage.",
        )
    if cooldown and name != "constant":
        raise UserError(
            given,
            f"A {name} rate falls to 0 at the end by itself.",
            "Set cooldown: 0, or the schedule to constant.",
        )
    if warmup and (warmup >= steps or warmup > steps * (1 - cooldown)):
        raise UserError(
            given,
            "The rate would have to fall before it has risen.",
            "Warm up for fewer steps, or set a smaller cooldown.",
        )
