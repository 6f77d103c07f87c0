"""Settings of AnyPhoto."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Scale, Settings, Steps
from insitu.params.training import Share, Training

Degradation = Literal[
    "colour_jitter", "grayscale", "blur", "sharpness", "autocontrast", "flip", "salt_and_pepper",
    "gaussian_noise", "occlusion", "illumination", "jpeg", "low_resolution",
]  # fmt: skip
Ratio = Annotated[float, Field(gt=0, le=4)]


class AnyPhoto(Settings):
    """AnyPhoto: how faces are placed and told, what is learned, how it paints and is trained."""

    faces: Annotated[int, Field(ge=1, le=8)] = Field(
        description="Faces in a picture, at most, 1 to 8."
    )
    rank: Annotated[int, Field(ge=1, le=512)] = Field(description="Rank of the LoRA, 1 to 512.")
    targets: Literal["attention", "image"] = Field(
        description="Layers with LoRA: attention's, or all linear layers that images pass."
    )
    location: Literal["pruned", "canvas", "roi"] = Field(
        description="pruned: a face's tokens of its canvas; canvas: all of them; roi: the face"
        " alone, and attention masked by region."
    )
    modulated: bool = Field(description="Identity embeddings move the modulation of face tokens.")
    isolated: bool = Field(description="Faces do not see one another.")
    patch: Annotated[int, Field(ge=16, le=1024)] = Field(
        description="Side of an aligned face in pixels, 16 to 1024."
    )
    scale: Annotated[tuple[Ratio, Ratio], Field(strict=False)] = Field(
        description="Least and greatest side of a pasted face, in sides of the picture, above 0"
        " to 4."
    )
    box: Annotated[float, Field(ge=0.25, le=4)] = Field(
        description="Side of an aligned face in longer sides of its box, where only a box is"
        " given, 0.25 to 4."
    )
    variants: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Pictures encoded of each face, and as many of others of its identity, 1 to 64."
    )
    replacement: Share = Field(
        description="Greatest probability of learning from another face of the identity, 0 to 1."
    )
    milestones: Annotated[tuple[Share, ...], Field(min_length=1, strict=False)] = Field(
        description="Shares of the training at which that probability rises; [0] = fixed."
    )
    degradations: tuple[Degradation, ...] = Field(
        strict=False, description="What is done to faces that are learned from, in this order."
    )
    degrade: Share = Field(description="Probability of each degradation, 0 to 1.")
    severity: Share = Field(description="How strong degradations are at most, 0 to 1.")
    face_weight: Annotated[float, Field(ge=0, le=10)] = Field(
        description="lambda, the face loss's weight, 0 to 10; 0 = off."
    )
    face_until: Share = Field(description="t from which on the face loss does not count, 0 to 1.")
    trained_guidance: Scale = Field(description="Embedded guidance in training, 1 to 30.")
    guidance_scale: Scale = Field(description="Embedded guidance in sampling, 1 to 30.")
    identity_scale: Scale = Field(
        description="Classifier-free guidance by identity, 1 to 30; 1 is off, above it takes twice"
        " the time."
    )
    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    train: Training = Field(description="How it is trained.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise UserError(
                f"anyphoto.scale is {list(self.scale)}.",
                "The least side of a face is above the greatest.",
                "Give the smaller number first.",
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(
                f"anyphoto.milestones are {list(self.milestones)}.",
                "The probability rises once at each, in the order of the training.",
                "Give different shares in rising order.",
            )
        if self.identity_scale > 1 and self.train.drop.condition == 0:
            raise UserError(
                f"anyphoto.identity_scale is {self.identity_scale:g}, and train.drop.condition 0.",
                "Guidance by identity compares with a model that was trained without identities,"
                " too.",
                "Set train.drop.condition to 0.15, or identity_scale to 1.",
            )
        if self.face_weight > 0 and self.face_until == 0:
            raise UserError(
                f"anyphoto.face_weight is {self.face_weight:g}, and face_until 0.",
                "No time is below 0, so the face loss would never count.",
                "Raise face_until, or set face_weight to 0.",
            )
        return self
