"""Settings of EliGen: entities in words, each in a region of any shape."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Scale, Settings, Steps
from insitu.params.training import Training

Guidance = Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)]


class EliGen(Settings):
    """EliGen: its regional attention, its LoRA, its sampling, and how it is trained."""

    most: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Entities of one picture at most, 1 to 64."
    )
    rank: Annotated[int, Field(ge=1, le=256)] = Field(description="Rank of the LoRA, 1 to 256.")
    feed_forward: bool = Field(description="LoRA on the feed-forward layers, too.")
    training_guidance: Guidance = Field(
        description="Embedded guidance while training, 0 to 30; 1 = the velocity as it is."
    )
    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(
        description="Classifier-free guidance of two passes, 1 to 30; 1 is off, at half the time."
    )
    guidance: Guidance = Field(description="Embedded guidance of sampling, 0 to 30.")
    fuse: Literal["before_cfg", "after_cfg", "off"] = Field(
        description="Where a photo's background enters: before_cfg (the paper's), after_cfg (it"
        " ends at the photo), off (it is only pasted back)."
    )
    paste: bool = Field(description="The photo's pixels come back outside of the masks.")
    image_prompt: Annotated[str, Field(min_length=1)] | None = Field(
        description="Folder of an IP-Adapter for FLUX (ip_adapter.safetensors, image_encoder/),"
        " with which a request may have a picture for its style; null = none."
    )
    image_prompt_scale: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        description="Of what it adds, 0 to 10; 0 = nothing."
    )
    train: Training = Field(description="How it is trained.")

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.train.drop.condition == 1:
            raise UserError(
                "eligen.train.drop.condition is 1.",
                "Every example would be without its entities, and none would be learned.",
                "Set it below 1.",
            )
        if self.train.min_snr is not None:
            raise UserError(
                f"eligen.train.min_snr is {self.train.min_snr:g}.",
                "It weighs a noise schedule's losses, and a rectified flow has none.",
                "Set it to null; times.kind logit_normal favours the middle.",
            )
        return self
