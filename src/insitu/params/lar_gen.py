"""Settings of LAR-Gen: a subject into a masked place, from text, a picture, or both."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Scale, Settings, Steps
from insitu.params.training import Share, Training

Factor = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class LarGen(Settings):
    """LAR-Gen: its parts, its two stages, its sampling, and how it is trained."""

    assign: bool = Field(description="A branch over image tokens in cross-attention.")
    refine: bool = Field(description="A second U-Net whose features self-attention sees.")
    tokens: Annotated[int, Field(ge=1, le=1024)] = Field(description="Image tokens, 1 to 1024.")
    width: Annotated[int, Field(ge=8, le=8192)] = Field(
        description="Width of the resampler, 8 to 8192."
    )
    depth: Annotated[int, Field(ge=1, le=32)] = Field(description="Its layers, 1 to 32.")
    head: Annotated[int, Field(ge=4, le=512)] = Field(
        description="Width of its attention heads, 4 to 512; divides `width`."
    )
    main: Literal["none", "attention", "all"] = Field(
        description="What learns of the main U-Net in the first stage."
    )
    first_stage: Share = Field(
        description="Share of the training without Refine and with beta = 1, 0 to 1."
    )
    beta: Factor = Field(
        description="How much image tokens count in the second stage and when painting, 0 to 10."
    )
    captions: Literal["regional", "tag", "global"] = Field(
        description="Learn from captions of the object's region, from its tag alone (a mug: the"
        " picture says how it looks), or from captions of the whole picture."
    )
    mask_shape: Literal["instance", "box", "mixed"] = Field(
        description="Learn from the object's own mask, its box, or each by half."
    )
    subject_size: Annotated[int, Field(ge=0, le=4096)] = Field(
        description="Side in pixels of the subject's picture for Refine; 0 = the base's."
    )
    context: Annotated[float, Field(ge=0, le=3)] = Field(
        description="How much longer the painted square is than the box, as a share, 0 to 3."
    )
    scheduler: Literal["own", "ddim", "euler"] = Field(
        description="own = the checkpoint's scheduler."
    )
    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(
        description="Guidance over all conditions at once, 1 to 30; 1 is off."
    )
    rescale: Share = Field(description="How far guidance's spread is taken back, 0 to 1.")
    guide_refine: bool = Field(
        description="Guidance leads away from a pass that does not see Refine's features, either."
    )
    train: Training = Field(description="How it is trained.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.head:
            raise UserError(
                f"lar_gen.width is {self.width}, and lar_gen.head {self.head}.",
                "The resampler's width is no multiple of its heads'.",
                "Make width a multiple of head.",
            )
        ends = [stage.until for stage in self.train.stages]
        if self.refine and 0 < self.first_stage < 1 and self.first_stage not in ends:
            raise UserError(
                f"lar_gen.first_stage is {self.first_stage:g}, and stages of the training end at"
                f" {ends}.",
                "What learns would change at another time than what is painted with.",
                "End one of lar_gen.train.stages there.",
            )
        return self
