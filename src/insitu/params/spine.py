"""Settings of the chain from a folder of photos to an answered request."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Count, Scale, Settings, Steps
from insitu.params.training import Share, Training

Weight = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z-]*$")]


class Attributes(Settings):
    """Words for how a thing looks, by kind: what a tagger chooses from, what stays editable."""

    colour: tuple[Word, ...] = Field(strict=False, description="Colour words.")
    pattern: tuple[Word, ...] = Field(strict=False, description="Pattern words; plain is unsaid.")
    material: tuple[Word, ...] = Field(strict=False, description="Material words.")


class Subjects(Settings):
    """Whose photos there are: your own folders, and subjects drawn from the world."""

    folder: str = Field(
        min_length=1, description="Where your own subjects lie, one folder of photos each."
    )
    drawn: Annotated[int, Field(ge=0, le=64)] = Field(
        description="Subjects drawn from the procedural world, 0 to 64."
    )
    photos: Annotated[int, Field(ge=1, le=32)] = Field(
        description="Photos of each drawn subject, 1 to 32."
    )
    size: Annotated[int, Field(ge=64, le=2048)] = Field(
        description="Side in pixels of the drawn subjects' photos, 64 to 2048."
    )
    attributes: Attributes = Field(description="Words for how subjects look.")
    detection_threshold: Share = Field(
        description="Least score of a detection that says where your subject is, 0 to 1."
    )


class DreamMix(Settings):
    """DreamMix: what is tuned, and the weights of its loss."""

    rank: Annotated[int, Field(ge=1, le=256)] = Field(description="Rank of the LoRA, 1 to 256.")
    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        description="Layers that get a LoRA, by the ends of their names."
    )
    inside: Weight = Field(description="tau1, the loss's weight within the mask, 0 to 10.")
    outside: Weight = Field(description="tau2, its weight outside of the mask, 0 to 10.")
    beta: Weight = Field(description="Weight of the regularization images' loss, 0 to 10.")
    local: Share = Field(
        description="lambda, the share of the steps on a square around the place; the others work"
        " on the whole photo, 0 to 1."
    )
    enlarge: Annotated[float, Field(ge=0, le=1)] = Field(
        description="How much longer the sides of what is filled there are than the place's, as a"
        " share, 0 to 1."
    )
    background: Literal["original", "intermediate"] = Field(
        description="Outside of the place, once the whole photo is worked on: the photo's, or as"
        " the square left it (eq. 6)."
    )
    substitute: Literal["off", "tokens", "tokens+pooled"] = Field(
        description="What of a prompt loses the attributes that it replaces."
    )
    scheduler: Literal["own", "ddim", "euler"] = Field(
        description="own = the checkpoint's scheduler."
    )
    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Classifier-free guidance, 1 to 30; 1 is off.")
    rescale: Share = Field(description="How far guidance's spread is taken back, 0 to 1.")
    context: Annotated[float, Field(ge=0, le=3)] = Field(
        description="How much longer the painted square is than the box, as a share, 0 to 3."
    )


class Regularization(Settings):
    """Pictures of the class, painted by the untuned base, that keep attributes editable."""

    images: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="Pictures for each subject, 0 to 1000."
    )
    words: Literal["vocabulary", "dictionary"] = Field(
        description="vocabulary: one of all attribute words in each picture; dictionary: some of"
        " the subject's own at once, as in the paper."
    )


class Tune(Training):
    """How a subject is tuned, on the inpainting checkpoint."""

    method: Literal["dreammix"] = Field(description="The method, a folder of src/insitu/methods.")
    identifier: Word = Field(description="The word that stands for the subject in a prompt.")
    described: bool = Field(
        description="Say a subject's attributes beside the identifier: a [identifier] [attributes]"
        " [class], where its description has that form."
    )
    grow: Share = Field(
        description="How much longer a mask's sides become at most than the box's, 0 to 1."
    )
    masks: Annotated[int, Field(ge=1, le=256)] = Field(
        description="Masks of each picture, each grown by chance, 1 to 256."
    )
    regular_share: Share = Field(
        description="Share of a batch that is drawn from the regularization pictures, 0 to 1."
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Subjects tuned side by side, each in a process that loads the base once, 1 to"
        " 64. They share out the processor's cores; on GPUs each has one, in turn."
    )
    dreammix: DreamMix = Field(description="DreamMix's own settings.")

    @model_validator(mode="after")
    def _shares_out_devices(self) -> Self:
        if self.workers > 1 and self.devices.count * self.devices.nodes > 1:
            raise UserError(
                f"tune.workers is {self.workers}, with {self.devices.count} devices for each"
                f" subject on {self.devices.nodes} nodes.",
                "Subjects side by side have a device each, and would take each other's.",
                "Set workers to 1, or devices.count and devices.nodes.",
            )
        return self

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.regular_share == 1:
            raise UserError(
                "tune.regular_share is 1.",
                "No example would be of the subject, and nothing would be learned about it.",
                "Set it below 1; the paper's release has 0.3.",
            )
        return self


class Painting(Settings):
    """How the base is held where it only paints: regularization, evaluation, serving."""

    offload: Literal["none", "block", "leaf"] = Field(
        description="Its weights wait in the processor's memory and come to the GPU a block or a"
        " layer (leaf) at a time, or stay there (none)."
    )
    text: bool = Field(description="Do the same to the large text encoder.")

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if self.text and self.offload == "none":
            raise UserError(
                "painting.text is true, and painting.offload is none.",
                "There is nothing to do to the text encoder.",
                "Set text to false, or offload to block or leaf.",
            )
        return self


class Evaluate(Settings):
    """How adapters are compared with the untuned base."""

    scenes: Count = Field(description="Held-out scenes, 1 to 64.")
    seeds: Count = Field(description="Pictures of each subject in each scene, 1 to 64.")
    size: Annotated[int, Field(ge=64, le=2048)] = Field(
        description="Side in pixels of the held-out scenes, 64 to 2048."
    )


class Measure(Settings):
    """How a method that was trained on data sets is compared with its untrained self."""

    requests: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="Requests made of held-out rows, at most, 1 to 10000."
    )
    seeds: Count = Field(description="Pictures of each request, 1 to 64.")


class OfLarGen(Settings):
    """Variants of LAR-Gen; each is a group of its settings that differ."""

    own: list[dict[str, Any]] = Field(description="Where the prompt names or describes the thing.")
    edits: list[dict[str, Any]] = Field(description="Where the prompt contradicts the picture.")
    worn: list[dict[str, Any]] = Field(description="Where a garment is to be worn by a person.")


class OfDreamMix(Settings):
    """Variants of DreamMix; each is a group of its settings that differ."""

    small: list[dict[str, Any]] = Field(description="Where the box is small.")
    edits: list[dict[str, Any]] = Field(description="Where the prompt edits an attribute.")


class Variants(Settings):
    """Settings of painting that are compared, by method and by what is asked for."""

    requests: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="Held-out requests of lar_gen, at most, 1 to 1000."
    )
    scenes: Count = Field(description="Scenes for each tuned subject, 1 to 64.")
    seeds: Count = Field(description="Pictures of each request, 1 to 64.")
    lar_gen: OfLarGen = Field(description="Variants of LAR-Gen, by what is asked for.")
    dreammix: OfDreamMix = Field(description="Variants of DreamMix, by what is asked for.")


class GateRule(Settings):
    """What the gate asks of one metric; null = nothing."""

    gain: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        description="How much better than the untrained base's it must be, by more than this with"
        " the whole 95% interval, -1 to 1, in the metric's own unit; or null."
    )
    margin: Annotated[float, Field(ge=0, le=1)] | None = Field(
        description="How much worse than the present champion's it may be, with the whole interval,"
        " 0 to 1; or null."
    )


Rules = Annotated[dict[str, GateRule], Field(min_length=1)]


class Gate(Settings):
    """By method and metric, what a champion must be measured as."""

    dreammix: Rules = Field(description="Of tuned subjects, by metric: gain and margin.")
    inpaint_anywhere: Rules = Field(description="By metric: gain and margin.")
    anyphoto: Rules = Field(description="By metric: gain and margin.")
    eligen: Rules = Field(description="By metric: gain and margin.")
    lar_gen: Rules = Field(description="By metric: gain and margin.")
    uno: Rules = Field(description="By metric: gain and margin.")


class Registry(Settings):
    """Where adapters are registered, and what is asked of a champion."""

    tracking_uri: Annotated[str, Field(pattern=r"^https?://[^/]+")] = Field(
        description="Address of the MLflow server, http(s)://host:port."
    )
    private_key: str | None = Field(
        description="File with the key (elliptic, PEM) that signs what is registered, or null."
    )
    public_key: str | None = Field(
        description="File with the key whose signature a package must have, or null: none needed."
    )
    promotion: Literal["promote", "wait"] = Field(
        description="What Dagster does with a candidate that the gate lets through: make it"
        " champion, or leave that to a person."
    )
    gate: Gate = Field(description="By method and metric, what a champion must be measured as.")
