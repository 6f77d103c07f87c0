"""An exponential moving average of what learns, kept in the optimizer's state.

There it is saved, gathered and sharded again together with the moments, whatever the strategy
(`torch.distributed.checkpoint.state_dict` included), and needs no code of its own for any of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from insitu.errors import UserError

AVERAGE = "ema"
UPDATES = "ema_updates"


def keep_average(optimizer: Optimizer, decay: float) -> None:
    """From now on every step of `optimizer` also averages the weights that it stepped.

    The average is `optimizer.state[p]["ema"]`, of the parameter's shape, type and sharding. After
    the first step it is the weights; after a later one, with t steps before it,
    `average <- decay_t average + (1 - decay_t) weights` with
    `decay_t = min(decay, (1 + t) / (10 + t))`, so that a short run's average is not still the start
    (diffusers' `EMAModel` does the same). t is `ema_updates` in every group.

    Call it before a checkpoint is loaded.

    Args:
        decay: above 0 and below 1, such as 0.999.

    Raises:
        UserError: decay is out of its range; weights have too few bits to be averaged in; later,
            on loading, the checkpoint holds no average.
    """
    if not 0 < decay < 1:
        raise UserError(
            f"The weights' average has decay {decay}.",
            "It must be above 0 and below 1.",
            "Use 0.999, or 0.99 for runs of a few hundred steps.",
        )
    small = {p.dtype for g in optimizer.param_groups for p in g["params"] if p.itemsize < 4}
    if small:
        raise UserError(
            f"Weights of {', '.join(map(str, small))} were to be averaged.",
            f"A step changes the average by 1 - {decay} of a difference, below such a number's "
            "precision: the average would stand still.",
            "Train float32 weights (mixed precision computes in half precision all the same), "
            "or switch the average off.",
        )
    for group in optimizer.param_groups:
        group[UPDATES] = 0

    def update(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _update(optimizer, decay)

    optimizer.register_step_post_hook(update)
    optimizer.register_load_state_dict_pre_hook(_check_loaded)


@contextmanager
def averaged(optimizer: Optimizer, model: nn.Module) -> Iterator[None]:
    """Within it, `model` has the averaged weights; afterwards, its own, bit for bit.

    Weights that were not stepped yet are their own average. The optimizer's state is not touched.

    Args:
        model: what `optimizer` steps, or a module around it. Its FSDP2 modules give up gathered
            weights on both ends: evaluation leaves the root's gathered, which would outlive a swap.

    Raises:
        ValueError: no average is kept of this optimizer's weights.
    """
    if any(UPDATES not in group for group in optimizer.param_groups):
        raise ValueError("keep_average was not called on this optimizer")
    swapped = [
        (p, optimizer.state[p][AVERAGE])
        for group in optimizer.param_groups
        for p in group["params"]
        if AVERAGE in optimizer.state.get(p, {})
    ]
    _reshard(model)
    live = [p.detach().clone() for p, _ in swapped]
    try:
        _copy([p for p, _ in swapped], [average for _, average in swapped])
        yield
    finally:
        _reshard(model)
        _copy([p for p, _ in swapped], live)


@torch.no_grad()
def _update(optimizer: Optimizer, decay: float) -> None:
    for group in optimizer.param_groups:
        t = group[UPDATES]
        averages, weights = [], []
        for p in group["params"]:
            state = optimizer.state.get(p)
            # Without state it never had a gradient; Adam sets up only what has no state at all.
            if not state:
                continue
            if AVERAGE not in state:
                state[AVERAGE] = p.detach().clone()
            else:
                averages.append(state[AVERAGE])
                weights.append(p.detach())
        if averages:
            get_ema_multi_avg_fn(min(decay, (1 + t) / (10 + t)))(averages, weights, None)
        group[UPDATES] = t + 1


def _check_loaded(optimizer: Optimizer, state: dict[str, Any]) -> None:
    if any(UPDATES not in group for group in state["param_groups"]):
        raise UserError(
            "A training checkpoint was to be continued with an average of the weights.",
            "It was written without one.",
            "Switch the average off, or train from the start.",
        )


def _reshard(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
