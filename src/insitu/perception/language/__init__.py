"""Vision-language models behind one calling convention: questions on pictures, checked answers.

A question carries pictures, a text, and the pydantic class that its answer must fit. A model gives
one thing back for each question, in order: an instance of that class, or `Unanswered`. Nothing
that failed looks like an answer, and nothing that failed takes its neighbours along.

Ways to ask: `endpoint.EndpointModel` over HTTP, `local.LocalModel` in this process.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from insitu.errors import UserError

Image = NDArray[np.uint8]
Answer = TypeVar("Answer", bound=BaseModel)

PROBLEMS_TOLD = 5  # a model mends a few named problems; a longer list only costs tokens
LONGEST_PROBLEM = 300  # characters
_BEGIN = re.compile(r'\{\s*["}]')  # prose has braces too, such as {x}
_STRING_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[{}]', re.DOTALL)


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays do not compare to one truth value
class Question:
    """What is asked about which pictures.

    Args:
        images: RGB images, uint8 [H, W, 3], of any sizes, in the order the text speaks of them;
            none for a question on text alone.
        text: the question. The form of the answer need not be described: `answer` is shown too.
        answer: what an answer must fit; its fields' descriptions are shown to the model.

    Raises:
        UserError: an image of another type or shape, or an empty text.
    """

    images: tuple[Image, ...]
    text: str
    answer: type[BaseModel]

    def __post_init__(self) -> None:
        for number, image in enumerate(self.images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise UserError(
                    f"Image {number} of a question is {image.dtype} with shape {image.shape}.",
                    "Models are shown uint8 RGB images of shape [height, width, 3].",
                    "Convert it to RGB with values 0..255.",
                )
        if not self.text.strip():
            raise UserError(
                "A question has no text.",
                "A picture alone does not say what is asked about it.",
                "Write what the model shall answer.",
            )


@dataclass(frozen=True)
class Unanswered:
    """Stands in place of an answer after all tries."""

    reason: str


class LanguageModel(Protocol):
    """Anything that answers questions on pictures.

    `name` is the model's id with its revision: what lineage records beside each answer.
    """

    name: str

    def ask(self, questions: Sequence[Question]) -> list[BaseModel | Unanswered]:
        """Return one answer for each question, in order; a failed one is `Unanswered`."""
        ...


def prompt(question: Question) -> str:
    """The text a model reads: the question, then the form of its answer as a JSON Schema.

    The schema is shown even to servers that enforce it: most of them only forbid other tokens,
    and would leave the fields' descriptions unread.
    """
    return (
        f"{question.text}\n\nAnswer with one JSON object that fits this JSON Schema, and nothing"
        f" else:\n{json.dumps(question.answer.model_json_schema(), ensure_ascii=False)}"
    )


def correction(problem: str) -> str:
    """What a model is told when its answer did not fit."""
    return f"That answer cannot be used: {problem}. Answer again with the JSON object only."


def parse(text: str, schema: type[Answer]) -> Answer | str:
    """Check the JSON object in a model's text; return it as `schema`, or what is wrong with it."""
    found = find_object(text)
    if found is None:
        return "there is no JSON object in it"
    try:
        return schema.model_validate_json(found)
    except ValidationError as error:
        return _told(error)


def find_object(text: str) -> str | None:
    """The last JSON object that begins in a text: bare, in a ```json fence, or within prose.

    The last, since reasoning comes before its result. It may be cut off or malformed: an earlier
    draft, or a whole object inside of half a one, must not pass for the answer.
    """
    found, start = None, _BEGIN.search(text)
    while start:
        end = _end_of_object(text, start.start())
        found, start = text[start.start() : end], _BEGIN.search(text, end)
    return found


def _end_of_object(text: str, start: int) -> int:
    """Where the brace at `start` is closed, or the text's length."""
    depth = 0
    for token in _STRING_OR_BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.end()
    return len(text)


def _told(error: ValidationError) -> str:
    """Pydantic's findings in one line; without their inputs, which the model wrote itself."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    told = [
        f"{'.'.join(map(str, detail['loc'])) or 'the object'}: {detail['msg']}"
        for detail in details[:PROBLEMS_TOLD]
    ]
    more = [f"and {len(details) - PROBLEMS_TOLD} more"] if len(details) > PROBLEMS_TOLD else []
    return " ".join("; ".join([*told, *more]).split())[:LONGEST_PROBLEM]
