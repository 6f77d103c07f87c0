"""OpenAI's image edits as requests: one place, the mask's hole, painted anew."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from insitu.errors import UserError
from insitu.params.serving import Serving
from insitu.serving.asking import PART, PlacementBody, PlaceRequest, invalid
from insitu.serving.pictures import png, read_hole

MOST_PICTURES, MOST_COPIES = 8, 8
FILE = {"type": "string", "format": "binary"}
FIELDS = ("model", "prompt", "n", "seed", "response_format", "output_format", "size", "user")


async def read(request: Request, limits: Serving) -> tuple[PlaceRequest, dict[str, bytes], int]:
    """A form as a request, its files, and how many pictures are wanted.

    `model` is an adapter's registered name, `image` the photo and then references, `mask` is
    transparent where is to be painted; the words are the place's own and the picture's. `seed` is
    ours.

    Raises:
        UserError: something is missing or cannot be used.
    """
    most = limits.body_mib * 2**20
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UserError(
            f"A body of the type {kind[:80]!r} was sent.",
            "Edits are asked for with a form.",
            "Send multipart/form-data with image, mask, prompt and model.",
        )
    async with request.form(max_files=MOST_PICTURES + 1, max_fields=16, max_part_size=most) as form:
        words = {name: form.get(name) for name in FIELDS}
        pictures = await _files(form, ("image", "image[]"))
        masks = await _files(form, ("mask",))
    if not pictures or not masks:
        raise UserError(
            f"An edit was asked for with {len(pictures)} pictures and {len(masks)} masks.",
            "It needs the photo, and where to paint: a mask that is transparent there.",
            "Add `image` and `mask`.",
        )
    count = _number("n", words["n"], 1, MOST_COPIES, 1)
    seed = _number("seed", words["seed"], 0, 2**31 - 1, 0)
    for name, allowed in (("response_format", "b64_json"), ("output_format", "png")):
        if words[name] not in (None, "", allowed):
            raise UserError(
                f"{name}={str(words[name])[:40]!r} was asked for.",
                f"Pictures are answered as {allowed}.",
                "Leave it out.",
            )
    hole = read_hole(masks[0], pixels=limits.pixels)
    files = {f"image-{n}": data for n, data in enumerate(pictures)} | {"mask": png(hole)}
    prompt = words["prompt"] if isinstance(words["prompt"], str) else None
    try:
        place = PlacementBody(
            mask=f"{PART}mask",
            reference=f"{PART}image-1" if len(pictures) > 1 else None,
        )
        wanted = PlaceRequest(
            adapter=str(words["model"] or ""), image=f"{PART}image-0", placements=[place],
            prompt=prompt, seed=seed,
        )  # fmt: skip
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from None
    return wanted, files, count


def describe(route: Any) -> None:
    """The form, for the description of the API."""
    assert isinstance(route, APIRoute)
    number = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    copies = {"type": "integer", "minimum": 1, "maximum": MOST_COPIES}
    fields = {
        "model": {"type": "string", "description": "An adapter's registered name."},
        "image": FILE | {"description": "The photo; further ones are references."},
        "mask": FILE | {"description": "PNG, transparent where is to be painted."},
        "prompt": {"type": "string", "description": "What is to be seen there."},
        "n": copies,
        "seed": number,
    }
    form = {"type": "object", "required": ["model", "image", "mask"], "properties": fields}
    route.openapi_extra = {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    }


async def _files(form: FormData, names: Sequence[str]) -> list[bytes]:
    parts = [part for name in names for part in form.getlist(name)]
    return [await part.read() for part in parts if isinstance(part, UploadFile)]


def _number(name: str, given: Any, low: int, high: int, default: int) -> int:
    if given in (None, ""):
        return default
    text = str(given)
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise UserError(
            f"{name}={text[:40]!r} was given.",
            f"It is no number from {low} to {high}.",
            "Correct it, or leave it out.",
        )
    return int(text)
