"""CLIP: contrastive image-text training on scenes and on single things, with zero-shot prompts.

Besides the batch's own captions (InfoNCE, Radford et al. 2021, fig. 3; equal captions are
positives of one another), each step classifies the pictures with the very prompts that zero-shot
use asks: category, colour, pattern, material, style. A first, coarse phase drops random halves of
the patches until its cooldown (FLIP, Li et al. 2023), which buys twice the pictures per second; a
second, fine phase sees every patch and is also made to tell textures and degraded pictures.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu import world
from insitu.evaluation.checkpoints.clip import figures
from insitu.perception.clip import AestheticHead, ClipScorer

from . import clip_data, clip_grid, clip_model, clip_trainer, corpus, muon
from .card import write_card
from .clip_model import MEAN, STD, make_model
from .clip_trainer import MAX_LOGIT_SCALE, Phase, Trainer
from .loop import FitResult, code_digest, fit, seconds_allowed, trapezoid
from .settings import read
from .tokenizers import clip_tokenizer, compact


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `clip` of params.yaml.

    Attributes:
        draws: samples of the corpus, each a scene and three regions.
        regions, scenes: single things and whole scenes in a batch.
        coarse, fine: the two phases, see `Phase`.
        weight_decay, ema: of both phases.
        width, layers, heads: of the vision transformer; the text one shares width and heads.
        workers: processes that draw the corpus.
    """

    draws: int
    regions: int
    scenes: int
    coarse: Phase
    fine: Phase
    weight_decay: float
    ema: float
    width: int
    layers: int
    text_layers: int
    heads: int
    workers: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, dict):
                object.__setattr__(self, field.name, Phase(**value))


def train(
    settings: Settings, work: Path, *, max_seconds: float | None = None
) -> tuple[CLIPModel, AestheticHead, list[FitResult]]:
    """Draw the corpus if needed and train both phases; continues from `work`."""
    tokenizer = clip_tokenizer(world.vocabulary(), work / "tokenizer")
    data = corpus.build(
        work / "corpus",
        settings.draws,
        clip_data.draw,
        workers=settings.workers,
        fingerprint=code_digest(clip_data),
    )
    model = make_model(
        tokenizer,
        width=settings.width,
        layers=settings.layers,
        text_layers=settings.text_layers,
        heads=settings.heads,
    )
    head = AestheticHead(settings.width)
    results: list[FitResult] = []
    phases = {"coarse": settings.coarse, "fine": settings.fine}
    for name, phase in phases.items():
        trainer = Trainer(
            phase,
            data,
            model=model,
            head=head,
            tokenizer=tokenizer,
            regions=settings.regions,
            scenes=settings.scenes,
            first=sum(result.step for result in results),
        )
        # The fine phase starts from the coarse one's weights, so it depends on both.
        earlier = None if name == "coarse" else settings.coarse
        mark = fingerprint(settings, phase, earlier, tokenizer)
        results.append(_fit(settings, phase, trainer, work / name, mark, max_seconds))
        model.load_state_dict(results[-1].ema_state("clip"))
        head.load_state_dict(results[-1].ema_state("head"))
        if not results[-1].finished:
            break
    return model.eval(), head.eval(), results


def fingerprint(
    settings: Settings, phase: Phase, earlier: Phase | None, tokenizer: CLIPTokenizer
) -> dict[str, Any]:
    """Everything that a phase's weights depend on."""
    common = {k: v for k, v in asdict(settings).items() if k not in ("coarse", "fine", "workers")}
    words = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "world": world.WORLD_VERSION,
        "code": code_digest(clip_data, clip_model, clip_trainer),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest()[:16],
        "earlier": asdict(earlier) if earlier is not None else None,
        **common,
        **asdict(phase),
    }


def _fit(
    settings: Settings,
    phase: Phase,
    trainer: Trainer,
    work: Path,
    mark: dict[str, Any],
    max_seconds: float | None,
) -> FitResult:
    matrices, rest = muon.split(trainer.model)
    others = [*rest, *trainer.head.parameters(), *trainer.readouts.parameters()]
    return fit(
        modules={"clip": trainer.model, "head": trainer.head, "readouts": trainer.readouts},
        optimizers=[
            muon.Muon(matrices, lr=phase.lr, weight_decay=settings.weight_decay),
            torch.optim.AdamW(others, phase.rest_lr),
        ],
        step=trainer.step,
        steps=phase.steps,
        work=work,
        schedule=trapezoid(phase.steps, phase.warmup, phase.cooldown),
        fingerprint=mark,
        ema=settings.ema,
        log_every=20,
        max_seconds=max_seconds,
        samples_per_step=settings.regions + settings.scenes,
    )


def save(model: CLIPModel, head: AestheticHead, tokenizer: Path, folder: Path) -> None:
    """Write a plain `from_pretrained` folder, bfloat16, with the aesthetic head beside it.

    `tokenizer` is the folder of the one trained with: read again, since a tokenizer that has
    padded a batch would save that padding as its default.
    """
    slim = CLIPModel(model.config)
    slim.load_state_dict(model.state_dict())
    slim.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
    slim.to(torch.bfloat16).save_pretrained(folder)
    side = {"height": clip_data.SIZE, "width": clip_data.SIZE}
    image_processor = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    )
    words = CLIPTokenizer.from_pretrained(tokenizer)
    CLIPProcessor(image_processor=image_processor, tokenizer=words).save_pretrained(folder)
    compact(folder)
    head.save(folder)


def main() -> None:
    """Train, save, measure, describe."""
    folder, work = corpus.ROOT.parent / "clip", corpus.ROOT / "clip"
    settings = read("clip", Settings)
    model, head, results = train(settings, work, max_seconds=seconds_allowed())
    save(model, head, work / "tokenizer", folder)
    measured = figures(folder)
    clip_grid.write(ClipScorer.from_pretrained(folder), folder / "grid.png")
    write_card(
        folder,
        model_class="CLIPModel",
        data=f"{settings.draws} scenes and {3 * settings.draws} crops and portraits of the "
        "procedural world with their captions, a fifth of them degraded.",
        steps={name: r.step for name, r in zip(("coarse", "fine"), results, strict=False)},
        seconds=sum(result.seconds for result in results),
        figures=measured,
        headline="category",
        limits=[
            "Knows the procedural world and its words only; real photos are noise to it.",
            "64 x 64 pixels: crops of things smaller than about 20 pixels tell little.",
            "The aesthetic score tells clean pictures from degraded ones; it has no taste.",
        ],
        failures=[
            "Materials are told by fine texture and highlights, and are the weakest attribute.",
            "In captions of several things it may not notice which colour belongs to which thing.",
        ],
        recipe="python -m recipe.clip",
    )


if __name__ == "__main__":
    main()
