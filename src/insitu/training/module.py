"""The Lightning module of all methods: it knows the four verbs and no paper."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from insitu.backbones.sharding import shard
from insitu.errors import UserError
from insitu.methods import Method
from insitu.training import averages, optimizers
from insitu.training.data import BANDS, From, Minibatch, Minibatches, Validation
from insitu.training.recipe import Recipe
from insitu.training.start import begin
from insitu.training.times import loss_weights


class Training(lightning.LightningModule):
    """Trains a method's adapter; only the adapter is a parameter, and saved.

    Attributes:
        bands: the last validation's mean losses by time, as in `BANDS`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Any,
        recipe: Recipe,
        *,
        batches: Minibatches,
        validation: Validation,
        start: Mapping[str, Tensor] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)  # of the adapter's first weights
            self.adapter = method.attach(backbone)
        if start is not None:
            begin(method, backbone, start)
        # In a tuple, so that the frozen base is no submodule: it is neither saved nor counted.
        self._frozen = (method, backbone)
        self.recipe, self.batches, self.validation = recipe, batches, validation
        self.workers = workers
        self.bands: dict[float, float] = {}
        self._turns: list[Tensor] = []
        self._sums: dict[float, list[float]] = {}
        recipe.learning(0, self._names())

    def configure_model(self) -> None:
        """Spread the base over the devices, adapter included, where the strategy asks for it."""
        if self.device_mesh is not None:
            shard(self._frozen[1].denoiser, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        own = self.recipe
        optimizer = optimizers.make(self.adapter.named_parameters(), own.optimizer)
        if own.average is not None:
            averages.keep_average(optimizer, own.average)
        schedule = LambdaLR(optimizer, own.factor())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Minibatch]:
        turns = self.batches.share.accumulate
        sampler = From(lambda: self.global_step, len(self.batches), turns)
        return self._loader(self.batches, sampler=sampler)

    def val_dataloader(self) -> DataLoader[Minibatch]:
        return self._loader(self.validation)

    def on_train_batch_start(self, batch: Minibatch, index: int) -> None:
        if self.recipe.stages:
            learning = self.recipe.learning(self.global_step, self._names())
            for name, parameter in self.adapter.named_parameters():
                parameter.requires_grad_(name in learning)

    def training_step(self, batch: Minibatch, index: int) -> Tensor:
        """The mean over this process's part of the batch; means of equal parts are the batch's."""
        terms = self._terms(batch)
        losses = torch.stack(list(terms.values())).sum(0)
        if not torch.isfinite(losses).all():
            self._refuse(batch, losses)
        loss = losses.mean()
        self._turns.append(loss.detach())
        self.log_dict({f"loss/{name}": term.mean() for name, term in terms.items()}, sync_dist=True)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all parameters and devices; refuse one that is not finite."""
        limit = self.recipe.clip if self.recipe.clip is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), limit)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(norm):
            raise UserError(
                f"Step {self.global_step} of the training was taken.",
                "Its loss is finite and its gradient is not; the weights would be lost.",
                "Lower the rate or clip harder; in float16, use bfloat16. The last checkpoint is"
                " whole, and the next run continues from it.",
            )
        loss = torch.stack(self._turns).mean()
        self._turns = []
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        self.log("norm/gradient", norm)
        self.log("epochs", self.batches.order.epoch(self.global_step + 1))

    def on_validation_epoch_start(self) -> None:
        self._sums = {t: [0.0, 0.0] for t in BANDS}

    def validation_step(self, batch: Minibatch, index: int) -> None:
        losses = torch.stack(list(self._terms(batch).values())).sum(0)
        for t, loss in zip(batch.t.tolist(), losses.tolist(), strict=True):
            band = min(BANDS, key=lambda known: abs(known - t))
            self._sums[band][0] += loss * batch.counts
            self._sums[band][1] += batch.counts

    def on_validation_epoch_end(self) -> None:
        sums = torch.tensor([self._sums[t] for t in BANDS], device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        if not sums[:, 1].all():
            return  # nothing is held out
        means = (sums[:, 0] / sums[:, 1]).tolist()
        self.bands = dict(zip(BANDS, means, strict=True))
        self.log("validation_loss", sum(means) / len(means), prog_bar=True)
        self.log_dict({f"validation_loss/t{t}": mean for t, mean in self.bands.items()})

    def transfer_batch_to_device(
        self, batch: Minibatch, device: torch.device, dataloader_idx: int
    ) -> Minibatch:
        return batch.to(device)

    def _terms(self, batch: Minibatch) -> dict[str, Tensor]:
        method, backbone = self._frozen
        terms = method.loss(backbone, batch.told, batch.noise, batch.t)
        if self.recipe.min_snr is None:
            return terms
        steps = backbone.timesteps(batch.t)
        weights = loss_weights(backbone.schedule, steps, gamma=self.recipe.min_snr)
        return {name: term * weights for name, term in terms.items()}

    def _refuse(self, batch: Minibatch, losses: Tensor) -> None:
        bad = [
            f"{id} at t={t:.3f}"
            for id, t, loss in zip(batch.ids, batch.t.tolist(), losses.tolist(), strict=True)
            if loss != loss or abs(loss) == float("inf")
        ]
        raise UserError(
            f"Step {self.global_step} of the training was taken on {', '.join(batch.ids)}.",
            f"The loss is not finite for {', '.join(bad)}; a step with it would ruin the weights.",
            "Look at those examples, lower the rate, or use bfloat16 in place of float16. The last"
            " checkpoint is whole, and the next run continues from it.",
        )

    def _names(self) -> list[str]:
        return [name for name, _ in self.adapter.named_parameters()]

    def _loader(self, items: Any, sampler: Iterable[int] | None = None) -> DataLoader[Minibatch]:
        return DataLoader(
            items, batch_size=None, sampler=sampler, num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )  # fmt: skip
