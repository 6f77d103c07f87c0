"""What differs between the families of Stable Diffusion: the pipeline, how prompts are encoded, and
what the U-Net is told beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
)
from torch import Tensor

from insitu.backbones.loading import BROKEN
from insitu.errors import UserError
from insitu.params import Checkpoint


@dataclass(frozen=True)
class Text:
    """Encoded prompts: context [B, T, D], and of SDXL the pooled vector [B, P]."""

    context: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, which: Any) -> "Text":
        """Some of the prompts."""
        return Text(self.context[which], None if self.pooled is None else self.pooled[which])


def joined(texts: Sequence[Text]) -> Text:
    """One after the other."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return Text(torch.cat([text.context for text in texts]), torch.cat(pooled) if pooled else None)


class Family(Protocol):
    """A family of checkpoints.

    Attributes:
        pipeline: diffusers' class for inpainting with it.
        encoders: the names of the pipeline's parts that are text encoders.
    """

    pipeline: Any
    encoders: tuple[str, ...]

    def encode(self, pipeline: Any, prompts: Sequence[str], device: torch.device) -> Text: ...

    def told(self, text: Text, height: int, width: int, dtype: torch.dtype) -> Any:
        """`added_cond_kwargs` for pictures of a size in pixels."""
        ...


class SDXL:
    """Two encoders; the U-Net is told the pooled prompt and the picture's size."""

    pipeline = StableDiffusionXLInpaintPipeline
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2")

    def encode(self, pipeline: Any, prompts: Sequence[str], device: torch.device) -> Text:
        context, _, pooled, _ = pipeline.encode_prompt(
            list(prompts), device=device, num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )  # fmt: skip
        return Text(context, pooled)

    def told(self, text: Text, height: int, width: int, dtype: torch.dtype) -> Any:
        assert text.pooled is not None  # `encode` gives it
        size = torch.tensor([height, width, 0, 0, height, width], device=text.context.device)
        time_ids = size.expand(len(text.context), -1).to(dtype)
        return {"text_embeds": text.pooled.to(dtype), "time_ids": time_ids}


class SD:
    """SD1.5 and its like: one encoder, nothing beside the context."""

    pipeline = StableDiffusionInpaintPipeline
    encoders: tuple[str, ...] = ("text_encoder",)

    def encode(self, pipeline: Any, prompts: Sequence[str], device: torch.device) -> Text:
        context, _ = pipeline.encode_prompt(
            list(prompts), device=device, num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )  # fmt: skip
        return Text(context)

    def told(self, text: Text, height: int, width: int, dtype: torch.dtype) -> Any:
        return None


def family_of(checkpoint: Checkpoint) -> Family:
    """The family that a pipeline's `model_index.json` names.

    Raises:
        UserError: it cannot be read, or is of another family.
    """
    try:
        index = DiffusionPipeline.load_config(checkpoint.path, revision=checkpoint.revision)
    except BROKEN as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{checkpoint.path} was given as the inpainting base.",
            f"It is no pipeline's folder: {first}",
            "Correct the path in params.yaml, or build the checkpoint (make nano).",
        ) from error
    name = str(index["_class_name"])
    if name.startswith("StableDiffusionXL"):
        return SDXL()
    if name.startswith("StableDiffusion") and not name.startswith("StableDiffusion3"):
        return SD()
    raise UserError(
        f"{checkpoint.path} was given as the inpainting base.",
        f"It is a {name}; what is here works with Stable Diffusion's U-Nets.",
        "Give a checkpoint of SDXL or SD1.5, for inpainting or from text.",
    )
