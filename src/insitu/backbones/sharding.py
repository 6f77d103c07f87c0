"""A base spread over several devices (FSDP2), each holding a part of every weight."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: Any, mesh: DeviceMesh) -> None:
    """Spread a diffusers model over a one-dimensional mesh, block by block.

    Only the block at work is whole on a device at any time. Values do not change. A part within it
    that is called by itself says so with a true `called_alone`, and is whole while it is at work:
    what comes out of it need not come out of its last block, whose weights would not be gathered
    for the way back then.
    """
    repeated = set(getattr(model, "_repeated_blocks", None) or ())
    alone = [module for module in model.modules() if getattr(module, "called_alone", False)]
    within = {inner for module in alone for inner in module.modules()}
    for module in reversed(list(model.modules())):  # what is within another comes before it
        if module in alone or (type(module).__name__ in repeated and module not in within):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


@torch.no_grad()
def restore(model: Any, kept: Mapping[str, Tensor]) -> None:
    """Give a model back weights that were kept whole on every rank, before it was spread or after.

    Raises:
        KeyError: one of its weights was not kept.
    """
    for name, own in model.state_dict().items():
        old = kept[name].to(own.device)
        if isinstance(own, DTensor):
            # Every rank has its own copy to cut its part from: nothing is sent.
            old = distribute_tensor(old, own.device_mesh, own.placements, src_data_rank=None)
        own.copy_(old)


def whole(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU, gathered when it is spread; then all ranks must ask together."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return torch.clone(tensor.cpu(), memory_format=torch.contiguous_format)
