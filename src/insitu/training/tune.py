"""From a subject's photos to its adapter package: resumable, exact, published as a whole."""

import hashlib
import json
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from PIL import Image as Pillow
from safetensors.torch import save_file

from insitu.digest import file_digest
from insitu.files import replace_text, replacing
from insitu.methods import Image, Method, Request
from insitu.randomness import rng_for
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package, write_run
from insitu.training.checkpoint_io import SafetensorsIO
from insitu.training.data import Sample, SubjectData, to_sample
from insitu.training.module import Curve, Pictures, Tuning, side_by_side
from insitu.training.run_logger import RUN_ID, RunLogger
from insitu.training.work import work_folder

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
        regular_images, regular_words, regular_share: the regularization images: how many, the
            attribute words of which each shows one, their share of a batch.
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
    regular_images: int
    regular_words: tuple[str, ...]
    regular_share: float
    context: float
    seed: int
    validate_every: int
    save_every: int

    def behaviour(self) -> dict[str, Any]:
        """All that decides the adapter."""
        watched = ("validate_every", "save_every")
        return {key: value for key, value in asdict(self).items() if key not in watched}


def photos_digest(photos: Sequence[SubjectPhoto]) -> str:
    """SHA-256 over everything that photos teach, in their order."""
    total = hashlib.sha256()
    for photo in photos:
        facts = [photo.id, photo.class_word, list(photo.box.xyxy01)]
        picture = hashlib.sha256(photo.image.data).hexdigest()
        total.update(f"{json.dumps(facts)}{picture}\n".encode())
    return total.hexdigest()


def input_digest(photos: Sequence[SubjectPhoto], plan: Plan, method: Any, base: str) -> str:
    """What a subject's adapter follows from; a finished one with this digest is kept."""
    facts = {
        "photos": photos_digest(photos), "plan": plan.behaviour(), "method": method.name,
        "settings": asdict(method.settings), "base": base, "code": _code_digest(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _code_digest() -> str:
    """Of the packages that tuning runs: an adapter made by other code is made again."""
    root = Path(__file__).resolve().parents[1]
    files = [
        p for name in ("backbones", "methods", "training") for p in (root / name).rglob("*.py")
    ]
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def tune(
    photos: Sequence[SubjectPhoto],
    target: Path,
    *,
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
    digest = input_digest(photos, plan, method, backbone.digest)
    place = {} if root is None else {"root": root}
    with work_folder("tune", digest, **place) as work:
        started = time.monotonic()
        if logger is not None:
            logger.open(work)
            own = {f"{method.name}.{key}": v for key, v in asdict(method.settings).items()}
            logger.tell(plan.behaviour() | own)
        samples = _samples(photos, plan, backbone) + _regular(photos, plan, method, backbone, work)
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
                card = _write(photos, plan, method, backbone, fresh)
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


def _regular(
    photos: Sequence[SubjectPhoto], plan: Plan, method: Any, backbone: Any, work: Path
) -> list[Sample]:
    """Pictures of the class with one attribute each, painted by the base in the photos' boxes.

    The base does not know the identifier, so it is asked without; in training it stands there.
    """
    if not plan.regular_images or not plan.regular_words:
        return []
    rng = rng_for("regularization", plan.seed, photos[0].subject)
    requests, prompts = [], []
    for index in range(plan.regular_images):
        photo = photos[index % len(photos)]
        word = plan.regular_words[int(rng.integers(len(plan.regular_words)))]
        article, kind = "an" if word[0] in "aeiou" else "a", f"{word} {photo.class_word}"
        prompts.append(f"{article} {plan.identifier} {kind}")
        requests.append(
            Request(
                image=photo.image.array(), box_xyxy01=photo.box.xyxy01,
                prompt=f"{article} {kind}", seed=int(rng.integers(2**31)),
            )
        )  # fmt: skip

    def cut(pictures: Sequence[Image]) -> list[Sample]:
        return [
            to_sample(
                f"regular/{index}", picture, request.box_xyxy01, prompt, size=backbone.size,
                context=plan.context, regular=True,
            )
            for index, (picture, request, prompt) in enumerate(
                zip(pictures, requests, prompts, strict=True)
            )
        ]  # fmt: skip

    # Painted once and kept side by side in a picture, which is also there to be looked at.
    kept = work / "regular.png"
    if not kept.exists():
        painted = cut(method.paint(backbone, requests))
        temporary = work / ".regular.png"
        Pillow.fromarray(np.hstack([sample.image for sample in painted])).save(temporary)
        temporary.replace(kept)
    with Pillow.open(kept) as strip:
        pictures = np.split(np.asarray(strip.convert("RGB")), len(requests), axis=1)
    places = cut([request.image for request in requests])
    return [replace(place, image=image) for place, image in zip(places, pictures, strict=True)]


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
    photos: Sequence[SubjectPhoto], plan: Plan, method: Any, backbone: Any, folder: Path
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
        data_digest=photos_digest(photos),
        settings={"plan": plan.behaviour(), "method": asdict(method.settings)},
        seed=plan.seed,
        weights_sha256=file_digest(folder / WEIGHTS),
    )
    replace_text(folder / CARD, card.text())
    return card
