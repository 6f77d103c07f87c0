"""Requests as they are sent: JSON with pictures in base64, or a form with pictures as files."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from insitu.errors import UserError
from insitu.methods import Placement
from insitu.params.serving import Serving
from insitu.serving.engine import Wish
from insitu.serving.pictures import read_mask, read_photo, unpacked
from insitu.serving.refusals import Refusal

Image = NDArray[np.uint8]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Point = Annotated[tuple[Share, Share], Field(description="x and y.")]
Five = Annotated[list[Point], Field(min_length=5, max_length=5)]
Words = Annotated[str, Field(max_length=100_000)]
Weight = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
PART = "part:"
"""What begins a picture that is a file of the same form; its part's name follows."""
MOST_PLACEMENTS, MOST_PARTS = 16, 40
ADAPTER = r"^[a-z0-9_]{1,63}(\.[a-z0-9][a-z0-9-]{0,62})?$"
SUBJECT = r"^[a-z0-9][a-z0-9-]{0,62}$"
VERSION = r"^(champion|candidate|[1-9][0-9]{0,8})$"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PlacementBody(Body):
    """Something at a place. What a method needs and takes, `GET /v1/methods` says."""

    box: tuple[Share, Share, Share, Share] | None = Field(
        default=None,
        description="Left, top, right, bottom, in shares of width and height. Without it and a"
        " mask, around the landmarks.",
    )
    mask: str | None = Field(
        default=None, description="A picture of the photo's size, white where it goes."
    )
    reference: str | None = Field(default=None, description="A picture of what goes there.")
    prompt: Words | None = Field(default=None, description="What goes there, in words.")
    landmarks: Five | None = Field(
        default=None, description="Where eyes, nose and corners of the mouth of a face go."
    )
    reference_landmarks: Five | None = Field(
        default=None, description="Where they are in the reference; found if not given."
    )


class PlaceRequest(Body):
    """What is to be placed where. Pictures are PNG, JPEG or WebP in base64 (or a data URL); in a
    form also `part:NAME` for a file of the same form."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "adapter": "dreammix.mug-1", "image": "iVBORw0KGgo...",
                    "placements": [{"box": [0.3, 0.4, 0.7, 0.9]}],
                    "prompt": "a {subject} in the snow", "seed": 1,
                },
                {
                    "adapter": "eligen", "size": [64, 64], "background": "free",
                    "prompt": "a red mug and a blue cat on a rug",
                    "placements": [
                        {"box": [0.1, 0.4, 0.4, 0.9], "prompt": "a red mug"},
                        {"box": [0.5, 0.3, 0.9, 0.9], "prompt": "a blue cat"},
                    ],
                },
            ]
        }
    )  # fmt: skip

    adapter: str = Field(
        pattern=ADAPTER,
        description="A registered name: a method, or a method and a subject.",
    )
    version: str = Field(
        default="champion",
        pattern=VERSION,
        description="An alias or a version's number.",
    )
    image: str | None = Field(default=None, description="The photo.")
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="Width and height in pixels, in place of a photo."
    )
    placements: list[PlacementBody] = Field(
        default_factory=list, max_length=MOST_PLACEMENTS, description="What goes where."
    )
    prompt: Words | None = Field(
        default=None,
        description="What is to be seen; {subject}, [V1], [V2] stand for what is placed.",
    )
    negative_prompt: Words | None = Field(default=None, description="What is not to be seen.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Decides the picture.")
    background: Literal["keep", "free"] = Field(
        default="keep", description="keep the photo outside of the places, or paint all of it."
    )
    style: str | None = Field(default=None, description="A picture that the whole is to be like.")
    replace: list[Words] | None = Field(
        default=None, max_length=16,
        description="Words for how the subject looks that the prompt has others for.",
    )  # fmt: skip
    also: dict[Annotated[str, Field(pattern=SUBJECT)], Weight] = Field(
        default_factory=dict, max_length=4,
        description="Other subjects whose champions act beside it, with their weights.",
    )  # fmt: skip
    weight: Weight = Field(default=1.0, description="Of the subject's own adapter.")
    steps: int | None = Field(default=None, ge=1, description="Sampling steps.")


class Problem(BaseModel):
    """A refusal: what was given, why it cannot work, what to do."""

    code: str
    message: str
    given: str
    why: str
    to_do: str = Field(alias="to do")


class Refused(BaseModel):
    """The answer to what cannot be done."""

    error: Problem


async def read(request: Request, limits: Serving) -> tuple[PlaceRequest, dict[str, bytes]]:
    """The request in a body, and files by the name of their part.

    Raises:
        UserError: it is neither JSON nor a form, or says what there is not.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        text, files = await _form(request, limits)
        return parsed(text), files
    if kind not in ("application/json", ""):
        raise Refusal(
            f"A body of the type {kind[:80]!r} was sent.",
            "Requests are JSON or forms.",
            "Send application/json, or multipart/form-data with a field `request`.",
        )
    return parsed(await request.body()), {}


def parsed(text: bytes | str) -> PlaceRequest:
    """JSON as a request. Raises UserError."""
    try:
        return PlaceRequest.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from None


