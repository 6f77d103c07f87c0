"""Faces: an identity embedder (ArcFace) and a five-landmark regressor, two small ViTs.

Both are plain ViTForImageClassification: the embedder's logits are the embedding, the
landmarker's logits are ten coordinates.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, smooth_l1_loss
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from insitu import world
from insitu.evaluation.checkpoints.face import figures

from . import corpus, muon
from .card import write_card
from .face_data import BOX_MARGIN, SCENES, SIZE, TEMPLATE_XY01, draw_person
from .face_grid import draw_grid
from .loop import FitResult, fit, trapezoid
from .settings import read

FOLDER = Path(__file__).resolve().parents[1] / "face"

PATCH = 8
MEAN = STD = (0.5, 0.5, 0.5)
LIMITS = (
    "Knows the drawn faces of the procedural world only; it must never be used on real people.",
    "Needs a face box, e.g. the detector's for 'a face'; landmarks degrade as the box gets worse.",
)
FAILURES = (
    "People with the same hair and skin, without glasses or beard, are taken for one another.",
    "A hat that hides hair and brows brings two views of one person down to the threshold.",
    "Glasses and beards pull the nose and the mouth's corners up to a tenth of the width away.",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `face` of params.yaml.

    Attributes:
        identities, views: people drawn, and views of each.
        width, layers, heads: of both transformers; `embedding` numbers describe a face.
        batch: faces in a step.
        steps, landmark_steps: optimizer steps of the embedder and of the landmarker.
        lr: Muon's, on the blocks' matrices; `rest_lr` AdamW's; `proxy_lr` AdamW's on the class
            centres, which meet a gradient only when their person is in the batch.
        scale, margin: of the additive angular margin; the margin (radians) grows to its full
            value over the first `margin_steps` steps.
    """

    identities: int
    views: int
    width: int
    layers: int
    heads: int
    embedding: int
    batch: int
    steps: int
    landmark_steps: int
    lr: float
    rest_lr: float
    proxy_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    scale: float
    margin: float
    margin_steps: int
    ema: float
    workers: int


def make_model(settings: Settings, outputs: int, **extra: object) -> ViTForImageClassification:
    config = ViTConfig(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_labels=outputs,
        **extra,
    )
    torch.manual_seed(0)
    return ViTForImageClassification(config)


