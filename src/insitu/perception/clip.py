"""CLIP: image-text similarity, zero-shot classification, and an aesthetic head on top.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoProcessor

from insitu.errors import UserError

Image = NDArray[np.uint8]
T = TypeVar("T")
BATCH = 64  # images or texts per forward pass


class AestheticHead(nn.Module):
    """A perceptron on unit image embeddings; a higher score is a better-looking picture."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, embeddings_ND: Tensor) -> Tensor:
        """Return scores [N], unbounded logits."""
        scores: Tensor = self.layers(embeddings_ND).squeeze(-1)
        return scores

    def save(self, folder: Path) -> None:
        """Write `aesthetic.safetensors` (bfloat16) and `aesthetic.json` into a CLIP folder."""
        weights = {k: v.to(torch.bfloat16).contiguous() for k, v in self.state_dict().items()}
        save_file(weights, folder / "aesthetic.safetensors")
        shape = {"width": self.width, "hidden": self.hidden}
        (folder / "aesthetic.json").write_text(json.dumps(shape, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the head that lies in a CLIP folder; None if there is none."""
        described = folder / "aesthetic.json"
        if not described.exists():
            return None
        head = cls(**json.loads(described.read_text()))
        head.load_state_dict(load_file(folder / "aesthetic.safetensors"))
        return head


class ClipScorer:
    """Image and text embeddings of one CLIP model, and what follows from them."""

    def __init__(
        self,
        *,
        model: Any,
        processor: Any,
        head: AestheticHead | None = None,
        source: str = "the model",
    ) -> None:
        self.model, self.processor, self.head, self.source = model, processor, head, source

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a CLIP-like model from a folder or hub id, with its aesthetic head if it has one."""
        model = AutoModel.from_pretrained(path, revision=revision, dtype=dtype)
        head = AestheticHead.load(Path(path))
        return cls(
            model=model.to(device).eval(),
            processor=AutoProcessor.from_pretrained(path, revision=revision),
            head=head.to(device, dtype).eval() if head is not None else None,
            source=str(path),
        )

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Return unit embeddings [N, D] of RGB images."""
        return torch.cat([self._embed_image_batch(part) for part in _batches(images, "image")])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings [N, D] of texts; longer ones are cut at the model's length."""
        return torch.cat([self._embed_text_batch(part) for part in _batches(texts, "text")])

    def zero_shot(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Return probabilities [N, P]: which of the prompts describes each image."""
        similarity = self.embed_images(images) @ self.embed_texts(prompts).T
        return (similarity * self.model.logit_scale.detach().exp()).softmax(dim=-1)

    @torch.no_grad()
    def aesthetic(self, images: Sequence[Image]) -> Tensor:
        """Return aesthetic scores [N], comparable within one model only.

        Raises:
            UserError: the checkpoint has no aesthetic head.
        """
        if self.head is None:
            raise UserError(
                f"An aesthetic score was asked of {self.source}.",
                "It holds no aesthetic.json and aesthetic.safetensors, so it has no such head.",
                "Use a checkpoint with the head, or leave the aesthetic score out.",
            )
        scores: Tensor = self.head(self.embed_images(images))
        return scores

    def _embed_image_batch(self, images: Sequence[Image]) -> Tensor:
        inputs = self.processor(images=list(images), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        return _unit(self.model.get_image_features(pixel_values=pixels).pooler_output)

    def _embed_text_batch(self, texts: Sequence[str]) -> Tensor:
        inputs = self.processor(
            text=list(texts), padding=True, truncation=True, return_tensors="pt"
        )
        inputs = inputs.to(self.model.device)
        return _unit(self.model.get_text_features(**inputs).pooler_output)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _batches(items: Sequence[T], what: str) -> list[Sequence[T]]:
    if not len(items):
        raise UserError(
            f"An empty list of {what}s was given.",
            "There is nothing to embed.",
            f"Pass at least one {what}.",
        )
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
