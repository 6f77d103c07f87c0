"""What settings are made of: frozen groups that refuse unknown keys, and checkpoints."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from insitu.errors import UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

Steps = Annotated[int, Field(ge=1, le=1000)]
Scale = Annotated[float, Field(ge=1.0, le=30.0, allow_inf_nan=False)]
# A page with more pictures than this is no longer looked at, and its stage no longer quick.
Count = Annotated[int, Field(ge=1, le=64)]


class Settings(BaseModel):
    # strict: "25" is not 25 and `true` is not 1; a quoted number is a slip worth showing.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Checkpoint(Settings):
    """Where one model is loaded from: a local folder, or a hub id at one commit."""

    path: str = Field(min_length=1, description="A local folder, or a hub id (owner/name).")
    revision: str | None = Field(
        default=None,
        validate_default=True,
        description="The commit of a hub id, 40 hex digits; absent for a local folder.",
    )

    @property
    def is_hub_id(self) -> bool:
        """True when `path` names a repository on a model hub rather than a folder here."""
        return _is_hub_id(self.path)

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("path")
        if path is None:  # already refused by its own check
            return revision
        if not _is_hub_id(path):
            if revision is not None:
                raise UserError(
                    f"Revision {revision!r} is given for the local folder {path!r}.",
                    "A folder has one content; a revision would be ignored.",
                    "Remove the revision, or give a hub id as path.",
                )
        elif revision is None:
            raise UserError(
                f"{path!r} has no revision.",
                "It is not a folder here, so it is read as a hub id, and an unpinned base can"
                " change under the adapters trained on it.",
                "Add `revision:` with the commit's 40 hex digits, or correct the folder's path.",
            )
        elif not _COMMIT.fullmatch(revision):
            raise UserError(
                f"{path!r} is pinned to {revision!r}.",
                "That is not a commit; branches and tags can move.",
                "Give the commit's 40 hex digits.",
            )
        return revision


class FluxCheckpoint(Checkpoint):
    """A FluxPipeline, and the sizes that it is used at."""

    size: Annotated[int, Field(ge=16, le=4096)] = Field(
        description="Side in pixels of the pictures that methods work on, 16 to 4096."
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = Field(
        description="Length of encoded prompts in tokens, 1 to 512."
    )


class Models(Settings):
    """The checkpoints in use, one for each role."""

    flux: FluxCheckpoint = Field(description="Text to image: a FluxPipeline folder.")
    inpaint: Checkpoint = Field(
        description="Masked fill: a folder of Stable Diffusion's, SDXL or SD1.5."
    )
    clip: Checkpoint = Field(description="Image-text similarity: a CLIPModel folder.")
    dino: Checkpoint = Field(description="Identity features: a Dinov2Model folder.")
    detector: Checkpoint = Field(description="Boxes for a text query: zero-shot detection.")
    face: Checkpoint = Field(description="Face embedder and landmarks.")


def float16_on_cpu(given: str) -> UserError:
    """The refusal of float16 without CUDA, also for callers who resolve `auto` themselves."""
    return UserError(
        given,
        "CPUs lack float16 arithmetic: it overflows or is missing for many operations.",
        "Set `dtype` to float32 or bfloat16, or run on cuda.",
    )


def offload_on_cpu(given: str) -> UserError:
    """The refusal of offload without CUDA, also for callers who resolve `auto` themselves."""
    return UserError(
        given,
        "The weights already lie in the processor's memory: it would save nothing.",
        "Set `offload` to none, or run on cuda.",
    )


def _is_hub_id(path: str) -> bool:
    return not Path(path).is_dir() and _HUB_ID.fullmatch(path) is not None
