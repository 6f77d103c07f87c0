"""From a subject's photos to its adapter package: resumable, exact, published as a whole."""

import hashlib
import json
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from safetensors.torch import save_file

from insitu.digest import code_digest, file_digest
from insitu.files import replace_text, replacing
from insitu.methods import Method, Request
from insitu.records.engines import RegularPhoto
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package, write_run
from insitu.training.checkpoint_io import SafetensorsIO
from insitu.training.data import Sample, SubjectData, to_sample
from insitu.training.module import Curve, Pictures, Tuning, side_by_side
from insitu.training.run_logger import RUN_ID, RunLogger
from insitu.work import work_folder

LAST = "last.ckpt"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides a tuned adapter, apart from the photos, the method and the base.

    Attributes:
        steps, batch, lr: of the training.
        cooldown: the share of the steps, the last ones, over which the rate falls to 0.
        drop: the share of prompts that are replaced by the empty one.
        grow: how much longer a mask's sides become at most than the box's.
        identifier: the word that stands for the subject.
        regular_share: the share of a batch that is drawn from the regularization pictures.
        context: how much longer the square that is looked at is than the box.
        seed: of everything random.
        validate_every, save_every: in steps; they do not decide the adapter.
    """

    steps: int
    batch: int
    lr: float
    cooldown: float
    drop: float
    grow: float
    identifier: str
    regular_share: float
    context: float
    seed: int
    validate_every: int
    save_every: int

    def behaviour(self) -> dict[str, Any]:
        """All that decides the adapter."""
        watched = ("validate_every", "save_every")
        return {key: value for key, value in asdict(self).items() if key not in watched}


def data_digest(photos: Sequence[SubjectPhoto], regular: Sequence[RegularPhoto]) -> str:
    """SHA-256 over everything that photos and regularization pictures teach, in their order."""
    total = hashlib.sha256()
    rows: list[SubjectPhoto | RegularPhoto] = [*photos, *regular]
    for photo in rows:
        words = photo.prompt if isinstance(photo, RegularPhoto) else photo.class_word
        facts = [photo.id, words, list(photo.box.xyxy01)]
        picture = hashlib.sha256(photo.image.data).hexdigest()
        total.update(f"{json.dumps(facts)}{picture}\n".encode())
    return total.hexdigest()


def input_digest(
    photos: Sequence[SubjectPhoto],
    regular: Sequence[RegularPhoto],
    plan: Plan,
    method: Any,
    base: str,
) -> str:
    """What a subject's adapter follows from; a finished one with this digest is kept."""
    facts = {
        "data": data_digest(photos, regular), "plan": plan.behaviour(), "method": method.name,
        "settings": asdict(method.settings), "base": base,
        "code": code_digest("backbones", "methods", "training"),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tune(
    photos: Sequence[SubjectPhoto],
    target: Path,
    *,
    regular: Sequence[RegularPhoto],
    plan: Plan,
    method: Any,
    backbone: Any,
    logger: RunLogger | None = None,
    progress: bool = False,
    root: Path | None = None,
) -> Package:
    """Tune on one subject and publish its package at `target`.

    Interrupted anywhere, the next call continues from the last checkpoint and ends with the very
    weights that an uninterrupted run has on the same machine. The backbone is left as it was.

    Raises:
        UserError: another process tunes this subject; also what `SubjectData` refuses.
    """
    digest = input_digest(photos, regular, plan, method, backbone.digest)
    place = {} if root is None else {"root": root}
    with work_folder("tune", digest, **place) as work:
        started = time.monotonic()
        if logger is not None:
            logger.open(work)
            own = {f"{method.name}.{key}": v for key, v in asdict(method.settings).items()}
            logger.tell(plan.behaviour() | own)
        samples = _samples(photos, plan, backbone) + _regular(regular, plan, backbone)
        data = SubjectData(
            samples, batch=plan.batch, regular_share=plan.regular_share, drop=plan.drop,
            grow=plan.grow, latent_shape=backbone.latent_shape, seed=plan.seed,
        )  # fmt: skip
        requests = _preview(photos, plan)
        with torch.random.fork_rng():
            torch.manual_seed(plan.seed)  # of the adapter's first weights
            module = Tuning(
                method, backbone, data, steps=plan.steps, lr=plan.lr, cooldown=plan.cooldown
            )
        try:
            trainer = _trainer(plan, work, requests, method, backbone, logger, progress)
            last = work / LAST
            trainer.fit(module, ckpt_path=str(last) if last.exists() else None)
            with replacing(target) as fresh:
                card = _write(photos, regular, plan, method, backbone, fresh)
                side_by_side(method.paint(backbone, requests)).save(fresh / "preview.png")
                shutil.copy(work / "validation.jsonl", fresh)
                facts = {
                    "input_digest": digest, "digest": card.digest, "host": socket.gethostname(),
                    "seconds": round(time.monotonic() - started, 1),
                    "run_id": logger.run_id if logger is not None else None,
                }  # fmt: skip
                write_run(fresh, facts)
        finally:
            method.detach(backbone)
        # The next adapter from these inputs is another run, from the start.
        for done in (last, work / RUN_ID):
            done.unlink(missing_ok=True)
    return Package.open(target)


class _Bar(TQDMProgressBar):
    """Without the logger's version: it is MLflow's id of the run, too long to stand in a bar."""

    def get_metrics(self, trainer: lightning.Trainer, module: Any) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}


