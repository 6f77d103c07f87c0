"""The loss of a CLIP training step, and the settings of a phase."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import CLIPModel, CLIPTokenizer

from insitu import world
from insitu.perception.clip import AestheticHead

from . import clip_data
from .clip_model import PATCH, contrastive_loss, encode_images, encode_texts, to_pixels

MAX_LOGIT_SCALE = float(np.log(100.0))
READOUTS = {"pattern": len(world.PATTERNS), "material": len(world.MATERIALS)}
READOUT_SCALE = 8.0  # logits of unit embeddings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One of the two phases of training.

    Attributes:
        steps: optimizer steps.
        kept_tokens: share of patches seen before the cooldown (1 = all).
        lr: Muon's, on the blocks' matrices; `rest_lr` is AdamW's on everything else.
        warmup, cooldown: steps of the learning rate's ramp up and down.
        prompt_weight: of the zero-shot prompts' loss; `quality_weight`: of the aesthetic head's;
            `readout_weight`: of linear read-outs of pattern and material.
    """

    steps: int
    kept_tokens: float
    lr: float
    rest_lr: float
    warmup: int
    cooldown: int
    prompt_weight: float
    quality_weight: float
    readout_weight: float


class Trainer:
    """The corpus in memory and the loss of a step."""

    def __init__(
        self,
        phase: Phase,
        data: Mapping[str, np.ndarray],
        *,
        model: CLIPModel,
        head: AestheticHead,
        tokenizer: CLIPTokenizer,
        regions: int,
        scenes: int,
        first: int = 0,
    ) -> None:
        """`first`: how many steps earlier phases took; their batches are not repeated."""
        self.phase, self.data, self.model, self.head = phase, data, model, head
        self.regions, self.scenes, self.first = regions, scenes, first
        torch.manual_seed(1)
        width = model.config.projection_dim
        self.readouts = nn.ModuleDict({k: nn.Linear(width, n) for k, n in READOUTS.items()})
        texts = np.concatenate([data["caption"], data["texts"].ravel()])
        unique, self.numbers = np.unique(texts, return_inverse=True)
        self.ids = _tokenize(tokenizer, [text.decode() for text in unique])
        self.prompts = [
            {group: _tokenize(tokenizer, texts) for group, texts in prompts.items()}
            for prompts in (clip_data.prompts(), clip_data.prompts(articles=False))
        ]
        self.end = tokenizer.eos_token_id

    def step(self, i: int) -> dict[str, Tensor]:
        """Return the loss terms of the phase's step `i`."""
        data, phase = self.data, self.phase
        rng = world.rng_for("clip-batch", self.first + i)
        count = len(data["caption"])
        rows = rng.choice(count, self.scenes, replace=False)
        flat = rng.choice(count * clip_data.REGIONS, self.regions, replace=False)
        own, region = np.divmod(flat, clip_data.REGIONS)
        pictures = np.concatenate([data["scene"][rows], data["regions"][own, region]])
        images = encode_images(self.model, to_pixels(pictures), self._kept(i, rng))
        numbers = torch.from_numpy(np.concatenate([self.numbers[rows], self.numbers[count + flat]]))
        texts = encode_texts(self.model, _trimmed(self.ids[numbers], self.end))
        scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        scenes, things = slice(None, self.scenes), slice(self.scenes, None)
        spoilt = np.concatenate([data["spoilt"][rows, 0], data["spoilt"][own, 1 + region]])
        judged = np.concatenate([data["judged"][rows, 0], data["judged"][own, 1 + region]])
        labels = data["labels"][own, region].astype(np.int64)
        # A spoilt picture may hide everything but what kind of thing it shows.
        labels[spoilt[things], 1:] = -1
        clean = torch.from_numpy(~spoilt[judged]).float()
        quality = self.head(images[torch.from_numpy(judged)])
        terms = {
            "things": contrastive_loss(images[things], texts[things], numbers[things], scale),
            "scenes": contrastive_loss(images[scenes], texts[scenes], numbers[scenes], scale),
            "prompts": phase.prompt_weight * self._prompt_loss(i, images[things], labels, scale),
            "quality": phase.quality_weight * binary_cross_entropy_with_logits(quality, clean),
        }
        if phase.readout_weight:
            terms["readouts"] = phase.readout_weight * self._readout_loss(images[things], labels)
        return terms

    def _kept(self, i: int, rng: np.random.Generator) -> Tensor | None:
        phase = self.phase
        if phase.kept_tokens >= 1 or i >= phase.steps - phase.cooldown:
            return None
        patches = (clip_data.SIZE // PATCH) ** 2
        order = rng.permutation(patches)[: round(patches * phase.kept_tokens)]
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

    def _readout_loss(self, images: Tensor, labels: np.ndarray) -> Tensor:
        """Cross-entropy of the linear read-outs.

        A texture that no embedding tells apart gives its words no reason to differ, and words
        that do not differ give the embeddings none: prompts alone stay at chance. A read-out
        without words starts the pair.
        """
        groups = list(self.prompts[0])
        losses = []
        for name, layer in self.readouts.items():
            numbers = labels[:, groups.index(name)]
            truth = torch.from_numpy(np.where(numbers < 0, -1, numbers % READOUTS[name]))
            losses.append(cross_entropy(READOUT_SCALE * layer(images), truth, ignore_index=-1))
        return torch.stack(losses).sum()


def _tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids: Tensor = tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )["input_ids"]
    return ids


def _trimmed(ids_NT: Tensor, end: int) -> Tensor:
    """Cut the padding that the whole batch shares."""
    longest = int((ids_NT != end).sum(dim=1).max()) + 1
    return ids_NT[:, :longest]
