"""How much memory there is here, and the refusal of what it cannot hold."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from insitu.backbones.precision import Precision
from insitu.methods import Method
from insitu.params import Checkpoint
from insitu.training.memory.plan import Plan, Run, cheaper, loaded, predict
from insitu.training.memory.rehearsal import Rehearsal
from insitu.training.memory.report import refusal, short
from insitu.training.recipe import Devices, Recipe

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CONTEXT = 2**29
"""Bytes of a GPU that CUDA itself takes for a process, outside of torch's allocator."""


def room(device: torch.device) -> int:
    """Bytes that this process could still take on a device.

    On CUDA what is free there and what torch's allocator holds in reserve; on a CPU what the
    kernel calls available, or what its control group (a container) leaves, if that is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        started = torch.cuda.memory_reserved(device) > 0
        return free + reserve - (0 if started else CONTEXT)
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    available = next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")
    return min([available, *_left_of_group()])


def _left_of_group() -> list[int]:
    """Bytes that control group v2 leaves; none where it sets no limit."""
    limit, used = CGROUP / "memory.max", CGROUP / "memory.stat"
    if not limit.exists() or limit.read_text().strip() == "max":
        return []
    held = dict(line.split() for line in used.read_text().splitlines())
    # Cached files are given up where memory is short.
    return [int(limit.read_text()) - int(held["anon"])]


def require_room(
    method: Method,
    backbone: Any,
    sizes: Sequence[str],
    *,
    recipe: Recipe,
    devices: Devices,
    pictures: int,
    force: bool,
) -> Plan:
    """Print the plan of a run that is about to start; refuse it if it cannot fit.

    Args:
        backbone: loaded, so its weights are no longer part of what is free.
        sizes: of pictures learned from, as "HEIGHTxWIDTH" in pixels.
        force: only print.

    Raises:
        UserError: its peak is above what is free on this device, with what would fit.
    """
    height, width = max((_sides(size) for size in sizes), key=lambda sides: sides[0] * sides[1])
    device = backbone.device
    kind: Any = type(backbone)  # which has `empty`
    known: Any = method
    rehearsal = _rehearsal(
        kind, backbone.checkpoint, backbone.precision, known, recipe.optimizer,
        recipe.average is not None, height, width, device.type == "cuda",
    )  # fmt: skip
    run = Run(
        batch=recipe.batch, pictures=pictures, devices=devices, precision=backbone.precision,
        device=device, recompute=devices.recompute,
    )  # fmt: skip
    plan = predict(rehearsal, run)
    # Processes on a machine's CPUs share what is free; each has loaded its base by now.
    sharing = devices.count if device.type == "cpu" else 1
    memory = room(device) // sharing + sum(loaded(rehearsal, backbone.precision).values())
    print(short(plan, memory), flush=True)
    if plan.peak > memory and not force:
        raise refusal(plan, memory, cheaper(rehearsal, run, memory))
    return plan


@functools.lru_cache(maxsize=1)
def _rehearsal(
    backbone: Any,
    checkpoint: Checkpoint,
    precision: Precision,
    method: Method,
    optimizer: Any,
    average: bool,
    height: int,
    width: int,
    cuda: bool,
) -> Rehearsal:
    """The last one, for the next subject."""
    return Rehearsal(
        lambda: backbone.empty(checkpoint, precision=precision), method,
        optimizer=optimizer, average=average, height=height, width=width, cuda=cuda,
    )  # fmt: skip


def _sides(size: str) -> tuple[int, int]:
    height, width = size.split("x")
    return int(height), int(width)
