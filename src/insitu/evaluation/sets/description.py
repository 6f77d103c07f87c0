"""The description file of a benchmark; the same for the world's and for real ones by path."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from insitu.errors import UserError

FOLDER = Path("benchmarks/sets")
WORLD = "world"
Count = Annotated[int, Field(ge=1, le=10_000)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Part):
    """Where subjects or scenes come from.

    Attributes:
        path: world = they are drawn; else a folder, see `sources`.
        count: how many are drawn, or taken of the folder, in the order of their names.
    """

    path: Annotated[str, Field(min_length=1)] = WORLD
    count: Count


class Description(Part):
    """What a benchmark asks.

    Attributes:
        title: of the report's section.
        paper: whose evaluation it is, and where the paper describes it.
        kind: pairs = two subjects into two places; scenes = a subject into a place; tuned = a
            subject that an adapter was tuned on into a place; people = faces at places; layouts =
            entities in words at places; styles = the same with a picture for the style.
        subjects, scenes: where they come from.
        prompts: templates, taken in turn; {1}, {2} are the words for a pair's things, {0} that for
            a single one, {place} is the scene's, {colour} a colour that the subject has not;
            {subject} is a tuned one's identifier and class, {edited} the same with one of its
            attributes replaced.
        things: entities of a picture, in turn; of people, how many there are.
        shape: of places: boxes, or masks of any shape.
        keep: a photo's place is painted, else the whole picture.
        share: sides of a place in shares of the room there is; below 1 = small boxes.
        seed: of all that is drawn.
        size: side of the photos in pixels.
    """

    title: Annotated[str, Field(min_length=3)]
    paper: str
    kind: Literal["pairs", "scenes", "tuned", "people", "layouts", "styles"]
    subjects: Source | None = None
    scenes: Source | None = None
    prompts: tuple[str, ...] = ()
    things: tuple[Annotated[int, Field(ge=1, le=4)], ...] = (1, 2, 3, 4)
    shape: Literal["box", "mask"] = "box"
    keep: bool = True
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int
    size: Annotated[int, Field(ge=16, le=4096)]

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed = {
            "pairs": ("subjects", "scenes", "prompts"), "scenes": ("subjects", "scenes", "prompts"),
            "tuned": ("scenes", "prompts"), "people": ("scenes",), "layouts": (), "styles": (),
        }[self.kind]  # fmt: skip
        lacking = [name for name in needed if not getattr(self, name)]
        if lacking:
            raise ValueError(f"{self.kind} needs {lacking[0]}")
        return self


def load(name: str, folder: Path = FOLDER) -> Description:
    """Read and check a description.

    Raises:
        UserError: there is no such file, it is not YAML, or it lacks something.
    """
    path = folder / f"{name}.yaml"
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        found: Description = Description.model_validate(content)
    except OSError as error:
        there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        why = f"It cannot be read ({error.strerror}); there are: {there}."
    except YAMLError as error:
        why = f"It is not plain YAML: {' '.join(str(error).split())}."
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'The whole'}: {first['msg']}."
    else:
        return found
    raise UserError(
        f"The benchmark {path} was to be run.", why, "Correct the file, or name another benchmark."
    )
