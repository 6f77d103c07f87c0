"""CLIP: contrastive image-text training on scenes and on single things, with zero-shot prompts.

Besides the batch's own captions (InfoNCE, Radford et al. 2021, fig. 3; equal captions are
positives of one another), each step classifies the pictures with the very prompts that zero-shot
use asks: category, colour, pattern, material, style. Random halves of the patches are dropped
until the cooldown (FLIP, Li et al. 2023), which buys twice the pictures per second.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu import world
from insitu.evaluation.checkpoints.clip import figures
from insitu.perception.clip import AestheticHead, ClipScorer

from . import clip_data, clip_grid, corpus, muon
from .card import write_card
from .loop import FitResult, code_digest, fit, trapezoid
from .settings import read
from .tokenizers import clip_tokenizer

MEAN = STD = (0.5, 0.5, 0.5)
PATCH = 8
MAX_LOGIT_SCALE = float(np.log(100.0))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `clip` of params.yaml.

    Attributes:
        draws: samples of the corpus, each a scene and three regions.
        steps: optimizer steps, each on `regions` single things and `scenes` whole scenes.
        kept_tokens: share of patches seen before the cooldown (1 = all).
        lr: Muon's, on the blocks' matrices; `rest_lr` is AdamW's on everything else.
        warmup, cooldown: steps of the learning rate's ramp up and down.
        prompt_weight: of the zero-shot prompts' loss; `quality_weight`: of the aesthetic head's.
        width, layers, heads: of the vision transformer; the text one shares width and heads.
        workers: processes that draw the corpus.
    """

    draws: int
    steps: int
    regions: int
    scenes: int
    kept_tokens: float
    lr: float
    rest_lr: float
    weight_decay: float
    warmup: int
    cooldown: int
    ema: float
    prompt_weight: float
    quality_weight: float
    width: int
    layers: int
    text_layers: int
    heads: int
    workers: int


def make_model(settings: Settings, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIPModel with random weights."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": settings.width,
        "intermediate_size": 4 * settings.width,
        "num_attention_heads": settings.heads,
        # The exact GELU is one fused kernel; CLIP's "quick" one is three, and slower on CPUs.
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": settings.text_layers,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "num_hidden_layers": settings.layers,
        "image_size": clip_data.SIZE,
        "patch_size": PATCH,
    }
    return CLIPModel(
        CLIPConfig(
            text_config=shape | text,
            vision_config=shape | vision,
            projection_dim=settings.width,
        )
    )


