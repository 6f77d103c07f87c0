"""Settings of UNO: a picture that shows given subjects."""

from typing import Annotated, Literal

from pydantic import Field

from insitu.params.base import Scale, Settings, Steps
from insitu.params.training import Training


class Uno(Settings):
    """UNO: its references, its LoRA, its sampling, and how it is trained."""

    most: Annotated[int, Field(ge=1, le=4)] = Field(
        description="References of a picture, at most, 1 to 4."
    )
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="Rank of the LoRA, 1 to 1024; the published one has 512."
    )
    acting: Literal["all", "references"] = Field(
        description="Tokens that the LoRA acts on: all, as in the published one, or references"
        " alone, which leaves words and picture to the base."
    )
    reference_size: Annotated[int, Field(ge=16, le=2048)] = Field(
        description="Side in pixels at which references are encoded, 16 to 2048."
    )
    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Embedded guidance, 1 to 30.")
    training_guidance: Scale = Field(description="The same while training; 1 = none.")
    train: Training = Field(description="How it is trained.")
