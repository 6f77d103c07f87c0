"""Settings of the data engines: BoundID, entities, quadruples, groups, regularization."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Checkpoint, Scale, Settings, Steps
from insitu.params.language import Endpoint, LocalLanguage

Rows = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=16, le=4096)]
Words = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
Speaker = Literal["clip", "endpoint", "local"]


class Runner(Settings):
    """Where the data engines run, and how much at once."""

    engine: Literal["local", "ray"] = Field(
        description="local: in the step's process; ray: on the cluster of RAY_ADDRESS or, without"
        " one, on this machine."
    )
    workers: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="Workers on Ray; each loads the models once."
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        description="Threads of a worker; sums round differently with another number."
    )
    batch: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="Rows handed to the models at once; bounds memory."
    )
    shard: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="Rows of a shard, the unit that is written whole or not at all."
    )


class InsightFaceFile(Settings):
    """An ONNX file of insightface, which alone may be loaded, by its digest."""

    path: str = Field(min_length=1, description="The file.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of its content.")


class InsightFaceFiles(Settings):
    """insightface's detector (SCRFD) and embedder (ArcFace)."""

    detector: InsightFaceFile = Field(description="SCRFD, e.g. antelopev2's scrfd_10g_bnkps.")
    embedder: InsightFaceFile = Field(description="ArcFace, e.g. antelopev2's glintr100.")


class Perception(Settings):
    """What finds, cuts out, names and judges things in the data engines."""

    segmenter: Literal["grabcut", "sam"] = Field(description="Masks: GrabCut, or `sam`.")
    tagger: Speaker = Field(
        description="Names what is in a picture and a subject's attributes: zero-shot CLIP,"
        " `endpoint` or `local`."
    )
    captioner: Speaker = Field(description="Describes pictures and crops, as `tagger`.")
    judge: Literal["embeddings", "endpoint", "local"] = Field(
        description="Filters B and C: DINO's cosine and CLIP's aesthetic head, `endpoint`, `local`."
    )
    faces: Literal["nano", "insightface"] = Field(
        description="Faces: the checkpoints models.detector and models.face, or `insightface`."
    )
    things: Words = Field(description="What a tagger can name, and what is looked for.")
    not_things: Words = Field(
        description="Names of what is no entity: tagged, and then dropped (LAR-Gen, section 5)."
    )
    places: Words = Field(description="What a captioner says of a background.")
    clothes: dict[str, str] = Field(
        description="What a zero-shot captioner says colours of instead, e.g. person: shirt."
    )
    detection: Share = Field(description="Least score of a detection that counts, 0 to 1.")
    face: Share = Field(description="Least score of a face that counts, 0 to 1.")
    sam: Checkpoint | None = Field(description="A SAM checkpoint of transformers, or null.")
    endpoint: Endpoint | None = Field(description="An OpenAI-compatible endpoint, or null.")
    local: LocalLanguage | None = Field(description="A vision-language model here, or null.")
    insightface: InsightFaceFiles | None = Field(description="insightface's files, or null.")

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        speakers = {self.tagger, self.captioner, self.judge}
        wanted = {
            "sam": self.segmenter == "sam",
            "endpoint": "endpoint" in speakers,
            "local": "local" in speakers,
            "insightface": self.faces == "insightface",
        }
        for name, is_wanted in wanted.items():
            if is_wanted and getattr(self, name) is None:
                raise UserError(
                    f"`perception` names {name}, and `perception.{name}` is null.",
                    "It is not said which one that is.",
                    f"Fill in `perception.{name}`, or name another.",
                )
        return self


class Flux(Settings):
    """How FLUX draws for the data engines."""

    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Distilled guidance, 1 to 30.")
    true_cfg_scale: Scale = Field(
        description="Classifier-free guidance, 1 to 30; 1 turns it off, more doubles the time."
    )
    max_sequence_length: Annotated[int, Field(ge=16, le=512)] = Field(
        description="Tokens of the prompt, 16 to 512."
    )


class Faults(Settings):
    """How often the world fails as a generator, each fault by itself; shares of pictures."""

    missing: Share = Field(description="An identity is not there.")
    wrong_identity: Share = Field(description="Another one of its category stands there.")
    swapped_attributes: Share = Field(description="Two trade colour and pattern.")
    blur: Share = Field(description="The picture is blurred.")
    clutter: Share = Field(description="Stray shapes lie over it.")
    bad_crop: Share = Field(description="Things leave the picture.")
    degraded: Share = Field(description="The finished picture is spoilt (docs/world.md).")

    def rates(self) -> dict[str, float]:
        """By the world's names of faults."""
        own = self.model_dump(exclude={"degraded"})
        return {name.replace("_", " "): rate for name, rate in own.items()}