class AngularMargin(nn.Module):
    """Additive angular margin over learned class centres (Deng et al. 2019, eq. 3)."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.centres_CD = nn.Parameter(torch.randn(classes, size) / size**0.5)

    def forward(self, features_ND: Tensor, label_N: Tensor, scale: float, margin: float) -> Tensor:
        """-log of e^{s cos(theta_y + m)} / (e^{s cos(theta_y + m)} + sum_j e^{s cos theta_j})."""
        cosine = linear(normalize(features_ND, dim=-1), normalize(self.centres_CD, dim=-1))
        own = cosine.gather(1, label_N[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        with_margin = torch.cos(torch.acos(own) + margin)
        return cross_entropy(scale * cosine.scatter(1, label_N[:, None], with_margin), label_N)


def _optimizers(
    model: nn.Module, settings: Settings, *others: dict[str, Any]
) -> list[torch.optim.Optimizer]:
    matrices, rest = muon.split(model)
    groups = [{"params": rest, "lr": settings.rest_lr}, *others]
    return [
        muon.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(groups, weight_decay=0.0),
    ]


def _pixels(crops_NHWC: np.ndarray) -> Tensor:
    return torch.from_numpy(crops_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def _people_and_views(
    key: str, step: int, settings: Settings, views_each: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which (person, view) a step sees, a function of the step alone."""
    rng = world.rng_for(key, step)
    people = rng.choice(settings.identities, settings.batch // views_each, replace=False)
    shown = rng.permuted(np.tile(np.arange(settings.views), (len(people), 1)), axis=1)
    return np.repeat(people, views_each), shown[:, :views_each].ravel()


def train_embedder(
    settings: Settings, drawn: dict[str, np.memmap], work: Path, max_seconds: float | None = None
) -> tuple[ViTForImageClassification, FitResult]:
    """ArcFace over the corpus' people; continues from `work`."""
    model = make_model(settings, settings.embedding, template_xy01=TEMPLATE_XY01)
    head = AngularMargin(settings.identities, settings.embedding)

    def step(number: int) -> dict[str, Tensor]:
        people, shown = _people_and_views("face-step", number, settings, 2)
        found = model(_pixels(drawn["aligned"][people, shown])).logits
        margin = settings.margin * min(1.0, number / settings.margin_steps)
        return {"loss": head(found, torch.from_numpy(people), settings.scale, margin)}

    proxies = {"params": list(head.parameters()), "lr": settings.proxy_lr}
    result = fit(
        modules={"embedder": model, "head": head},
        optimizers=_optimizers(model, settings, proxies),
        step=step,
        steps=settings.steps,
        work=work,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint={"world": world.WORLD_VERSION, **asdict(settings)},
        ema=settings.ema,
        log_every=50,
        max_seconds=max_seconds,
        samples_per_step=settings.batch,
    )
    model.load_state_dict(result.ema_state("embedder"))
    return model.eval(), result


def train_landmarker(
    settings: Settings, drawn: dict[str, np.memmap], work: Path, max_seconds: float | None = None
) -> tuple[ViTForImageClassification, FitResult]:
    """Regression of five points in a box crop; continues from `work`."""
    model = make_model(settings, 10, box_margin=BOX_MARGIN, problem_type="regression")
    # Starts at the mean shape, so that nothing is spent on finding it.
    nn.init.zeros_(model.classifier.weight)
    mean_shape = torch.from_numpy(drawn["points"][:256].mean((0, 1)).ravel())
    model.classifier.bias.data.copy_(mean_shape)

    def step(number: int) -> dict[str, Tensor]:
        people, shown = _people_and_views("landmark-step", number, settings, 1)
        found = model(_pixels(drawn["boxed"][people, shown])).logits
        truth = torch.from_numpy(drawn["points"][people, shown].reshape(-1, 10))
        # In units of 1% of the crop: quadratic below about a pixel, linear for outliers.
        return {"loss": smooth_l1_loss(found * 100, truth * 100)}

    result = fit(
        modules={"landmarks": model},
        optimizers=_optimizers(model, settings),
        step=step,
        steps=settings.landmark_steps,
        work=work,
        schedule=trapezoid(settings.landmark_steps, settings.warmup, settings.cooldown),
        fingerprint={"world": world.WORLD_VERSION, **asdict(settings)},
        ema=settings.ema,
        log_every=50,
        max_seconds=max_seconds,
        samples_per_step=settings.batch,
    )
    model.load_state_dict(result.ema_state("landmarks"))
    return model.eval(), result


def corpus_of(settings: Settings, work: Path) -> dict[str, np.memmap]:
    return corpus.build(
        work / "corpus",
        settings.identities,
        functools.partial(draw_person, views=settings.views),
        workers=settings.workers,
        fingerprint=f"2: views {settings.views}, margin {BOX_MARGIN}, {TEMPLATE_XY01}",
    )


def save(model: ViTForImageClassification, folder: Path) -> None:
    """A plain `from_pretrained` folder, bfloat16."""
    # A copy, since training may go on with the float32 weights.
    slim = ViTForImageClassification(model.config)
    slim.load_state_dict(model.state_dict())
    slim.to(torch.bfloat16).save_pretrained(folder)
    ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)


def main() -> None:
    """Train both networks, save, measure, write card and grid."""
    chosen = read("face", Settings)
    work = corpus.ROOT / "face"
    drawn = corpus_of(chosen, work)
    embedder, first = train_embedder(chosen, drawn, work / "embedder")
    save(embedder, FOLDER / "embedder")
    landmarker, second = train_landmarker(chosen, drawn, work / "landmarks")
    save(landmarker, FOLDER / "landmarks")
    write_card(
        FOLDER,
        model_class="ViTForImageClassification",
        data=f"{chosen.views} views of each of {chosen.identities} people, faces 12 to 64 px wide, "
        f"{SCENES:.0%} out of scenes with others; ArcFace on crops aligned by slightly wrong "
        "landmarks, and regression of five landmarks in slightly wrong boxes. All but the last 60 "
        "and 40 steps saw version 1 of the world, whose faces are the same.",
        steps={"embedder": first.step, "landmarks": second.step},
        seconds=first.seconds + second.seconds,
        figures=figures(FOLDER),
        headline="tar_large",
        limits=LIMITS,
        failures=FAILURES,
        recipe="python -m recipe.face",
    )
    draw_grid(FOLDER)


if __name__ == "__main__":
    main()
