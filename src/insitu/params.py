"""The settings in params.yaml: typed, frozen, and checked whole before any work starts.

Every setting is written in the file; there are no hidden defaults, and a key that is not declared
here is refused. Paths are relative to the folder the command runs in, the repository's root.
"""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from insitu.errors import UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

Steps = Annotated[int, Field(ge=1, le=1000)]
Scale = Annotated[float, Field(ge=1.0, le=30.0, allow_inf_nan=False)]
# A page with more pictures than this is no longer looked at, and its stage no longer quick.
Count = Annotated[int, Field(ge=1, le=64)]


class _Settings(BaseModel):
    # strict: "25" is not 25 and `true` is not 1; a quoted number is a slip worth showing.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Checkpoint(_Settings):
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


class Models(_Settings):
    """The checkpoints in use, one for each role."""

    flux: Checkpoint = Field(description="Text to image: a FluxPipeline folder.")
    sdxl_inpaint: Checkpoint = Field(
        description="Masked fill: a StableDiffusionXLInpaintPipeline folder."
    )
    clip: Checkpoint = Field(description="Image-text similarity: a CLIPModel folder.")
    dino: Checkpoint = Field(description="Identity features: a Dinov2Model folder.")
    detector: Checkpoint = Field(description="Boxes for a text query: zero-shot detection.")
    face: Checkpoint = Field(description="Face embedder and landmarks.")


