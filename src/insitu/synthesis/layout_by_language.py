"""A language model lays out pictures: words become entities with boxes (EliGen, section 4.3).

Asked without a picture it designs one; shown one it says what is to be painted anew and where, and
describes the whole picture as it then is, which is the global prompt of inpainting. A `Dialogue`
remembers what was said, so that "a little larger, and blue" has a meaning.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, create_model, model_validator

from insitu.errors import UserError
from insitu.perception.language import LanguageModel, Question, Unanswered
from insitu.requests import Placement, Request

Pixels = NDArray[np.uint8]
GRID = 1000
"""Boxes are asked for in thousandths, as models that ground are trained to write them."""
Coordinate = Annotated[int, Field(ge=0, le=GRID)]
Words = Annotated[str, Field(min_length=1, max_length=600, pattern=r"\S")]

DESIGN = (
    "Lay out a picture for this wish. Name the things that one would want to place, each with its"
    " own short prompt (what it is, its colours, what it is made of) and its box; leave out what"
    " is everywhere, such as sky or floor. Boxes may overlap where things stand in front of one"
    " another. Then describe the whole picture in one sentence."
)
EDIT = (
    "This is the picture as it is. Lay out this change to it: each thing that is to be painted"
    " anew, with its own short prompt and the box that it is to fill. To replace a thing, box where"
    " it is now; to add one, box where it belongs; to remove one, box it and say what is behind it."
    " Leave out all that stays as it is. Then describe in one sentence the whole picture after the"
    " change."
)


class Thing(BaseModel):
    """One thing and its place."""

    prompt: Words = Field(description="What it is, in a few words: 'a red striped mug'.")
    x0: Coordinate = Field(description=f"Left edge, 0 to {GRID} from the picture's left to right.")
    y0: Coordinate = Field(description=f"Top edge, 0 to {GRID} from the picture's top to bottom.")
    x1: Coordinate = Field(description="Right edge, right of x0.")
    y1: Coordinate = Field(description="Bottom edge, below y0.")

    @model_validator(mode="after")
    def _has_an_extent(self) -> Self:
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise ValueError("a box needs x0 < x1 and y0 < y1")
        return self


class Design(BaseModel):
    """A picture as it is to be painted."""

    things: list[Thing] = Field(description="What is to be painted where.")
    prompt: Words = Field(description="The whole picture in one sentence.")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a model laid out.

    Attributes:
        prompt: of the whole picture.
        placements: each with a prompt and a box.
        edits: it is painted into the picture that was shown; else it is a picture of its own.
    """

    prompt: str
    placements: tuple[Placement, ...]
    edits: bool

    def request(self, image: Pixels, *, seed: int, negative_prompt: str | None = None) -> Request:
        """What is asked of a method.

        Args:
            image: the picture that was shown, or any of the size that is wanted.
        """
        background: Literal["keep", "free"] = "keep" if self.edits else "free"
        return Request(
            image=image, placements=self.placements, prompt=self.prompt, seed=seed,
            negative_prompt=negative_prompt, background=background,
        )  # fmt: skip


def lay_out(model: LanguageModel, wish: str, *, most: int) -> Scene:
    """Text -> entities and boxes.

    Args:
        most: things at most.

    Raises:
        UserError: the wish is empty, or the model gives no layout.
    """
    return Dialogue(model, most=most).say(wish)


def edit(model: LanguageModel, image: Pixels, wish: str, *, most: int) -> Scene:
    """An edit request -> entities on an existing picture. See `lay_out`."""
    return Dialogue(model, most=most).say(wish, image)


class Dialogue:
    """Wishes one after the other, each understood from those before and what came of them.

    Attributes:
        said: wishes and the scenes that they led to.
    """

    def __init__(self, model: LanguageModel, *, most: int) -> None:
        self.said: list[tuple[str, Scene]] = []
        self._model, self._most = model, most

    def say(self, wish: str, image: Pixels | None = None) -> Scene:
        """The layout of a picture of its own, or with `image` of a change to that one.

        A wish that gets no layout is not remembered.

        Raises:
            UserError: the wish is empty, or the model gives no layout.
        """
        if not wish.strip():
            raise UserError(
                "An empty wish was given.",
                "It says nothing of what is to be seen.",
                "Describe the picture, or what is to change in it.",
            )
        question = Question(
            images=() if image is None else (image,),
            text=self._text(wish, DESIGN if image is None else EDIT),
            answer=_form(self._most),
        )
        (answer,) = self._model.ask([question])
        if isinstance(answer, Unanswered):
            raise UserError(
                f"{self._model.name} was asked to lay out {wish!r}.",
                f"It gave no layout that can be used: {answer.reason}.",
                "Say it in other words, or ask a model that can ground (perception.endpoint).",
            )
        assert isinstance(answer, Design)
        scene = Scene(
            prompt=answer.prompt.strip(),
            placements=tuple(_placement(thing) for thing in answer.things),
            edits=image is not None,
        )
        self.said.append((wish, scene))
        return scene

    def _text(self, wish: str, task: str) -> str:
        before = [
            f'Earlier wish {number}: "{earlier}". It led to: {_told(scene)}'
            for number, (earlier, scene) in enumerate(self.said, start=1)
        ]
        return "\n".join([task, *before, f'The wish now: "{wish}"'])


@functools.cache
def _form(most: int) -> type[Design]:
    """The answer's class, whose schema says how many things there may be."""
    things = Annotated[list[Thing], Field(min_length=1, max_length=most)]
    described = Design.model_fields["things"].description
    return create_model(
        "Design", __base__=Design, __doc__=Design.__doc__,
        things=(things, Field(description=described)),
    )  # fmt: skip


def _placement(thing: Thing) -> Placement:
    x0, y0, x1, y1 = (edge / GRID for edge in (thing.x0, thing.y0, thing.x1, thing.y1))
    return Placement(box_xyxy01=(x0, y0, x1, y1), prompt=thing.prompt.strip())


def _told(scene: Scene) -> str:
    """A scene in the words of the form."""
    things = [Thing(prompt=p.prompt or "", **_edges(p.box_xyxy01)) for p in scene.placements]
    return Design(things=things, prompt=scene.prompt).model_dump_json()


def _edges(box_xyxy01: Sequence[float]) -> dict[str, int]:
    names = ("x0", "y0", "x1", "y1")
    return {name: round(v * GRID) for name, v in zip(names, box_xyxy01, strict=True)}
