"""The settings in params.yaml: typed, frozen, and checked whole before any work starts.

Every setting is written in the file; there are no hidden defaults, and a key that is not declared
here is refused. Paths are relative to the folder the command runs in, the repository's root.
"""

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from insitu.errors import UserError
from insitu.params.anyphoto import AnyPhoto
from insitu.params.base import (
    Checkpoint,
    FluxCheckpoint,
    Models,
    Settings,
    float16_on_cpu,
    offload_on_cpu,
)
from insitu.params.eligen import EliGen
from insitu.params.engines import (
    BoundId,
    Candidates,
    Entities,
    Groups,
    Looking,
    Pairs,
    Perception,
    Quadruples,
    Runner,
)
from insitu.params.gallery import Gallery
from insitu.params.inpaint_anywhere import InpaintAnywhere
from insitu.params.lar_gen import LarGen
from insitu.params.serving import Serving
from insitu.params.sources import Pictures
from insitu.params.spine import (
    Evaluate,
    Measure,
    Painting,
    Registry,
    Regularization,
    Subjects,
    Tune,
    Variants,
)
from insitu.params.training import Training
from insitu.params.uno import Uno

__all__ = [
    "Checkpoint",
    "FluxCheckpoint",
    "Gallery",
    "Models",
    "Params",
    "float16_on_cpu",
    "load",
    "offload_on_cpu",
]


class Params(Settings):
    """All settings of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        description="Seed of every random stream, an integer from 0 to 2^63 - 1."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="auto (cuda where there is one), cpu or cuda."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        description="Number format of the models that paint: float32, bfloat16 or float16."
    )
    models: Models = Field(description="The checkpoints in use.")
    gallery: Gallery = Field(description="The page of pictures.")
    subjects: Subjects = Field(description="Whose photos there are.")
    regularization: Regularization = Field(
        description="Pictures of the subjects' classes that keep attributes editable."
    )
    tune: Tune = Field(description="How a subject is tuned.")
    inpaint_anywhere: InpaintAnywhere = Field(description="Several identities in one pass.")
    painting: Painting = Field(description="How the base is held where it only paints.")
    evaluate: Evaluate = Field(description="How adapters are compared with the untuned base.")
    measure: Measure = Field(description="How trained methods are compared with untrained ones.")
    variants: Variants = Field(description="Settings of painting that are compared.")
    registry: Registry = Field(description="Where adapters are registered and promoted.")
    serving: Serving = Field(description="The HTTP API and the studio.")
    runner: Runner = Field(description="Where the data engines run.")
    perception: Perception = Field(description="What the data engines see with.")
    pictures: Pictures = Field(description="Your own pictures.")
    pairs: Pairs = Field(description="The subject bank and its pairs.")
    candidates: Candidates = Field(description="The generator's pictures of the pairs.")
    detections: Looking = Field(description="What models say of the candidates.")
    boundid: BoundId = Field(description="Filters A, B, C, and BoundID's rows.")
    entities: Entities = Field(description="EliGen's data.")
    quadruples: Quadruples = Field(description="LAR-Gen's data.")
    lar_gen: LarGen = Field(description="LAR-Gen: subjects from text, a picture, or both.")
    groups: Groups = Field(description="AnyPhoto's data and face bank.")
    anyphoto: AnyPhoto = Field(description="AnyPhoto: faces at places, each from one picture.")
    uno: Uno = Field(description="UNO: pictures of given subjects.")
    eligen: EliGen = Field(description="EliGen: entities in words, at places of any shape.")

    @model_validator(mode="after")
    def _filters_see_what_they_ask_for(self) -> Self:
        if self.boundid.detection < self.detections.floor:
            raise UserError(
                f"boundid.detection is {self.boundid.detection:g}, detections.floor"
                f" {self.detections.floor:g}.",
                "Boxes under the floor are not looked at, so filter A would act as if it were"
                " the floor.",
                "Lower detections.floor, or raise boundid.detection.",
            )
        return self

    @field_validator("dtype")
    @classmethod
    def _runs_on_device(cls, dtype: str, info: ValidationInfo) -> str:
        if dtype == "float16" and info.data.get("device") == "cpu":
            raise float16_on_cpu("float16 is asked for on cpu.")
        return dtype

    @field_validator("painting")
    @classmethod
    def _has_two_memories(cls, painting: Painting, info: ValidationInfo) -> Painting:
        if painting.offload != "none" and info.data.get("device") == "cpu":
            raise offload_on_cpu(f"`offload` is {painting.offload} on cpu.")
        return painting

    def learned(self, method: str) -> tuple[dict[str, Any], Training]:
        """A method's own settings, plain values by name, and how it is trained.

        Raises:
            UserError: there is no block of that name.
        """
        if method == self.tune.method:
            own: Any = getattr(self.tune, method)
            return own.model_dump(), self.tune
        group = getattr(self, method, None)
        training = getattr(group, "train", None)
        if not isinstance(training, Training) or group is None:
            fields = type(self).model_fields
            known = [name for name in fields if hasattr(getattr(self, name), "train")]
            raise UserError(
                f"The method {method!r} was asked for.",
                "params.yaml has no block for it, so it would be trained with nothing.",
                f"Use one of: {', '.join([self.tune.method, *known])}.",
            )
        return group.model_dump(exclude={"train"}), training

    def learning_base(self, training: Training) -> dict[str, Any]:
        """How the frozen base is held that an adapter learns on; plain values by name."""
        return {"dtype": self.dtype, **training.base.model_dump()}

    def painting_base(self) -> dict[str, Any]:
        """How the base is held where it only paints; plain values by name."""
        return {"dtype": self.dtype, **self.painting.model_dump()}


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
