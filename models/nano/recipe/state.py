"""Training state in one safetensors file: weights, their averages, optimizer state, counters.

The counters are JSON in the file's own header, so that one `os.replace` publishes everything.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from insitu.errors import UserError

CHECKPOINT = "checkpoint.safetensors"


class Average:
    """Exponential moving average of modules' weights; buffers follow the live ones.

    The decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the first, random
    weights are soon forgotten.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay, self.modules = decay, modules
        self.live = {n: dict(m.named_parameters()) for n, m in modules.items()}
        self.means = {
            n: {k: p.detach().clone() for k, p in named.items()} for n, named in self.live.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, live in self.live.items():
            torch._foreach_lerp_(list(self.means[name].values()), list(live.values()), 1 - decay)

    def states(self) -> dict[str, dict[str, Tensor]]:
        """State dict of each module, with averages in place of the parameters."""
        result = {}
        for name, module in self.modules.items():
            by_id = {id(p): self.means[name][key] for key, p in self.live[name].items()}
            # keep_vars: tied parameters keep their identity under each of their names.
            state = module.state_dict(keep_vars=True)
            result[name] = {k: by_id.get(id(v), v.detach()).clone() for k, v in state.items()}
        return result


def save(
    work: Path,
    header: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: list[Optimizer],
    average: Average | None,
) -> None:
    """Write the checkpoint atomically."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"weights/{name}/{key}"] = value
    for name, means in (average.means if average is not None else {}).items():
        for key, value in means.items():
            tensors[f"ema/{name}/{key}"] = value
    for number, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value)
    work.mkdir(parents=True, exist_ok=True)
    temporary = work / f".{CHECKPOINT}.{os.getpid()}.tmp"
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    plain = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    save_file(plain, temporary, metadata={"state": json.dumps(header, sort_keys=True)})
    os.replace(temporary, work / CHECKPOINT)


def read_header(work: Path) -> dict[str, Any] | None:
    """Return the counters and settings of the checkpoint in `work`, None if there is none."""
    path = work / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})["state"])
    except Exception as error:
        raise UserError(
            f"{path.name} in {work.name}/ cannot be read ({error}).",
            "It is damaged, or not a training checkpoint.",
            "Delete the work folder to start over.",
        ) from error
    return header


def load(
    work: Path,
    modules: Mapping[str, nn.Module],
    optimizers: list[Optimizer],
    average: Average | None,
) -> None:
    """Put the checkpoint's tensors back in place; names and shapes must match exactly."""
    weights: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    means: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    with safe_open(work / CHECKPOINT, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
            kind, name, rest = key.split("/", 2)
            if kind == "optimizer":
                index, entry = rest.split("/", 1)
                states[int(name)].setdefault(int(index), {})[entry] = file.get_tensor(key)
            else:
                (weights if kind == "weights" else means)[name][rest] = file.get_tensor(key)
    try:
        for name, module in modules.items():
            module.load_state_dict(weights[name])
    except RuntimeError as error:
        raise UserError(
            f"The checkpoint in {work.name}/ does not fit the model ({error}).",
            "The model's layout changed after the checkpoint was written.",
            "Delete the work folder to start over.",
        ) from error
    for optimizer, entries in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
    for name, live in (average.means if average is not None else {}).items():
        for key, mean in live.items():
            mean.copy_(means[name][key])
