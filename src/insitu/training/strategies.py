"""How several processes work together: DDP, or FSDP2 with our own checkpoints."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

from insitu.training.recipe import Devices, Recipe

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others, who may be painting or saving."""


class Sharded(ModelParallelStrategy):
    """FSDP2. Checkpoints are one whole file in the format of every other strategy, so a run
    continues on any number of devices; Lightning's own would have to be unpickled.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(
            data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False,
            timeout=PATIENCE,
        )  # fmt: skip

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path)
        assert self.model is not None
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=whole)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_NAME, self.model
            )
            set_optimizer_state_dict(self.model, optimizer, named, options=whole)
        return checkpoint


def strategy(devices: Devices, recipe: Recipe) -> Strategy | str:
    """The Lightning strategy for these devices."""
    if devices.ranks == 1:
        return "auto"
    if devices.strategy == "fsdp":
        return Sharded(devices.ranks)
    # In a stage some parameters get no gradient, and DDP would wait for it.
    return DDPStrategy(timeout=PATIENCE, find_unused_parameters=bool(recipe.stages))
