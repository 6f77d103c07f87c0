"""Training checkpoints as safetensors and JSON: nothing is unpickled, ever.

Lightning's checkpoint is a tree of dicts and lists. Its tensors go into a safetensors file under
numbered names, everything else into that file's header, as JSON in which a tensor is its number.
"""

import json
import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from insitu.errors import UserError

TREE = "tree"


class SafetensorsIO(CheckpointIO):
    """Writes and reads checkpoint files; a file is whole or it is not there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write under a temporary name, flush to disk, then rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_pack(checkpoint, tensors), allow_nan=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        save_file(tensors, temporary, metadata={TREE: tree})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint back.

        Raises:
            UserError: the file is no checkpoint of ours.
        """
        device = map_location if isinstance(map_location, str | torch.device) else "cpu"
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tree = json.loads((file.metadata() or {})[TREE])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
            raise UserError(
                f"The training checkpoint {path} was to be continued.",
                f"It is not one of ours: {error}.",
                "Delete it to train from the start.",
            ) from None
        result: dict[str, Any] = _unpack(tree, tensors)
        return result

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(lightning.Callback):
    """Saves every few steps; where a validation is due, after it.

    So a run that is killed in between validates again, and no point of its curve is lost.

    Args:
        path: of the one file that is kept.
        every, validate: steps between checkpoints, and between validations.
    """

    def __init__(self, path: Path, *, every: int, validate: int) -> None:
        self.path, self.every, self.validate = path, every, validate
        self._saved = 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % self.validate:
            self._save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        # Between the turns of a step the state is half; only after the last one it is a new step.
        if trainer.global_step % self.every == 0 and trainer.global_step > self._saved:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.path)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for any tree of dicts, lists, tuples, tensors, paths and plain values.

    Every container is written as [kind, content], so that tuples and integer keys come back.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            return ["tensor", name]
        case dict():
            return ["dict", [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]]
        case list():
            return ["list", [_pack(item, tensors) for item in value]]
        case tuple():
            return ["tuple", [_pack(item, tensors) for item in value]]
        case Path():
            return ["path", str(value)]
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be kept in a training checkpoint")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
        case "list":
            return [_unpack(item, tensors) for item in content]
        case "tuple":
            return tuple(_unpack(item, tensors) for item in content)
        case "path":
            return Path(content)
        case _:
            raise KeyError(kind)
