"""Optimizers by name, always one `torch.optim.Optimizer`, right on whole and on sharded parameters.

Sharded parameters are the DTensors of FSDP2 (`torch.distributed.fsdp.fully_shard`).
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

# The functions that torch.optim.Muon is made of; a test compares our steps with its own.
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz
from torch.optim.optimizer import Optimizer

from insitu.errors import UserError

Name = Literal["adamw", "muon", "prodigy", "adamw8bit"]
Closure = Callable[[], float]
Parameters = Sequence[nn.Parameter]


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How learning parameters are stepped.

    Args:
        name: `adamw` (Loshchilov & Hutter 2019), `muon` (Jordan et al. 2024) on matrices with AdamW
            on the rest, `prodigy` (Mishchenko & Defazio 2024), which finds the rate itself, or
            `adamw8bit` (Dettmers et al. 2022, bitsandbytes) with moments in 8 bits.
        lr: above 0; for prodigy a factor of the rate that it finds, 0.1 to 10, best 1.
        betas: decays of the gradient's and the squared gradient's running means, 0 <= beta < 1.
        eps: added to the root of the squared gradient's mean, above 0.
        weight_decay: decoupled, at least 0: a step shrinks weights by `lr * weight_decay`. Biases
            and norms (one dimension) are never decayed.
        momentum: muon alone: decay of its running mean; None is 0.95.
        d_coef: prodigy alone: factor of its estimate; None is 1.

    Raises:
        UserError: a value is out of its range, or is of another optimizer.
    """

    name: Name
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    momentum: float | None = None
    d_coef: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            names = ", ".join(get_args(Name))
            raise UserError(f"The optimizer is {self.name!r}.", "It is not known.", f"Use {names}.")
        owned = {"momentum": ("muon", self.momentum), "d_coef": ("prodigy", self.d_coef)}
        for name, (owner, value) in owned.items():
            if value is not None and self.name != owner:
                raise UserError(
                    f"The optimizer {self.name} was given {name} {value}.",
                    f"Only {owner} has a {name}.",
                    f"Leave {name} out, or set name: {owner}.",
                )
        for name, holds, bounds in (
            ("lr", self.lr > 0, "above 0"),
            (
                "lr",
                self.name != "prodigy" or 0.1 <= self.lr <= 10,
                "0.1 to 10, best 1: prodigy finds the rate itself, and d_coef scales its estimate",
            ),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "at least 0 and below 1"),
            ("eps", self.eps > 0, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("momentum", self.momentum is None or 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("d_coef", self.d_coef is None or self.d_coef > 0, "above 0"),
        ):
            if not holds:
                given = f"The optimizer's {name} is {getattr(self, name)}."
                raise UserError(given, f"It must be {bounds}.", f"Change {name}.")


def make(named_parameters: Iterable[tuple[str, nn.Parameter]], settings: Optimization) -> Optimizer:
    """The optimizer of those parameters that require a gradient; frozen ones are left out.

    Shard the module first (`fully_shard`): an optimizer steps the parameters that it was given.

    Raises:
        UserError: nothing learns, muon was given no matrix, or 8-bit moments cannot be had.
    """
    learning = [p for _, p in named_parameters if p.requires_grad]
    if not learning:
        raise UserError(
            f"The optimizer {settings.name} was given no parameter that requires a gradient.",
            "Nothing would be trained.",
            "Check the adapter's targets.",
        )
    adam: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}
    groups = _groups(learning, settings.weight_decay)
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(groups, **adam)
        case "adamw8bit":
            return _adamw8bit(learning, groups, adam)
        case "prodigy":
            return Prodigy(groups, d_coef=settings.d_coef or 1.0, **adam)
        case "muon":
            return _muon_and_adamw(learning, settings, adam)


def _muon_and_adamw(
    learning: Parameters, settings: Optimization, adam: dict[str, Any]
) -> Optimizer:
    matrices = [p for p in learning if p.ndim == 2]
    if not matrices:
        raise UserError(
            f"The optimizer muon was given {len(learning)} parameters.",
            "None of them is a matrix, and muon steps matrices only.",
            "Use adamw.",
        )
    muon = Muon(
        _groups(matrices, settings.weight_decay),
        lr=settings.lr,
        momentum=0.95 if settings.momentum is None else settings.momentum,
        # A matrix' step gets the size of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM
        # Training", section 2.2), so that one rate and one decay serve both.
        adjust_lr_fn="match_rms_adamw",
    )
    rest = [p for p in learning if p.ndim != 2]
    if not rest:
        return United(muon)
    return United(muon, torch.optim.AdamW(_groups(rest, settings.weight_decay), **adam))


def _adamw8bit(
    learning: Parameters, groups: list[dict[str, Any]], adam: dict[str, Any]
) -> Optimizer:
    given = "The optimizer is adamw8bit."
    if any(isinstance(p, DTensor) for p in learning):
        raise UserError(
            given,
            "It keeps blocks of a whole parameter's moments, and these parameters are sharded.",
            "Use adamw, whose moments are sharded with the parameters, or train without FSDP.",
        )
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(
            given,
            f"It needs bitsandbytes, which cannot be imported: {error}.",
            "Install it (pip install bitsandbytes), or use adamw.",
        ) from None
    return library.optim.AdamW8bit(groups, **adam)


