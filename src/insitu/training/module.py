"""The Lightning module and the callbacks of tuning; it knows the four verbs and no paper."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from insitu.methods import Method
from insitu.training.data import Draw, SubjectData


class Steps(Sampler[int]):
    """The numbers of the steps that are still to be taken."""

    def __init__(self, module: lightning.LightningModule, steps: int) -> None:
        self.module, self.steps = module, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.module.global_step, self.steps))

    def __len__(self) -> int:
        return self.steps - self.module.global_step


class Tuning(lightning.LightningModule):
    """Trains a method's adapter on one subject; only the adapter is a parameter, and saved."""

    def __init__(
        self,
        method: Method,
        backbone: Any,
        data: SubjectData,
        *,
        steps: int,
        lr: float,
        cooldown: float,
    ) -> None:
        super().__init__()
        self.adapter = method.attach(backbone)
        # In a tuple, so that the frozen base is no submodule: it is neither saved nor counted.
        self._frozen = (method, backbone, data)
        self.steps, self.lr, self.cooldown = steps, lr, cooldown

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam; over the last `cooldown` of the steps, a share, its rate falls linearly to 0."""
        optimizer = torch.optim.Adam(self.adapter.parameters(), self.lr)
        falling = max(1.0, self.cooldown * self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (self.steps - step) / falling)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Draw]:
        data = self._frozen[2]
        draws = _Draws(data.draw, self.steps)
        return DataLoader(draws, batch_size=None, sampler=Steps(self, self.steps))

    def val_dataloader(self) -> DataLoader[Draw]:
        return DataLoader(_Fixed(self._frozen[2].validation()), batch_size=None)

    def training_step(self, draw: Draw, _: int) -> Tensor:
        terms = self._loss(draw)
        total = torch.stack(list(terms.values())).sum()
        self.log("loss", total, prog_bar=True)
        self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        return total

    def validation_step(self, draw: Draw, _: int) -> None:
        terms = self._loss(draw)
        total = torch.stack(list(terms.values())).sum()
        self.log("validation_loss", total, prog_bar=True, batch_size=1)

    def _loss(self, draw: Draw) -> dict[str, Tensor]:
        method, backbone, _ = self._frozen
        return method.loss(backbone, draw.batch, draw.noise, draw.t)

    def transfer_batch_to_device(self, batch: Draw, device: torch.device, _: int) -> Draw:
        return batch.to(device)


class _Draws(torch.utils.data.Dataset[Draw]):
    def __init__(self, draw: Callable[[int], Draw], steps: int) -> None:
        self.draw, self.steps = draw, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Draw:
        return self.draw(step)


class _Fixed(torch.utils.data.Dataset[Draw]):
    def __init__(self, draws: Sequence[Draw]) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> Draw:
        return self.draws[index]


class Pictures(lightning.Callback):
    """Paints the same requests whenever validation has run, side by side in one PNG."""

    def __init__(self, paint: Callable[[], Sequence[NDArray[np.uint8]]], folder: Path) -> None:
        self.paint, self.folder = paint, folder

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{trainer.global_step:06d}.png"
        side_by_side(self.paint()).save(path)
        for logger in trainer.loggers:
            keep = getattr(logger, "keep_picture", None)
            if keep is not None:
                keep(path)


def side_by_side(pictures: Sequence[NDArray[np.uint8]], height: int = 192) -> Pillow.Image:
    """Pictures [H, W, 3] of any sizes in a row, brought to one height in pixels."""
    row = []
    for picture in map(Pillow.fromarray, pictures):
        width = max(1, round(picture.width * height / picture.height))
        row.append(np.asarray(picture.resize((width, height))))
    return Pillow.fromarray(np.hstack(row))


class Curve(lightning.Callback):
    """The validation losses so far, as JSON lines, also after an interruption."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        known = {}
        if self.path.exists():
            lines = map(json.loads, self.path.read_text().splitlines())
            known = {line["step"]: line for line in lines}
        step = trainer.global_step
        loss = float(trainer.callback_metrics["validation_loss"])
        known[step] = {"step": step, "validation_loss": round(loss, 6)}
        self.path.write_text("".join(f"{json.dumps(known[k])}\n" for k in sorted(known)))