class Pairs(Settings):
    """The subject bank, and the pairs drawn from it."""

    bank: Literal["world", "pictures"] = Field(
        description="world: drawn identities; pictures: those of the stage `images` that have two"
        " pictures or more."
    )
    identities: Rows = Field(description="Identities of the world's bank.")
    size: Pixels = Field(description="Side in pixels of the world's bank pictures.")
    count: Rows = Field(description="Pairs, each of which becomes a candidate.")
    validation: Share = Field(description="Share of identities for validation.")
    test: Share = Field(description="Share of identities for test.")


class UnoAdapter(Settings):
    """UNO as a generator."""

    adapter: str = Field(
        min_length=1,
        description="A trained adapter's folder, or the published safetensors file.",
    )


class Candidates(Settings):
    """The pictures that a generator makes of the pairs."""

    generator: Literal["world", "flux", "uno"] = Field(
        description="world: with the faults below; flux: text to image from the prompt; uno: from"
        " the prompt and the references."
    )
    size: Pixels = Field(description="Side in pixels.")
    flux: Flux = Field(description="How FLUX draws.")
    uno: UnoAdapter = Field(description="What UNO draws with.")
    faults: Faults = Field(description="How the world fails.")


class Looking(Settings):
    """What the models say of candidates, before any filter."""

    floor: Share = Field(
        description="Least score of a box that is looked at; not above boundid.detection."
    )


class BoundId(Settings):
    """Filters A, B, C, and the rows of BoundID."""

    detection: Share = Field(description="A: the detector's score of each identity, at least.")
    identity: Annotated[float, Field(ge=-1, le=2)] = Field(
        description="B: the judge's similarity of each identity to its reference, at least."
    )
    hidden: Share = Field(
        description="B: how much less is asked of an identity that the others' boxes cover wholly."
    )
    quality: float = Field(description="C: the judge's score of the picture, at least.")
    growth: Annotated[float, Field(ge=0, le=3)] = Field(
        description="How much boxes grow; the paper tries 0, 0.25, 0.5, 0.75."
    )
    grow: Literal["side", "edge"] = Field(
        description="side: each side by that share; edge: each edge moves out by it."
    )
    fill: Annotated[int, Field(ge=0, le=255)] = Field(
        description="The gray of the blanked boxes, 0 to 255."
    )


class Entities(Settings):
    """EliGen's data: pictures with entities, their prompts and boxes."""

    captions: str = Field(
        min_length=1,
        description="world: captions of the world's scenes; or a text file, one caption a line.",
    )
    count: Rows = Field(description="Pictures.")
    generator: Literal["world", "flux"] = Field(description="What draws them.")
    size: Pixels = Field(description="Side in pixels.")
    flux: Flux = Field(description="How FLUX draws.")
    smallest: Share = Field(description="Least share of the picture that an entity's box has.")
    most: Annotated[int, Field(ge=1, le=64)] = Field(description="Most entities of a picture.")
    agreement: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="Least cosine of CLIP between the crop and its prompt."
    )


class Quadruples(Settings):
    """LAR-Gen's data: objects with masks and regional captions."""

    source: Literal["world", "pictures"] = Field(
        description="Still images: the world's, or those of the stage `images`."
    )
    count: Rows = Field(description="Pictures of the world.")
    size: Pixels = Field(description="Side in pixels of the world's pictures.")
    smallest: Share = Field(description="Least share of the picture that an object has.")
    largest: Share = Field(description="Largest share of the picture that an object has.")
    fits: Share = Field(description="Least IoU of the mask's own box with the box asked for.")


class Groups(Settings):
    """AnyPhoto's data: people with names at places, and the face bank."""

    count: Rows = Field(description="Group photos.")
    identities: Rows = Field(description="People whose faces are in the bank.")
    references: Annotated[int, Field(ge=2, le=64)] = Field(
        description="Reference pictures of each, 2 to 64."
    )
    size: Pixels = Field(description="Side in pixels.")
    box_weight: Share = Field(
        description="Weight of the boxes' IoU in the match; the rest is the embeddings' cosine."
    )
    match: Share = Field(description="Least weighted score of a match, 0 to 1.")
    similarity: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="Least cosine between a face and its references; below, the references are"
        " poor or the name is wrong."
    )
    misnamed: Share = Field(description="Share of the world's photos with a wrong name.")