def encode_images(model: CLIPModel, pixels_N3HW: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return unit embeddings [N, D], seeing only the patches `kept` (indices), if given."""
    vision = model.vision_model
    tokens = vision.embeddings(pixels_N3HW)
    if kept is not None:
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:][:, kept]], dim=1)
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state
    return normalize(model.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)


def encode_texts(model: CLIPModel, ids_NT: Tensor) -> Tensor:
    """Return unit embeddings [N, D]; no mask, since attention is causal and pads come last."""
    return normalize(model.get_text_features(input_ids=ids_NT).pooler_output, dim=-1)


def contrastive_loss(images_ND: Tensor, texts_ND: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE; texts with equal numbers in `same` [N] are equal and all positive."""
    logits = scale * images_ND @ texts_ND.T
    positive = (same[:, None] == same[None, :]).float()
    target = positive / positive.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


class Trainer:
    """The corpus in memory and the loss of a step."""

    def __init__(
        self, settings: Settings, data: Mapping[str, np.ndarray], tokenizer: CLIPTokenizer
    ) -> None:
        self.settings, self.data = settings, data
        self.model = make_model(settings, tokenizer)
        self.head = AestheticHead(settings.width)
        texts = np.concatenate([data["caption"], data["texts"].ravel()])
        unique, self.numbers = np.unique(texts, return_inverse=True)
        self.ids = _tokenize(tokenizer, [text.decode() for text in unique])
        self.prompts = [
            {group: _tokenize(tokenizer, texts) for group, texts in prompts.items()}
            for prompts in (clip_data.prompts(), clip_data.prompts(articles=False))
        ]
        self.end = tokenizer.eos_token_id

    def step(self, i: int) -> dict[str, Tensor]:
        """Return the loss terms of step `i`."""
        settings, data = self.settings, self.data
        rng = world.rng_for("clip-batch", i)
        count = len(data["caption"])
        rows = rng.choice(count, settings.scenes, replace=False)
        flat = rng.choice(count * clip_data.REGIONS, settings.regions, replace=False)
        own, region = np.divmod(flat, clip_data.REGIONS)
        pictures = np.concatenate([data["scene"][rows], data["regions"][own, region]])
        images = encode_images(self.model, to_pixels(pictures), self._kept(i, rng))
        numbers = torch.from_numpy(np.concatenate([self.numbers[rows], self.numbers[count + flat]]))
        texts = encode_texts(self.model, _trimmed(self.ids[numbers], self.end))
        scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        scenes, things = slice(None, settings.scenes), slice(settings.scenes, None)
        spoilt = np.concatenate([data["spoilt"][rows, 0], data["spoilt"][own, 1 + region]])
        judged = np.concatenate([data["judged"][rows, 0], data["judged"][own, 1 + region]])
        labels = data["labels"][own, region].astype(np.int64)
        # A spoilt picture may hide everything but what kind of thing it shows.
        labels[spoilt[things], 1:] = -1
        terms = {
            "things": contrastive_loss(images[things], texts[things], numbers[things], scale),
            "scenes": contrastive_loss(images[scenes], texts[scenes], numbers[scenes], scale),
            "prompts": settings.prompt_weight * self._prompt_loss(i, images[things], labels, scale),
        }
        clean = torch.from_numpy(~spoilt[judged]).float()
        quality = binary_cross_entropy_with_logits(
            self.head(images[torch.from_numpy(judged)]), clean
        )
        return terms | {"quality": settings.quality_weight * quality}

    def _kept(self, i: int, rng: np.random.Generator) -> Tensor | None:
        settings = self.settings
        if settings.kept_tokens >= 1 or i >= settings.steps - settings.cooldown:
            return None
        patches = (clip_data.SIZE // PATCH) ** 2
        order = rng.permutation(patches)[: round(patches * settings.kept_tokens)]
        return torch.from_numpy(np.sort(order))

    def _prompt_loss(self, i: int, images: Tensor, labels: np.ndarray, scale: Tensor) -> Tensor:
        prompts = self.prompts[i // 2 % 2]
        groups = list(prompts)
        # The large colour group in one step, the other attributes in the next.
        chosen = ("category", "colour") if i % 2 else ("category", "pattern", "material", "style")
        sizes = [len(prompts[group]) for group in chosen]
        ids = torch.cat([prompts[group] for group in chosen])
        texts = encode_texts(self.model, _trimmed(ids, self.end)).split(sizes)
        losses = []
        for group, embedded in zip(chosen, texts, strict=True):
            truth = torch.from_numpy(labels[:, groups.index(group)])
            losses.append(cross_entropy(scale * images @ embedded.T, truth, ignore_index=-1))
        return torch.stack(losses).sum()


def to_pixels(images_NHWC: np.ndarray) -> Tensor:
    """uint8 pictures as float [N, 3, H, W] in -1..1, as the saved processor gives them."""
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def _tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids: Tensor = tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )["input_ids"]
    return ids


def _trimmed(ids_NT: Tensor, end: int) -> Tensor:
    """Cut the padding that the whole batch shares."""
    longest = int((ids_NT != end).sum(dim=1).max()) + 1
    return ids_NT[:, :longest]


def train(
    settings: Settings, work: Path, *, max_seconds: float | None = None
) -> tuple[CLIPModel, AestheticHead, FitResult]:
    """Draw the corpus if needed and train; continues from `work`."""
    tokenizer = clip_tokenizer(world.vocabulary(), work / "tokenizer")
    data = corpus.build(
        work / "corpus",
        settings.draws,
        clip_data.draw,
        workers=settings.workers,
        fingerprint=code_digest(clip_data),
    )
    trainer = Trainer(settings, data, tokenizer)
    matrices, rest = muon.split(trainer.model)
    result = fit(
        modules={"clip": trainer.model, "head": trainer.head},
        optimizers=[
            muon.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay),
            torch.optim.AdamW([*rest, *trainer.head.parameters()], settings.rest_lr),
        ],
        step=trainer.step,
        steps=settings.steps,
        work=work,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint={"world": world.WORLD_VERSION, "code": _code(), **asdict(settings)},
        ema=settings.ema,
        log_every=20,
        max_seconds=max_seconds,
        samples_per_step=settings.regions + settings.scenes,
    )
    trainer.model.load_state_dict(result.ema_state("clip"))
    trainer.head.load_state_dict(result.ema_state("head"))
    return trainer.model.eval(), trainer.head.eval(), result


def _code() -> str:
    return code_digest(
        clip_data, make_model, encode_images, encode_texts, contrastive_loss, Trainer, to_pixels
    )


def save(model: CLIPModel, head: AestheticHead, folder: Path) -> None:
    """Write a plain `from_pretrained` folder, bfloat16, with the aesthetic head beside it."""
    slim = CLIPModel(model.config)
    slim.load_state_dict(model.state_dict())
    slim.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
    slim.to(torch.bfloat16).save_pretrained(folder)
    side = {"height": clip_data.SIZE, "width": clip_data.SIZE}
    image_processor = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    )
    # A fresh tokenizer: one that has padded a batch would save that padding as its default.
    tokenizer = clip_tokenizer(world.vocabulary(), folder)
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    head.save(folder)


def main() -> None:
    """Train, save, measure, describe."""
    folder = corpus.ROOT.parent / "clip"
    settings = read("clip", Settings)
    model, head, result = train(settings, corpus.ROOT / "clip")
    save(model, head, folder)
    measured = figures(folder)
    clip_grid.write(ClipScorer.from_pretrained(folder), folder / "grid.png")
    write_card(
        folder,
        model_class="CLIPModel",
        data=f"{settings.draws} scenes and {3 * settings.draws} crops and portraits of the "
        "procedural world with their captions, a fifth of them degraded.",
        steps=result.step,
        seconds=result.seconds,
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
