"""What is looked at while training: pictures, curves, speed, memory, whether it works at all."""

import json
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from insitu.files import replace_text
from insitu.methods import Image, Request
from insitu.training import averages

NO_EFFECT = 1e-4
"""A change of the validation loss from the untrained adapter's by less than this share is none."""
HEIGHT, OUTLINE = 192, (255, 0, 160)
"""Of pictures that are looked at: their height in pixels, the colour around a request's box."""
Score = Callable[[Sequence[Request], Sequence[Image]], Mapping[str, float]]
"""Figures, by name, of what was painted for the requests."""


class Averaged(lightning.Callback):
    """Validates, and paints, with the averaged weights.

    In the list of callbacks it stands behind those that paint and before the one that saves.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._swap: Any = None

    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            self._swap = averages.averaged(trainer.optimizers[0], self.model)
            self._swap.__enter__()

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if self._swap is not None:
            self._swap.__exit__(None, None, None)
            self._swap = None


class Pictures(lightning.Callback):
    """Paints the same requests whenever validation has run, and shows them below what was asked.

    All ranks paint, since they may hold the base together; the first one keeps the picture, and
    scores what is in it.

    Args:
        paint: the requests, in their order.
        score: None = nothing is scored.

    Attributes:
        figures: the last scores by name.
    """

    def __init__(
        self,
        paint: Callable[[], Sequence[Image]],
        requests: Sequence[Request],
        folder: Path,
        score: Score | None = None,
    ) -> None:
        self.paint, self.requests, self.folder, self.score = paint, requests, folder, score
        self.figures: dict[str, float] = {}

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        painted = self.paint()
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{trainer.global_step:06d}.png"
        below_requests(self.requests, painted).save(path)
        if self.score is not None:
            self.figures = dict(self.score(self.requests, painted))
        for logger in trainer.loggers:
            scores = {f"benchmark/{name}": value for name, value in self.figures.items()}
            logger.log_metrics(scores, trainer.global_step - 1)  # Lightning counts them from 0
            keep = getattr(logger, "keep_picture", None)
            if keep is not None:
                keep(path)


class Curve(lightning.Callback):
    """The validation losses so far by time, as JSON lines, also after an interruption.

    The first line is the untrained adapter's. When later ones equal it, the adapter has no effect,
    and that is said early: nobody should find out after a night.

    Args:
        pictures: whose scores stand in the lines, too; before this one in the list of callbacks.
    """

    def __init__(self, path: Path, pictures: Pictures | None = None) -> None:
        self.path, self.pictures = path, pictures

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not module.bands or not trainer.is_global_zero:
            return
        known = {line["step"]: line for line in curve(self.path)}
        step = trainer.global_step
        if trainer.sanity_checking and step in known:
            return
        bands = {f"t{t}": round(loss, 6) for t, loss in module.bands.items()}
        mean = round(sum(module.bands.values()) / len(module.bands), 6)
        known[step] = {"step": step, "validation_loss": mean, **bands}
        if self.pictures is not None and not trainer.sanity_checking:
            known[step] |= {name: round(v, 6) for name, v in self.pictures.figures.items()}
        lines = [known[step] for step in sorted(known)]
        replace_text(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))
        first = lines[0]
        if step > 0 and first["step"] == 0 and not _differ(first, known[step]):
            warnings.warn(
                f"After {step} steps the validation losses are those of the untrained adapter to"
                f" {NO_EFFECT:.2%}: it has no effect. Look at its targets, its rank and the rate.",
                stacklevel=1,
            )


def curve(path: Path) -> list[dict[str, float]]:
    """The lines of a curve's file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _differ(one: dict[str, float], other: dict[str, float]) -> bool:
    return any(abs(one[key] - other[key]) > NO_EFFECT * one[key] for key in one if key != "step")


class Meter(lightning.Callback):
    """Examples a second, memory, the rate and norms, in the steps that Lightning logs.

    Norms are of the whole adapter and of its last change, on any number of devices.

    Args:
        batch: examples a step, over all devices and turns.
        every: steps between logs, as the trainer has it; others' figures would not be kept.
        clock: seconds, of any origin.

    Attributes:
        rate: examples a second since the log before; 0 = not known yet.
    """

    def __init__(self, batch: int, every: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch, self.every, self.clock = batch, every, clock
        self.rate = 0.0
        self._since: tuple[float, int] | None = None
        self._before: list[Tensor] | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Any, index: int
    ) -> None:
        if self._since is None:
            self._since = self.clock(), trainer.global_step

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: Any, optimizer: Any
    ) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self._before = [p.detach().clone() for p in module.adapter.parameters()]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if self._before is None or self._since is None:
            return
        now = [p.detach() for p in module.adapter.parameters()]
        change = [a - b for a, b in zip(now, self._before, strict=True)]
        self._before = None
        (then, first), step = self._since, trainer.global_step
        self._since = self.clock(), step
        self.rate = (step - first) * self.batch / (self._since[0] - then)
        module.log_dict(
            {
                "examples_per_second": self.rate,
                "norm/adapter": norm(now),
                "norm/update": norm(change),
                "memory_mib": memory_mib(module.device),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._since = None  # painting is not training

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            told = getattr(logger, "before_checkpoint", None)
            if told is not None:
                told()


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all numbers together; of spread ones, all ranks must ask together."""
    total = nn.utils.get_total_norm([tensor.float() for tensor in tensors])
    return total.full_tensor() if isinstance(total, DTensor) else total


def memory_mib(device: torch.device) -> float:
    """The peak so far: of what torch holds on a GPU, of the process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def side_by_side(pictures: Sequence[Image], height: int = HEIGHT) -> Pillow.Image:
    """Pictures [H, W, 3] of any sizes in a row, brought to one height in pixels."""
    return Pillow.fromarray(np.hstack([_enlarged(picture, height) for picture in pictures]))


def below_requests(
    requests: Sequence[Request], painted: Sequence[Image], height: int = HEIGHT
) -> Pillow.Image:
    """The requests' photos with their boxes outlined, and what was painted for each below it."""
    asked = [_outlined(_enlarged(r.image, height), r) for r in requests]
    rows = [side_by_side(row, height) for row in (asked, painted)]
    return Pillow.fromarray(np.vstack([np.asarray(row) for row in rows]))


def _enlarged(picture: Image, height: int) -> Image:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(Pillow.fromarray(picture).resize((width, height)))


def _outlined(picture: Image, request: Request) -> Image:
    drawn = Pillow.fromarray(picture)
    for placement in request.placements:
        corners = np.array(placement.box_xyxy01) * np.tile((drawn.width - 1, drawn.height - 1), 2)
        ImageDraw.Draw(drawn).rectangle([float(c) for c in corners], outline=OUTLINE, width=2)
    return np.asarray(drawn)
