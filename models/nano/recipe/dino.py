"""Identity features: a small Dinov2Model, taught which views show the same thing.

Metric learning rather than DINOv2's self-distillation: with exact identities at hand, the
supervised contrastive loss (Khosla et al. 2020, eq. 2) says directly what the features are for.
The identities come in families of one category, half of which a caption would describe in the
very same words, so that category and colour alone do not tell them apart.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from insitu import world
from insitu.evaluation.checkpoints.dino import (
    SIZE,
    Retrieval,
    figures,
    ranking,
    retrieval,
    scene_crop,
    twin,
)
from insitu.perception.dino import IdentityEncoder, crop_square

from . import corpus, grid, muon
from .card import write_card
from .loop import FitResult, fit, trapezoid
from .settings import read

FOLDER = Path(__file__).resolve().parents[1] / "dino"

MEMBERS = 4  # identities of one family
PEOPLE = 0.08  # share of families that are people, the rest are things
STYLED = 0.25  # share of scene views in any style rather than photo
MEAN = STD = (0.5, 0.5, 0.5)
LIMITS = (
    "Knows the things and people of the procedural world only; photographs mean nothing to it.",
    "Expects a square crop of one thing; a whole scene gives features of whatever fills it.",
)
FAILURES = (
    "Line art takes the colours away, and with them nearly every match (see top1_128_line_art).",
    "Of two twins (same words, other details) the wrong one is nearer in about one case of 25.",
    "A bird has lost to a lamp in the same colours: colours weigh more than the outline.",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `dino` of params.yaml.

    Attributes:
        families: families drawn, of `MEMBERS` identities each.
        views: crops drawn of each identity, the first quarter from portraits.
        steps: optimizer steps, each on `batch_families` families in two views of each member.
        kept_tokens: share of patch tokens that a training step sees (1 = all); dropping some
            (as in FLIP, Li et al. 2023) buys more views per second.
        lr: Muon's, on the blocks' matrices; `rest_lr` is AdamW's on everything else.
        warmup, cooldown: steps of the learning rate's ramp up and down.
        temperature: of the contrastive loss.
        width, layers, heads: of the transformer.
    """

    families: int
    views: int
    steps: int
    batch_families: int
    kept_tokens: float
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    temperature: float
    ema: float
    width: int
    layers: int
    heads: int
    workers: int


def family(number: int) -> list[world.Thing]:
    """Training family `number`: `MEMBERS` identities that are easily confused."""
    rng = world.rng_for("dino-train", number)
    if rng.random() < PEOPLE:
        return [world.sample_person(rng) for _ in range(MEMBERS)]
    first = world.sample_subject(rng)
    if rng.random() < 0.5:
        return [first, *(twin(first, rng) for _ in range(MEMBERS - 1))]
    same = [world.sample_subject(rng, category=first.category) for _ in range(MEMBERS - 1)]
    return [first, *same]


def view(thing: world.Thing, rng: np.random.Generator, *, portrait: bool) -> np.ndarray:
    """One training crop, uint8 [64, 64, 3]: a portrait, or out of a scene of 64 to 128 px."""
    if not portrait:
        style = None if rng.random() < STYLED else "photo"
        crop = scene_crop(thing, rng, size=int(rng.choice([64, 96, 128])), style=style)
    else:
        drawn = world.portrait(thing, rng, size=int(rng.choice([64, 96, 128])))
        crop = crop_square(drawn.image, drawn.things[0].box_xyxy01, SIZE)
    return _disturb(crop, rng)