class FluxSampling(_Settings):
    """How the gallery samples from the FLUX checkpoint."""

    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Distilled guidance, 1 to 30.")
    true_cfg_scale: Scale = Field(
        description="Classifier-free guidance, 1 to 30; 1 turns it off, more doubles the time."
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = Field(
        description="T5 tokens of a prompt, 1 to 512."
    )
    samples: Count = Field(
        description="Pictures of each kind (one subject, two, a person, a style), 1 to 64."
    )


class InpaintSampling(_Settings):
    """How the gallery samples from the inpainting checkpoint."""

    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Classifier-free guidance, 1 to 30; 1 is off.")
    samples: Count = Field(description="Pictures, 1 to 64.")


class Gallery(_Settings):
    """The page of pictures that shows what each checkpoint can do."""

    size: Annotated[int, Field(ge=16, le=2048, multiple_of=16)] = Field(
        description="Side in pixels of what models paint and rebuild, a multiple of 16 from 16"
        " to 2048."
    )
    scene_size: Annotated[int, Field(ge=64, le=1024)] = Field(
        description="Side in pixels of the pictures that only show the world, 64 to 1024."
    )
    scenes: Count = Field(description="Scenes that open the page, 1 to 64.")
    examples: Count = Field(
        description="Pictures in a row about the world: a style, an identity, 1 to 64."
    )
    flux: FluxSampling = Field(description="Sampling from the FLUX checkpoint.")
    inpaint: InpaintSampling = Field(description="Sampling from the inpainting checkpoint.")
    reconstructions: Count = Field(description="Scenes through both autoencoders, 1 to 64.")
    readings: Count = Field(description="Things that CLIP names and describes, 1 to 64.")
    quality_pairs: Count = Field(description="Clean and degraded pictures to score, 1 to 64.")
    detections: Count = Field(description="Scenes with detected boxes, 1 to 64.")
    retrievals: Count = Field(description="Queries with their nearest identities, 1 to 64.")
    face_pairs: Count = Field(
        description="Face pairs of one person, and as many of two people, 1 to 64."
    )


class Params(_Settings):
    """All settings of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        description="Seed of every random stream, an integer from 0 to 2^63 - 1."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="auto (cuda where there is one), cpu or cuda."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        description="Number format of the models: float32, bfloat16 or float16."
    )
    models: Models = Field(description="The checkpoints in use.")
    gallery: Gallery = Field(description="The page of pictures.")

    @field_validator("dtype")
    @classmethod
    def _runs_on_device(cls, dtype: str, info: ValidationInfo) -> str:
        if dtype == "float16" and info.data.get("device") == "cpu":
            raise float16_on_cpu("float16 is asked for on cpu.")
        return dtype


def float16_on_cpu(given: str) -> UserError:
    """The refusal of float16 without CUDA, also for callers who resolve `auto` themselves."""
    return UserError(
        given,
        "CPUs lack float16 arithmetic: it overflows or is missing for many operations.",
        "Set `dtype` to float32 or bfloat16, or run on cuda.",
    )


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a settings file.

    Raises:
        UserError: the file is missing or not plain YAML, or any setting is unknown, missing, of
            the wrong type, out of range or contradicts another. All problems are reported at once.
    """
    file = Path(path)
    content = _read(file)
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = [_explain(detail, file) for detail in error.errors(include_url=False)]
    raise _combine(problems, file)


def _is_hub_id(path: str) -> bool:
    return not Path(path).is_dir() and _HUB_ID.fullmatch(path) is not None


def _read(file: Path) -> Mapping[Any, Any]:
    try:
        # The parser and the YAML version that DVC uses, so that both see the same values
        # (YAML 1.1 parsers read 1e-4 as text and `no` as false). It refuses duplicate keys.
        content = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(
            f"The settings file {file} was given.",
            f"It cannot be read: {reason}.",
            "Run from the repository's root, or give the path of an existing settings file.",
        ) from None
    except YAMLError as error:
        raise UserError(
            f"The settings file {file} was given.",
            f"It is not plain YAML: {_yaml_problem(error)}.",
            "Correct that line; every key may stand once, and tags are not used.",
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(
            f"The settings file {file} was given.",
            "It does not hold `key: value` lines.",
            f"Start it with `{next(iter(Params.model_fields))}:` and the other settings.",
        )
    return content


def _yaml_problem(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    return f"line {error.problem_mark.line + 1}: {error.problem}"


def _explain(detail: ErrorDetails, file: Path) -> UserError:
    """Put one of pydantic's findings into the three parts."""
    key = ".".join(str(part) for part in detail["loc"])
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return UserError(f"`{key}` in {file}: {cause.given}", cause.why, cause.todo)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return UserError(
            f"`{key}` is set in {file}.",
            "There is no such setting, and an unknown one is never ignored.",
            _nearest(key),
        )
    description = dict(_settings()).get(key, "")
    if detail["type"] == "missing":
        return UserError(
            f"`{key}` is missing from {file}.",
            "Every setting is written in the file; there are no hidden defaults.",
            f"Add `{key}`: {description}",
        )
    rule = detail["msg"].replace("Input should", "It must", 1)
    if detail["type"] == "model_type":
        rule = "It must be a group of settings"
    return UserError(
        f"`{key}` is {reprlib.repr(detail['input'])} in {file}.",
        f"{rule}.",
        f"Correct `{key}`: {description}",
    )


def _settings(
    model: type[BaseModel] = Params, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Dotted key and description of every setting and group of settings."""
    for name, field in model.model_fields.items():
        loc = (*prefix, name)
        yield ".".join(loc), field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, loc)


def _nearest(key: str) -> str:
    """What to write instead of an unknown key: a sibling, else a like name in another group."""
    group, _, name = key.rpartition(".")
    known = [dotted for dotted, _ in _settings()]
    siblings = [dotted for dotted in known if dotted.rpartition(".")[0] == group]
    for candidates in (siblings, known):
        by_name = {dotted.rpartition(".")[2]: dotted for dotted in reversed(candidates)}
        close = difflib.get_close_matches(name, by_name, n=1)
        if close:
            return f"Write `{by_name[close[0]]}` if that was meant, or remove it."
    return f"Remove it, or use one of: {', '.join(f'`{dotted}`' for dotted in siblings)}."


def _combine(problems: Sequence[UserError], file: Path) -> UserError:
    """One error for all problems, numbered alike in its three parts."""
    if len(problems) == 1:
        return problems[0]

    def numbered(parts: Iterator[str]) -> str:
        return " ".join(f"({number}) {part}" for number, part in enumerate(parts, start=1))

    return UserError(
        f"{file} has {len(problems)} problems: {numbered(p.given for p in problems)}",
        numbered(p.why for p in problems),
        numbered(p.todo for p in problems),
    )
