"""Which times are trained, and how much each counts. 0 is the picture, 1 is noise."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from insitu.errors import UserError

Kind = Literal["uniform", "logit_normal"]
EDGE = 2.0**-24
"""The nearest to 0 and 1 that a time comes: 1 - EDGE is below 1 in float32, too."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """How times t of flow matching are drawn, 0 < t < 1.

    Args:
        kind: before the shift: `uniform`, density 1; `logit_normal`, the sigmoid of a normal:
            density exp(-(logit t - mean)^2 / (2 std^2)) / (std sqrt(2 pi) t (1 - t)) (Esser et al.
            2024, "Scaling Rectified Flow Transformers", equation 19).
        mean: of the normal; above 0 is towards noise.
        std: of the normal, above 0.
        shift: s > 0 in t' = s t / (1 + (s - 1) t), as schedulers shift their steps (Esser et al.
            2024, equation 23, s = sqrt(m / n)); above 1 is towards noise. Since
            logit t' = logit t + ln s, a uniform t becomes density s / (s - (s - 1) t')^2, and a
            logit-normal one stays so, with mean + ln s. `tokens` takes s from the picture's number
            of tokens, see `shift_of`.

    Raises:
        UserError: a value is out of its range, or mean or std was given to `uniform`.
    """

    kind: Kind
    mean: float = 0.0
    std: float = 1.0
    shift: float | Literal["tokens"] = 1.0

    def __post_init__(self) -> None:
        given = f"Times are drawn {self}."
        if self.kind not in get_args(Kind):
            raise UserError(given, "The kind is not known.", f"Use {', '.join(get_args(Kind))}.")
        positive = self.shift == "tokens" or (not isinstance(self.shift, str) and self.shift > 0)
        if not self.std > 0 or not positive:
            raise UserError(
                given, "std and shift must be above 0.", "Set them to 1 for no change, or above 0."
            )
        if self.kind == "uniform" and (self.mean, self.std) != (0.0, 1.0):
            raise UserError(
                given, "Uniform times have no mean and no std.", "Leave both out, or set shift."
            )

    def draw(self, rng: np.random.Generator, *, tokens: int | None = None) -> float:
        """One time, from one draw of `rng`.

        Args:
            tokens: that the picture is in the transformer; needed for `shift: tokens` alone.
        """
        if self.kind == "uniform":
            t = rng.random()
        else:
            t = float(expit(self.mean + self.std * rng.standard_normal()))
        if self.shift == "tokens":
            if tokens is None:
                raise ValueError("shift: tokens needs the number of tokens")
            s = shift_of(tokens)
        else:
            s = float(self.shift)
        return min(max(shifted(t, s), EDGE), 1 - EDGE)


def shifted(t: float, s: float) -> float:
    """t' = s t / (1 + (s - 1) t), from 0..1 to 0..1."""
    return s * t / (1 + (s - 1) * t)


def shift_of(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """FLUX's shift s = e^mu of a picture of so many tokens; mu is linear in their number.

    The defaults are FLUX.1's; a checkpoint's scheduler has its own under `base_image_seq_len`,
    `max_image_seq_len`, `base_shift` and `max_shift`. Source: black-forest-labs/flux,
    `sampling.py`, `get_lin_function` and `time_shift`.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (tokens - base_tokens))


def loss_weights(scheduler: Any, steps_B: Tensor, *, gamma: float | None) -> Tensor:
    """How much each sample's squared error counts [B], float32: min-SNR, or 1.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.
    With a = alphas_cumprod and SNR = a / (1 - a):
    noise prediction min(SNR, gamma) / SNR = min(1, gamma (1 - a) / a);
    velocity prediction min(SNR, gamma) / (SNR + 1) = min(a, gamma (1 - a)).
    The right-hand sides hold at a = 0, pure noise, where a schedule rescaled to zero terminal SNR
    ends: 1 for noise, 0 for velocity.

    Args:
        scheduler: diffusers' scheduler of the base; its `prediction_type` says what is predicted.
        steps_B: its timesteps, whole numbers [B].
        gamma: above 0, in the paper 5; None is a weight of 1, as flow matching has it.

    Raises:
        UserError: gamma is not above 0, the scheduler is of flow matching, or the prediction is of
            another kind.
    """
    if gamma is None:
        return torch.ones(len(steps_B), device=steps_B.device)
    if not gamma > 0:
        raise UserError(f"Min-SNR has gamma {gamma}.", "It must be above 0.", "Use 5.")
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise UserError(
            f"Min-SNR has gamma {gamma}, and the base's scheduler is {type(scheduler).__name__}.",
            "Flow matching is trained with a weight of 1: its schedule has no alphas_cumprod.",
            "Leave gamma out; the drawn times say which are trained more.",
        )
    a_B = alphas.to(steps_B.device)[steps_B].float()
    match scheduler.config.prediction_type:
        case "epsilon":
            # At a = 0 the quotient is infinite, and the weight 1.
            return (gamma * (1 - a_B) / a_B).clamp(max=1)
        case "v_prediction":
            return torch.minimum(a_B, gamma * (1 - a_B))
        case kind:
            raise UserError(
                f"Min-SNR has gamma {gamma}, and the base predicts {kind!r}.",
                "Its weights are known for 'epsilon' and 'v_prediction'.",
                "Leave gamma out.",
            )