def _disturb(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What an imprecise box and a mild blur do: a shift, a zoom, lost sharpness."""
    margin = rng.uniform(-0.07, 0.07)
    x, y = rng.uniform(-0.05, 0.05, 2)
    crop = crop_square(crop, (x, y, 1 + x, 1 + y), SIZE, margin)
    if rng.random() < 0.25:
        crop = cv2.GaussianBlur(crop, (0, 0), float(rng.uniform(0.4, 1.2)))
    return crop


def draw_family(number: int, *, views: int) -> dict[str, np.ndarray]:
    """Corpus sample: uint8 crops [MEMBERS, views, 64, 64, 3], portraits first."""
    crops = []
    for member, thing in enumerate(family(number)):
        rng = world.rng_for("dino-train-view", number, member)
        crops.append([view(thing, rng, portrait=v < max(1, views // 4)) for v in range(views)])
    return {"crops": np.stack([np.stack(row) for row in crops])}


def make_model(settings: Settings) -> Dinov2Model:
    config = Dinov2Config(
        image_size=SIZE,
        patch_size=8,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        layerscale_value=0.5,  # 1.0 is for pretraining large models; any start near one learns
    )
    torch.manual_seed(0)
    return Dinov2Model(config)


def features(model: Dinov2Model, pixels_N3HW: Tensor, kept: Tensor | None = None) -> Tensor:
    """The pooled output [N, D], seeing only the `kept` patch tokens if given."""
    if kept is None:
        return model(pixel_values=pixels_N3HW).pooler_output
    tokens = model.embeddings(pixels_N3HW)
    class_token = torch.zeros(1, dtype=kept.dtype)
    tokens = model.encoder(tokens[:, torch.cat([class_token, kept + 1])]).last_hidden_state
    return model.layernorm(tokens[:, 0])


def contrastive_loss(features_ND: Tensor, identity_N: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020, eq. 2."""
    z = normalize(features_ND, dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    positive = (identity_N[:, None] == identity_N[None]) & ~itself
    log_p = log_softmax(logits, dim=-1).masked_fill(~positive, 0)
    return -(log_p.sum(-1) / positive.sum(-1)).mean()


def batch(crops: np.ndarray, step: int, settings: Settings) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pixels [N, 3, 64, 64], identities [N] and kept tokens: functions of the step alone."""
    rng = world.rng_for("dino-step", step)
    families = rng.choice(len(crops), settings.batch_families, replace=False)
    picked, identities = [], []
    for number in np.sort(families):
        for member in range(MEMBERS):
            chosen = rng.choice(settings.views, 2, replace=False)
            picked.append(crops[number, member, chosen])
            identities += [number * MEMBERS + member] * 2
    pixels = torch.from_numpy(np.concatenate(picked)).permute(0, 3, 1, 2).float() / 127.5 - 1
    kept = None
    if settings.kept_tokens < 1:
        patches = (SIZE // 8) ** 2
        count = round(patches * settings.kept_tokens)
        kept = torch.from_numpy(np.sort(rng.permutation(patches)[:count]))
    return pixels, torch.tensor(identities), kept


def train(
    settings: Settings, work: Path, *, max_seconds: float | None = None
) -> tuple[Dinov2Model, FitResult]:
    """Draw the corpus if needed and train; continues from `work`."""
    crops = corpus.build(
        work / "corpus",
        settings.families,
        functools.partial(draw_family, views=settings.views),
        workers=settings.workers,
        fingerprint=f"1: people {PEOPLE}, styled {STYLED}, views {settings.views}",
    )["crops"]
    model = make_model(settings)
    matrices, rest = muon.split(model)
    optimizers = [
        muon.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(rest, lr=settings.rest_lr, weight_decay=0.0),
    ]

    def step(number: int) -> dict[str, Tensor]:
        pixels, identities, kept = batch(crops, number, settings)
        found = features(model, pixels, kept)
        return {"loss": contrastive_loss(found, identities, settings.temperature)}

    result = fit(
        modules={"dino": model},
        optimizers=optimizers,
        step=step,
        steps=settings.steps,
        work=work,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint={"world": world.WORLD_VERSION, **asdict(settings)},
        ema=settings.ema,
        log_every=25,
        max_seconds=max_seconds,
        samples_per_step=settings.batch_families * MEMBERS * 2,
    )
    model.load_state_dict(result.ema_state("dino"))
    return model.eval(), result


def save(model: Dinov2Model, folder: Path) -> None:
    """A plain `from_pretrained` folder, bfloat16."""
    # A copy, since training may go on with the float32 weights.
    slim = Dinov2Model(model.config)
    slim.load_state_dict(model.state_dict())
    slim.to(torch.bfloat16).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(folder)


def draw_grid(folder: Path) -> None:
    """Held-out queries with their five nearest portraits: any things left, one category right."""
    encoder = IdentityEncoder.from_pretrained(str(folder))
    easy = _retrieval_rows(encoder, retrieval(0, 0, size=128))
    hard = _retrieval_rows(encoder, retrieval(0, 0, size=128, same_category=True))
    gap = np.full((SIZE + 2 * grid.FRAME, 24, 3), 255, np.uint8)
    grid.write_grid(folder / "grid.png", [[*a, gap, *b] for a, b in zip(easy, hard, strict=True)])


def _retrieval_rows(
    encoder: IdentityEncoder, drawn: Retrieval, rows: int = 7
) -> list[list[np.ndarray]]:
    """Up to half of the rows are failures, so that the grid shows them too."""
    nearest = ranking(encoder, drawn).argsort(1, descending=True)[:, :5].tolist()
    failed = [n for n, found in enumerate(nearest) if found[0] != n][: rows // 2]
    others = [n for n in range(len(nearest)) if n not in failed][: rows - len(failed)]
    return [
        [grid.framed(drawn.queries[n], SIZE)]
        + [grid.framed(drawn.references[m], SIZE, right=m == n) for m in nearest[n]]
        for n in [*others, *failed]
    ]


def main() -> None:
    """Train, save, measure, write card and grid."""
    chosen = read("dino", Settings)
    model, result = train(chosen, corpus.ROOT / "dino")
    save(model, FOLDER)
    write_card(
        FOLDER,
        model_class="Dinov2Model",
        data=f"Supervised metric learning, not self-supervision: {chosen.families * MEMBERS} "
        f"identities in families of one category (half of them twins that a caption cannot tell "
        f"apart, {PEOPLE:.0%} people), {chosen.views} crops of each from portraits and scenes. "
        "The first 600 steps saw version 1 of the world.",
        steps=result.step,
        seconds=result.seconds,
        figures=figures(FOLDER),
        headline="top1_128",
        limits=LIMITS,
        failures=FAILURES,
        recipe="python -m recipe.dino",
        settings={"embedding": "pooler_output, unit length", "crop": "square, margin 0.1"},
    )
    draw_grid(FOLDER)


if __name__ == "__main__":
    main()
