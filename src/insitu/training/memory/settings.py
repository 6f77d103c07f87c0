"""The plan that params.yaml comes to."""

import torch

from insitu.backbones import bases
from insitu.backbones.loading import choose_device
from insitu.backbones.precision import Precision
from insitu.methods import find, pinned
from insitu.params import Params
from insitu.training.memory.limits import CONTEXT, room
from insitu.training.memory.plan import Advice, Plan, Run, cheaper, predict
from insitu.training.memory.rehearsal import Rehearsal
from insitu.training.recipe import Devices, Recipe

PICTURES = 4
"""Painted at a validation, at most."""


def plan_of(name: str, params: Params, gib: float | None) -> tuple[Plan, int, Advice | None]:
    """The plan of a method, the bytes that each device has, and what to change if it is too much.

    Args:
        gib: of a device that is not here, a GPU unless `device` is cpu; None = this machine's.

    Raises:
        UserError: params.yaml does not set up that method, or the base has no configuration.
    """
    settings, own = params.learned(name)
    if gib is None:
        device = choose_device(params.device)
    else:
        device = torch.device("cpu" if params.device == "cpu" else "cuda")
    method = find(name, pinned(name, settings, params.models))
    recipe = Recipe.of(own.recipe(shares={}, seed=params.seed))
    devices = Devices(**own.devices.model_dump())
    precision = Precision.of(params.learning_base(own))
    checkpoint = getattr(params.models, method.base)
    rehearsal = Rehearsal(
        lambda: bases.empty(method.base, checkpoint, precision=precision), method,
        optimizer=recipe.optimizer, average=recipe.average is not None,
        cuda=device.type == "cuda",
    )  # fmt: skip
    run = Run(
        batch=recipe.batch, pictures=PICTURES, devices=devices, precision=precision,
        device=device, recompute=devices.recompute,
    )  # fmt: skip
    plan, memory = predict(rehearsal, run), _memory(device, devices, gib)
    advice = cheaper(rehearsal, run, memory) if plan.peak > memory else None
    return plan, memory, advice


def _memory(device: torch.device, devices: Devices, gib: float | None) -> int:
    """Bytes for each process: CUDA takes some itself, and processes share a CPU's."""
    if gib is not None:
        whole = int(gib * 2**30) - (CONTEXT if device.type == "cuda" else 0)
    else:
        whole = room(device)
    return whole // devices.count if device.type == "cpu" else whole
