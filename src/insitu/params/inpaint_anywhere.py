"""Settings of Inpaint-Anywhere."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Scale, Settings, Steps
from insitu.params.training import Training

Rank = Annotated[int, Field(ge=1, le=256)]


class InpaintAnywhere(Settings):
    """Inpaint-Anywhere: its two adapters, what they are told, how it paints and is trained."""

    most: Annotated[int, Field(ge=1, le=4)] = Field(
        description="Identities in a picture, at most, 1 to 4."
    )
    identity_rank: Rank = Field(description="Rank of IDA, 1 to 256.")
    inpaint_rank: Rank = Field(description="Rank of InpA, 1 to 256.")
    targets: Literal["qkv", "wide"] = Field(
        description="Layers with LoRA: qkv, or also norms, outputs and feed-forward layers."
    )
    adapters: Literal["both", "identity", "inpaint", "unified"] = Field(
        description="Which adapters there are; unified = one for all conditions."
    )
    shifted: bool = Field(description="Identities' positions lie beside the picture's (IMRoPE).")
    placed: bool = Field(description="Boxes become position tokens.")
    frequencies: Annotated[int, Field(ge=1, le=16)] = Field(
        description="Fourier frequencies of the position encoder, 1 to 16."
    )
    group: Literal["self", "identity+position", "conditions"] = Field(
        description="Whom conditions see: themselves, an identity its position, or all conditions."
    )
    reference_size: Annotated[int, Field(ge=0, le=2048)] = Field(
        description="Side in pixels at which references are encoded; 0 = the picture's."
    )
    fill: Annotated[int, Field(ge=0, le=255)] = Field(
        description="Gray of the boxes in the masked picture, 0 to 255."
    )
    category: bool = Field(description="The word for what it is follows a placeholder.")
    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Embedded guidance, 1 to 30.")
    passes: Literal["one", "each"] = Field(
        description="one pass for all identities, or each its own (baseline)."
    )
    paste: bool = Field(description="Pixels outside of the boxes stay the photo's.")
    train: Training = Field(description="How it is trained.")

    @model_validator(mode="after")
    def _grouped(self) -> Self:
        if self.group == "identity+position" and not self.placed:
            raise UserError(
                "inpaint_anywhere.group is identity+position, and placed is false.",
                "There are no position tokens for identities to see.",
                "Set group to self, or placed to true.",
            )
        return self
