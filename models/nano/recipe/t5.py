"""FLUX's second text encoder at nano size: what each word of a caption belongs to.

FLUX starts from a T5 that has read text, and leaves it as it is. This one reads the world's
captions alone: every token of a phrase learns what the nano clip's text tower says of that phrase
by itself, and which thing from the left it is. So "a red mug and a blue cat" has red at the mug
before any picture is seen.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from insitu import world
from insitu.digest import weights_digest

from . import corpus, muon
from .latents import MAX_THINGS
from .loop import FitResult, fit, seconds_allowed, trapezoid
from .settings import read
from .tokenizers import t5_tokenizer

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "flux"
CLIP = ROOT / "clip"
MAX_TOKENS = 48
PLACE = MAX_THINGS
"""The place's number where things have theirs from the left."""
RANK_WEIGHT = 0.3

Span = tuple[int, int, int]
"""Characters from, to, and the number of the thing from the left, or PLACE."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Section `flux-t5` of params.yaml.

    Attributes:
        captions: distinct captions read.
        layers: of the encoder, which is as wide as the clip's text tower.
        steps, batch: optimizer steps and captions in each.
        lr: Muon's; `rest_lr`: AdamW's; `warmup`, `cooldown`: steps of the ramps.
    """

    captions: int
    layers: int
    steps: int
    batch: int
    lr: float
    rest_lr: float
    warmup: int
    cooldown: int


def caption(index: int) -> tuple[str, list[Span]]:
    """A caption and its phrases."""
    rng = world.rng_for("t5", index)
    scene = world.sample_scene(rng)
    text = world.caption(scene, rng=rng)
    return text, phrases(scene, text)


def phrases(scene: world.Scene, text: str) -> list[Span]:
    """Where `text` speaks of each thing and of the place; what it leaves out is left out."""
    colours = scene.style != "line art"
    order = np.argsort([frame.cx for frame in scene.frames], kind="stable")
    spans: list[Span] = []
    for number, thing in enumerate(scene.things[i] for i in order):
        told = [world.describe(thing, detail=d, colours=colours) for d in world.DETAILS]
        # The fullest first: "a red mug" is found in "a red mug wearing a hat" as well.
        found = (_free(text, phrase, spans) for phrase in sorted(told, key=len, reverse=True))
        start, end = next((span for span in found if span), (0, 0))
        if end:
            spans.append((start, end, number))
    place = _free(text, world.place(scene, colours), spans)
    return [*spans, (*place, PLACE)] if place else spans


def _free(text: str, phrase: str, spans: list[Span]) -> tuple[int, int] | None:
    """The first place of `phrase` in `text` that overlaps none of `spans`."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if all(end <= a or b <= start for a, b, _ in spans):
            return start, end
        start = text.find(phrase, start + 1)
    return None


class Trainer:
    """Captions with each token's phrase in memory, and the loss of a step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokenizer = t5_tokenizer(world.vocabulary(), FOLDER / "tokenizer_2")
        drawn = [caption(i) for i in range(settings.captions)]
        known = sorted({text[a:b] for text, spans in drawn for a, b, _ in spans})
        number = {phrase: i for i, phrase in enumerate(known)}
        self.targets = said(known)
        encoded = self.tokenizer(
            [text for text, _ in drawn], padding="max_length", max_length=MAX_TOKENS,
            truncation=True, return_offsets_mapping=True,
        )  # fmt: skip
        self.ids = torch.tensor(encoded.input_ids)
        self.phrase, self.rank = torch.full((2, *self.ids.shape), -1)
        for row, (text, spans) in enumerate(drawn):
            for a, b, thing in spans:
                for token, (start, end) in enumerate(encoded.offset_mapping[row]):
                    # A token begins with the space before it.
                    if a - 1 <= start < end <= b:
                        self.phrase[row, token] = number[text[a:b]]
                        self.rank[row, token] = thing
        width = self.targets.shape[1]
        torch.manual_seed(0)
        self.modules: dict[str, nn.Module] = {
            "t5": make_t5(settings, width, len(self.tokenizer)),
            "readout": nn.Linear(width, width + MAX_THINGS + 1),
        }

    def step(self, i: int) -> dict[str, Tensor]:
        rng = world.rng_for("t5-batch", i)
        rows = torch.from_numpy(rng.choice(len(self.ids), self.settings.batch, replace=False))
        ids = self.ids[rows]
        length = int((ids != self.tokenizer.pad_token_id).sum(1).max())
        tokens = self.modules["t5"](ids[:, :length]).last_hidden_state
        phrase, rank = self.phrase[rows, :length], self.rank[rows, :length]
        inside = phrase >= 0
        said_of_it, which = self.modules["readout"](tokens[inside]).split(
            [self.targets.shape[1], MAX_THINGS + 1], dim=1
        )
        return {
            "phrase": (said_of_it - self.targets[phrase[inside]]).square().mean(),
            "rank": RANK_WEIGHT * nn.functional.cross_entropy(which, rank[inside]),
        }


@torch.no_grad()
def said(texts: list[str]) -> Tensor:
    """The clip's pooled features [N, D] of each text, centred, of unit spread."""
    tokenizer = CLIPTokenizer.from_pretrained(CLIP)
    clip = CLIPTextModel.from_pretrained(CLIP, dtype=torch.float32).eval()
    ids = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    pooled = torch.cat([clip(part).pooler_output for part in ids.split(256)])
    return (pooled - pooled.mean(0)) / pooled.std()


def make_t5(settings: Settings, width: int, words: int) -> T5EncoderModel:
    """With random weights; `words` = the vocabulary."""
    return T5EncoderModel(
        T5Config(
            vocab_size=words, d_model=width, d_kv=32, d_ff=2 * width, num_heads=width // 32,
            num_layers=settings.layers, feed_forward_proj="gated-gelu", dropout_rate=0.0,
            is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
        )
    )  # fmt: skip


def train(max_seconds: float | None = None) -> tuple[Trainer, FitResult]:
    settings = read("flux-t5", Settings)
    trainer = Trainer(settings)
    matrices, rest = muon.split(trainer.modules["t5"])
    optimizers = [
        muon.Muon(matrices, lr=settings.lr),
        torch.optim.AdamW([*rest, *trainer.modules["readout"].parameters()], settings.rest_lr,
                          weight_decay=0.0),
    ]  # fmt: skip
    result = fit(
        modules=trainer.modules, optimizers=optimizers, step=trainer.step, steps=settings.steps,
        work=corpus.ROOT / "flux-t5", max_seconds=max_seconds,
        schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings)
        | {"world": world.WORLD_VERSION, "clip": weights_digest(CLIP)},
        samples_per_step=settings.batch,
    )  # fmt: skip
    return trainer, result


def trained() -> tuple[T5EncoderModel, T5Tokenizer]:
    """The encoder as it was saved, frozen, and its tokenizer."""
    encoder = T5EncoderModel.from_pretrained(FOLDER / "text_encoder_2", dtype=torch.float32)
    return encoder.eval().requires_grad_(False), T5Tokenizer.from_pretrained(FOLDER / "tokenizer_2")


def main() -> None:
    trainer, result = train(seconds_allowed())
    encoder = cast(T5EncoderModel, trainer.modules["t5"])
    encoder.to(torch.bfloat16).save_pretrained(FOLDER / "text_encoder_2")
    print(f"{result.step} steps, {result.seconds / 60:.1f} minutes, finished: {result.finished}")


if __name__ == "__main__":
    main()