class United(Optimizer):
    """Several optimizers of different parameters as one.

    Groups and state are those of the parts, not copies: what a schedule, a checkpoint or a hook
    does to this optimizer, it does to them.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take loaded groups and state, which are new objects, to the parts too."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One step of every part; hooks on this optimizer are called once."""
        loss = _evaluated(closure)
        for part in self.parts:
            part.step()
        return loss


class Muon(torch.optim.Muon):
    """torch's Muon that makes the whole matrix' update orthogonal where FSDP2 shards it, too.

    A sharded update is gathered, one matrix at a time, and each rank keeps its rows of the result:
    the same numbers as on one process, since the bfloat16 iteration is not split into partial
    sums. The momentum stays sharded.
    """

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """m <- mu m + (1 - mu) g; w <- (1 - lr decay) w - scale orthogonal((1 - mu) g + mu m)."""
        loss = _evaluated(closure)
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                mean = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                update = _whole(p.grad.lerp(mean, momentum))
                orthogonal = _zeropower_via_newtonschulz(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                scale = _adjust_lr(lr, group["adjust_lr_fn"], p.shape)
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(_sharded_as(p, orthogonal.to(p.dtype)), alpha=-scale)
        return loss


class Prodigy(Optimizer):
    """Adam that estimates its rate: Mishchenko & Defazio 2024 (arXiv 2306.06101), algorithm 4.

    With bias correction, and with the safeguard for a warm-up: `s` leaves lr out, so that the small
    rates of a warm-up don't inflate the estimate. `d`, the estimate, is in every group; it is the
    same on every rank, since its two sums run over all parameters on all ranks.

    Equal to the authors' `prodigyopt` 1.1.2 on one process. On FSDP2's shards that library's ranks
    each find a `d` of their own unless told `fsdp_in_use`; then it sums on CUDA only, and it
    refuses parameters that don't divide evenly. State: `p0`, `s`, `exp_avg`, `exp_avg_sq`, sharded
    as the parameter.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d_coef: float = 1.0,
        d0: float = 1e-6,
    ) -> None:
        own = {"d_coef": d_coef, "d0": d0, "d": d0, "numerator": 0.0, "k": 0}
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, adam | own)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One step; a rate of 0 or gradients of 0 everywhere change nothing."""
        loss = _evaluated(closure)
        first = self.param_groups[0]
        if any(group["lr"] != first["lr"] for group in self.param_groups):
            raise ValueError("one rate for all groups: they share one estimate")
        (beta1, beta2), d, d0, k = first["betas"], first["d"], first["d0"], first["k"] + 1
        beta3 = beta2**0.5
        rate = d * first["lr"] * (1 - beta2**k) ** 0.5 / (1 - beta1**k)
        stepped = [
            (p, p.grad, self._state(p), group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if rate == 0:
            return loss
        for _, g, state, _ in stepped:
            state["exp_avg"].mul_(beta1).add_(g, alpha=d * (1 - beta1))
            state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=d * d * (1 - beta2))
            state["s"].mul_(beta3).add_(g, alpha=d * d / d0)
        towards_start = _total([(g * (state["p0"] - p)).sum() for p, g, state, _ in stepped])
        length = _total([state["s"].abs().sum() for _, _, state, _ in stepped])
        if length == 0:
            return loss
        numerator = beta3 * first["numerator"] + d / d0 * rate * towards_start
        d = max(d, first["d_coef"] * numerator / length)
        for p, _, state, group in stepped:
            p.mul_(1 - rate * group["weight_decay"])
            root = state["exp_avg_sq"].sqrt().add_(d * group["eps"])
            p.addcdiv_(state["exp_avg"], root, value=-rate)
        for group in self.param_groups:
            group.update(d=d, numerator=numerator, k=k)
        return loss

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["p0"] = p.detach().clone()
            state.update({name: torch.zeros_like(p) for name in ("s", "exp_avg", "exp_avg_sq")})
        return state


def _groups(parameters: Parameters, weight_decay: float) -> list[dict[str, Any]]:
    """Weights, decayed, and vectors, not decayed; a kind that is not there has no group."""
    weights = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay}
    vectors = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    return [group for group in (weights, vectors) if group["params"]]


def _evaluated(closure: Closure | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded_as(p: Tensor, whole: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole; nothing is sent."""
    if not isinstance(p, DTensor):
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


def _total(scalars: Sequence[Tensor]) -> float:
    """The sum, of sharded parameters' scalars over all ranks; one message in all."""
    sharded = [s for s in scalars if isinstance(s, DTensor)]
    plain = [s for s in scalars if not isinstance(s, DTensor)]
    return sum(float(_whole(sum(kind[1:], kind[0]))) for kind in (sharded, plain) if kind)