def _trainer(
    plan: Plan,
    work: Path,
    requests: Sequence[Request],
    method: Method,
    backbone: Any,
    logger: RunLogger | None,
    progress: bool,
) -> lightning.Trainer:
    checkpoint = ModelCheckpoint(
        dirpath=work, filename=LAST.removesuffix(".ckpt"), every_n_train_steps=plan.save_every,
        save_top_k=1, monitor=None, enable_version_counter=False,
    )  # fmt: skip
    callbacks: list[lightning.Callback] = [
        checkpoint,
        Pictures(lambda: method.paint(backbone, requests), work / "pictures"),
        Curve(work / "validation.jsonl"),
    ]
    if progress:
        callbacks.append(_Bar(refresh_rate=10))
    return lightning.Trainer(
        max_steps=plan.steps, max_epochs=-1, accelerator=backbone.device.type, devices=1,
        logger=logger or False, callbacks=callbacks, plugins=[SafetensorsIO()],
        gradient_clip_val=1.0,
        val_check_interval=plan.validate_every, check_val_every_n_epoch=None,
        num_sanity_val_steps=0, enable_progress_bar=progress, enable_model_summary=False,
        log_every_n_steps=10,
    )  # fmt: skip


def _samples(photos: Sequence[SubjectPhoto], plan: Plan, backbone: Any) -> list[Sample]:
    return [
        to_sample(
            photo.id, photo.image.array(), photo.box.xyxy01,
            f"a {plan.identifier} {photo.class_word}", size=backbone.size, context=plan.context,
        )
        for photo in photos
    ]  # fmt: skip


def _regular(regular: Sequence[RegularPhoto], plan: Plan, backbone: Any) -> list[Sample]:
    """The regularization pictures; the base was asked without the identifier, which goes in now."""
    samples = []
    for index, photo in enumerate(regular):
        described = " ".join([*photo.attributes, photo.class_word])
        article = "an" if described[0] in "aeiou" else "a"
        samples.append(
            to_sample(
                f"regular/{index}", photo.image.array(), photo.box.xyxy01,
                f"{article} {plan.identifier} {described}", size=backbone.size,
                context=plan.context, regular=True,
            )
        )  # fmt: skip
    return samples


def _preview(photos: Sequence[SubjectPhoto], plan: Plan) -> list[Request]:
    """The subject painted anew into its own photos, at most four."""
    return [
        Request(
            image=photo.image.array(), box_xyxy01=photo.box.xyxy01, seed=plan.seed,
            prompt=f"a {plan.identifier} {photo.class_word}",
        )
        for photo in photos[:4]
    ]  # fmt: skip


def _write(
    photos: Sequence[SubjectPhoto],
    regular: Sequence[RegularPhoto],
    plan: Plan,
    method: Any,
    backbone: Any,
    folder: Path,
) -> Card:
    save_file(method.state(backbone), folder / WEIGHTS)
    card = Card(
        method=method.name,
        subject=photos[0].subject,
        class_word=photos[0].class_word,
        identifier=plan.identifier,
        base=Base(
            path=backbone.checkpoint.path,
            revision=backbone.checkpoint.revision,
            weights_digest=backbone.digest,
        ),
        data_digest=data_digest(photos, regular),
        settings={"plan": plan.behaviour(), "method": asdict(method.settings)},
        seed=plan.seed,
        weights_sha256=file_digest(folder / WEIGHTS),
    )
    replace_text(folder / CARD, card.text())
    return card
