"""The folder of a study: `study.json`, and the PNG pictures that it names.

Anything may write it; `write` does so from Python and `read` checks what others wrote.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from insitu.errors import UserError
from insitu.files import replacing

STUDY = "study.json"
VOTES = "votes.jsonl"
"""Where votes go unless told otherwise, in the study's folder."""
MOST_WAYS = 9
"""A digit key for each; 0 is no difference."""
MAX_PIXELS = 4096 * 4096

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class Part(BaseModel):
    """Anything of `study.json`: it does not change, and nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(Part):
    """What voters are asked of every item."""

    id: Name
    text: Text


class Shown(Part):
    """A picture beside the outputs, such as a reference. `file` is relative to the folder."""

    label: Name
    file: Name


class Item(Part):
    """One comparison: what was asked for, and each way's picture of it.

    Attributes:
        id: its name in the votes; voters do not see it.
        prompt: the words asked for; "" where there were none.
        context: what the outputs are to be compared with, in this order.
        outputs: a file for each way of the study.
    """

    id: Name
    prompt: Annotated[str, Field(max_length=2000)] = ""
    context: tuple[Shown, ...] = ()
    outputs: dict[Name, Name]

    def files(self) -> Iterator[str]:
        yield from (shown.file for shown in self.context)
        yield from self.outputs.values()


class Study(Part):
    """A study. Voters see the title, questions, prompts and labels as they stand here."""

    title: Name
    questions: Annotated[tuple[Question, ...], Field(min_length=1, max_length=9)]
    ways: tuple[Name, ...]
    items: Annotated[tuple[Item, ...], Field(min_length=1)]


IDENTITY_AND_PROMPT = (
    Question(
        id="identity", text="Which of the following images preserves the most details of the"
        " references?",
    ),
    Question(id="prompt", text="Which of the following images best corresponds to the prompt?"),
)  # fmt: skip
"""Questions A and B of Inpaint-Anywhere (Evaluation Metrics), whose A names V*, the references."""

BEST_OVERALL = (
    Question(
        id="best", text="Which of the following images is the best considering image quality and"
        " similarity to the subject, and match with text description?",
    ),
)  # fmt: skip
"""The question of DreamMix (4.2, User Study)."""


def write(folder: Path, study: Study, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write a study, all of it or nothing.

    Args:
        folder: a study that is there is replaced, unless there are votes in it.
        pictures: each file that the study names, with its pixels [H, W, 3], RGB.

    Raises:
        UserError: as `read`; also if the folder has votes or is something else's, or the pictures
            are not those named.
    """
    if (folder / VOTES).exists():
        raise UserError(
            f"A study was to be written to {folder}.",
            "There are votes in it, and they are about the study that is there.",
            f"Write to another folder, or move {VOTES} away.",
        )
    if folder.exists() and not (folder / STUDY).is_file() and any(folder.iterdir()):
        raise UserError(
            f"A study was to be written to {folder}.",
            "Something else is there, and would be lost.",
            "Name a new folder, or one that holds a study.",
        )
    named = {file for item in study.items for file in item.files()}
    if named != set(pictures):
        raise UserError(
            f"The study {study.title!r} was given with {len(pictures)} pictures.",
            f"It names {_some(named - set(pictures)) or 'nothing'} that was not given, and"
            f" {_some(set(pictures) - named) or 'nothing'} was given that it does not name.",
            "Give exactly the pictures that its items name.",
        )
    _check(study, folder)
    with replacing(folder) as fresh:
        for file, image_HWC in pictures.items():
            (fresh / file).parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(image_HWC).save(fresh / file, format="PNG")
        (fresh / STUDY).write_text(study.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Study:
    """The study in a folder, checked.

    Raises:
        UserError: there is none, or its JSON is not as above; a file is missing, no PNG or outside
            the folder; an item lacks a way or has another; there are fewer than two ways or more
            than nine; a name comes twice; a text that voters see says a way's name.
    """
    path = folder / STUDY
    try:
        study = Study.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(
            f"The study {folder} was given.",
            f"Its {STUDY} cannot be read: {reason}.",
            "Give the folder of a study (docs/study.md).",
        ) from None
    except ValidationError as error:
        raise _refused(folder, f"Its {STUDY} is not a study: {told(error)}.") from None
    _check(study, folder)
    for item in study.items:
        for file in item.files():
            _check_picture(folder, item, file)
    return study


def told(error: ValidationError) -> str:
    """The first of pydantic's findings in one line."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(map(str, details[0]["loc"])) or "the whole"
    more = f", and {len(details) - 1} more" if len(details) > 1 else ""
    return " ".join(f"{where}: {details[0]['msg']}{more}".split())


def open_picture(path: Path) -> Pillow.Image:
    """A PNG's pixels, RGB or, where some are transparent, RGBA.

    Raises:
        OSError, SyntaxError, ValueError: it is no whole PNG, or larger than MAX_PIXELS.
    """
    with Pillow.open(path, formats=("PNG",)) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels")
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _check(study: Study, folder: Path) -> None:
    if not 2 <= len(study.ways) <= MOST_WAYS:
        raise _refused(folder, f"It has {len(study.ways)} ways, and needs 2 to {MOST_WAYS}.")
    _once("way", study.ways, folder)
    _once("question", (question.id for question in study.questions), folder)
    _once("item", (item.id for item in study.items), folder)
    for item in study.items:
        lacking, strange = set(study.ways) - {*item.outputs}, {*item.outputs} - set(study.ways)
        if lacking:
            raise _refused(folder, f"Item {item.id!r} has no output of {_some(lacking)}.")
        if strange:
            raise _refused(folder, f"Item {item.id!r} has outputs of {_some(strange)}: no ways.")
        for file in item.files():
            pure = PurePosixPath(file)
            if pure.is_absolute() or ".." in pure.parts:
                raise _refused(folder, f"{file!r} of item {item.id!r} leaves the folder.")
    for text in _seen(study):
        for way in study.ways:
            if re.search(rf"(?<!\w){re.escape(way)}(?!\w)", text, re.IGNORECASE):
                raise UserError(
                    f"The study {folder} was given.",
                    f"Voters would read the name of a way, {way!r}, in {text!r}.",
                    "Say it otherwise, or give the way another name: voters are not to know.",
                )


def _check_picture(folder: Path, item: Item, file: str) -> None:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):  # a link may lead out
        raise _refused(folder, f"{file!r} of item {item.id!r} leaves the folder.")
    if not path.is_file():
        raise _refused(folder, f"{file!r} of item {item.id!r} is not there.")
    try:
        open_picture(path)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError):
        raise _refused(
            folder, f"{file!r} of item {item.id!r} is no whole PNG of at most {MAX_PIXELS} pixels."
        ) from None


def _seen(study: Study) -> Iterator[str]:
    """Every text that voters read."""
    yield study.title
    yield from (question.text for question in study.questions)
    for item in study.items:
        yield item.prompt
        yield from (shown.label for shown in item.context)


def _once(kind: str, names: Iterable[str], folder: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise _refused(folder, f"The {kind} {_some(twice)} comes twice.")


def _some(names: Iterable[str]) -> str:
    few: Sequence[str] = sorted(names)
    return ", ".join(map(repr, few[:3])) + (f" and {len(few) - 3} more" if len(few) > 3 else "")


def _refused(folder: Path, why: str) -> UserError:
    return UserError(
        f"The study {folder} was given.", why, f"Correct {STUDY} or the pictures (docs/study.md)."
    )