def invalid(problems: Any) -> UserError:
    """What a check of a body found, in three parts."""
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the body"
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    return UserError(
        f"A request was sent with {where[:120]}{more}.",
        f"{str(first['msg'])[:200]}.",
        "Correct it; GET /openapi.json describes each field.",
    )


def to_wish(body: PlaceRequest, files: Mapping[str, bytes], limits: Serving) -> Wish:
    """What was asked, with its pictures read. For threads: it takes time.

    Raises:
        UserError: a picture cannot be read or is too large, the photo is missing or there twice, a
            prompt or the steps are beyond what is taken, or something has no place.
    """
    for words in _said(body):
        if len(words) > limits.prompt:
            raise UserError(
                f"A prompt of {len(words)} characters was given.",
                f"At most {limits.prompt} are taken.",
                "Say it in fewer words.",
            )
    if body.steps is not None and body.steps > limits.steps:
        raise UserError(
            f"{body.steps} steps of sampling were asked for.",
            f"At most {limits.steps} are done.",
            "Ask for fewer.",
        )

    def photo(text: str) -> Image:
        return read_photo(_bytes(text, files), pixels=limits.pixels)

    image = _canvas(body, limits) if body.image is None else photo(body.image)
    if body.image is not None and body.size is not None:
        raise UserError(
            "A photo and a size were given.",
            "The picture has the photo's size.",
            "Leave one of them out.",
        )
    placements = []
    for number, given in enumerate(body.placements, start=1):
        more: dict[str, Any] = {"prompt": given.prompt}
        if given.reference is not None:
            more["reference"] = photo(given.reference)
        for key in ("landmarks", "reference_landmarks"):
            if (points := getattr(given, key)) is not None:
                more[f"{key}_xy01"] = tuple(points)
        mask = None
        if given.mask is not None:
            mask = read_mask(_bytes(given.mask, files), pixels=limits.pixels)
        placements.append(_placement(number, given.box, mask, more))
    return Wish(
        adapter=body.adapter, version=body.version, image=image, placements=tuple(placements),
        prompt=body.prompt, negative_prompt=body.negative_prompt, seed=body.seed,
        background=body.background, style=None if body.style is None else photo(body.style),
        replace=body.replace, also=body.also, weight=body.weight, steps=body.steps,
    )  # fmt: skip


def _placement(
    number: int,
    box: tuple[float, float, float, float] | None,
    mask: Image | None,
    more: Mapping[str, Any],
) -> Placement:
    if box is not None and mask is not None:
        raise UserError(
            f"Placement {number} was given with a box and a mask.",
            "They are two places.",
            "Give one of them.",
        )
    if mask is not None:
        return Placement.masked(mask, **more)
    if box is None and more.get("landmarks_xy01"):
        points = np.array(more["landmarks_xy01"])
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        box = float(x0), float(y0), float(x1), float(y1)
    if box is None:
        raise UserError(
            f"Placement {number} was given without a place.",
            "It says what goes there, and not where.",
            "Add a box in shares of width and height, or a mask.",
        )
    if not (box[0] < box[2] and box[1] < box[3]):
        raise UserError(
            f"Placement {number} was given with the box {box}.",
            "Its right edge is not right of its left one, or its lower one not below its upper.",
            "Give left, top, right, bottom, in shares of width and height.",
        )
    return Placement(box_xyxy01=box, **more)


def _canvas(body: PlaceRequest, limits: Serving) -> Image:
    """White, where only the size of the picture is given."""
    if body.size is None:
        raise UserError(
            "Neither a photo nor a size was given.",
            "Nothing says how large the picture is to be.",
            "Add image, or size with background: free.",
        )
    width, height = body.size
    if width * height > limits.pixels:
        raise UserError(
            f"A picture of {width} x {height} pixels was asked for.",
            f"At most {limits.pixels} pixels are painted.",
            "Ask for a smaller one.",
        )
    return np.full((height, width, 3), 255, np.uint8)


def _said(body: PlaceRequest) -> list[str]:
    given = [body.prompt, body.negative_prompt, *(p.prompt for p in body.placements)]
    return [*filter(None, given), *(body.replace or ())]


def _bytes(text: str, files: Mapping[str, bytes]) -> bytes:
    if not text.startswith(PART):
        return unpacked(text)
    name = text.removeprefix(PART)
    if name not in files:
        raise UserError(
            f"The picture {text[:80]!r} was given.",
            f"The form has no file of that name; it has: {', '.join(sorted(files)) or 'none'}.",
            "Add the file to the form, under that name.",
        )
    return files[name]


async def _form(request: Request, limits: Serving) -> tuple[str, dict[str, bytes]]:
    most = limits.body_mib * 2**20
    async with request.form(max_files=MOST_PARTS, max_fields=8, max_part_size=most) as form:
        files = {
            name: await part.read()
            for name, part in form.multi_items()
            if isinstance(part, UploadFile)
        }
        text = form.get("request")
    if isinstance(text, str):
        return text, files
    if "request" in files:
        return files.pop("request").decode(errors="replace"), files
    raise UserError(
        "A form was sent.",
        "It has no field `request`.",
        "Add one, with the JSON that says what is to be placed where: "
        + json.dumps({"adapter": "dreammix.mug-1", "image": "part:photo"}),
    )
