"""A base spread over several devices (FSDP2), each holding a part of every weight."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(model: Any, mesh: DeviceMesh) -> None:
    """Spread a diffusers model over a one-dimensional mesh, block by block.

    Only the block at work is whole on a device at any time. Values do not change. A part within it
    that is called by itself says so with a true `called_alone`.
    """
    repeated = set(getattr(model, "_repeated_blocks", None) or ())
    for module in reversed(list(model.modules())):  # what is within another comes before it
        alone = getattr(module, "called_alone", False)
        if alone or type(module).__name__ in repeated:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU, gathered when it is spread; then all ranks must ask together."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return torch.clone(tensor.cpu(), memory_format=torch.contiguous_format)
