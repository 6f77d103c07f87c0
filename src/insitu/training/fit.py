"""One training run of one method, from encoded examples to its adapter's weights.

It is resumable, and exact: interrupted anywhere, the next call continues from the last checkpoint
and ends with the very weights that an uninterrupted run has on the same machine.
"""

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers.logger import Logger
from safetensors.torch import save_file
from torch import Tensor

from insitu.backbones.precision import require_trainable
from insitu.errors import UserError
from insitu.methods import Method, Request
from insitu.training import averages
from insitu.training.callbacks import Averaged, Curve, Meter, Pictures, Score, side_by_side
from insitu.training.checkpoint_io import Checkpoints, SafetensorsIO
from insitu.training.data import TEXT, Minibatches, Share, Validation
from insitu.training.encoding import Encoded
from insitu.training.memory import require_room
from insitu.training.module import Training
from insitu.training.order import Order
from insitu.training.progress import progress, quiet
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.strategies import strategy

LAST, ADAPTER, PREVIEW, CURVE = (
    "last.ckpt",
    "adapter.safetensors",
    "preview.png",
    "validation.jsonl",
)


@quiet()
def fit(
    method: Method,
    backbone: Any,
    encoded: Encoded,
    requests: Sequence[Request],
    *,
    recipe: Recipe,
    devices: Devices,
    watch: Watch,
    work: Path,
    logger: Logger | None = None,
    score: Score | None = None,
    show: bool = False,
    start: Mapping[str, Tensor] | None = None,
) -> None:
    """Train, and leave weights, curve and pictures in the work folder. The base is left as it was.

    With several devices every process calls this, each with its own copy of everything.

    Args:
        requests: painted at every validation and at the end.
        score: of what is painted at validations; the first process alone calls it.
        show: tell how far it is.
        start: weights to start from, as far as the adapter has such parts.

    Raises:
        UserError: the base is offloaded, there is too little memory, a batch cannot be shared out,
            a pattern matches nothing, or a loss or a gradient is not finite.
    """
    require_trainable(backbone.precision)
    _require_drops(method, recipe)
    share = Share(
        rank=int(os.environ.get("RANK", 0)), ranks=devices.ranks, accumulate=devices.accumulate
    )
    order = Order(
        encoded.pools, encoded.buckets, shares=recipe.shares, batch=recipe.batch,
        steps=recipe.steps, seed=recipe.seed, blocks=encoded.blocks,
    )  # fmt: skip
    batches = Minibatches(
        encoded, order, times=recipe.times, drop=recipe.drop, seed=recipe.seed, share=share
    )
    size = recipe.batch // (share.ranks * share.accumulate)
    validation = Validation(encoded, size=size, seed=recipe.seed, share=share)
    if watch.plan and int(os.environ.get("RANK", 0)) == 0:
        require_room(
            method, backbone, sorted(set(encoded.buckets)), recipe=recipe, devices=devices,
            pictures=len(requests), force=devices.force,
        )  # fmt: skip
    if devices.recompute:
        backbone.denoiser.enable_gradient_checkpointing()
    module = Training(
        method, backbone, recipe, batches=batches, validation=validation, start=start
    )  # fmt: skip
    try:
        pictures = Pictures(
            lambda: method.paint(backbone, requests), requests, work / "pictures", score
        )
        last = work / LAST
        with warnings.catch_warnings():
            trainer = _trainer(backbone, pictures, module, devices, watch, work, logger, show)
            # Batches are a function of the step and need no workers; batch sizes are in the ids.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*infer the batch_size.*")
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
            # Validation losses are summed over the devices before they are logged.
            warnings.filterwarnings("ignore", ".*sync_dist=True.* when logging on epoch level.*")
            trainer.fit(module, ckpt_path=str(last) if last.exists() else None)
        kept: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if recipe.average is not None:
            kept = averages.averaged(trainer.optimizers[0], backbone.denoiser)
        with kept:
            state, painted = method.state(backbone), method.paint(backbone, requests)
        if trainer.is_global_zero:
            save_file(state, work / ADAPTER)
            (work / CURVE).touch()  # empty where nothing was validated
            side_by_side(painted).save(work / PREVIEW)
    finally:
        method.detach(backbone)
        if devices.recompute:
            backbone.denoiser.disable_gradient_checkpointing()


def _require_drops(method: Method, recipe: Recipe) -> None:
    asked = {name for name, probability in recipe.drop.items() if probability > 0}
    unknown = sorted(asked - {TEXT} - method.drops)
    if unknown:
        raise UserError(
            f"{method.name} was to be trained with {', '.join(unknown)} dropped.",
            "It has no such condition that it can do without, and would ignore that.",
            f"Set drop.{unknown[0]} to 0.",
        )


def _trainer(
    backbone: Any,
    pictures: Pictures,
    module: Training,
    devices: Devices,
    watch: Watch,
    work: Path,
    logger: Logger | None,
    show: bool,
) -> lightning.Trainer:
    recipe = module.recipe
    meter = Meter(recipe.batch, watch.log)
    callbacks: list[lightning.Callback] = [
        pictures,
        Curve(work / CURVE, pictures),
        meter,
        Checkpoints(work / LAST, every=watch.save, validate=watch.validate or recipe.steps + 1),
    ]  # fmt: skip
    if recipe.average is not None:
        callbacks.insert(2, Averaged(backbone.denoiser))  # ends before anything is saved
    if show:
        callbacks.append(progress(meter))
    return lightning.Trainer(
        max_steps=recipe.steps, max_epochs=-1, accelerator=backbone.device.type,
        devices=devices.count, num_nodes=devices.nodes, strategy=strategy(devices, recipe),
        accumulate_grad_batches=devices.accumulate, use_distributed_sampler=False,
        logger=logger or False, callbacks=callbacks, plugins=[SafetensorsIO()],
        val_check_interval=(watch.validate or 1) * devices.accumulate,
        check_val_every_n_epoch=None, limit_val_batches=None if watch.validate else 0,
        num_sanity_val_steps=-1 if watch.validate else 0,
        enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=watch.log,
    )  # fmt: skip
