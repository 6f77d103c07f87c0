"""Requests from words of a command line, painted by a method with its trained adapter."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from safetensors.torch import load_file

from insitu.errors import UserError
from insitu.methods import Placement, Request, find
from insitu.params import Params
from insitu.registry.package import Package
from insitu.requests import require_rest
from insitu.serving.faces import LANDMARKS, face_finder, with_landmarks
from insitu.serving.pictures import read_photo

Image = NDArray[np.uint8]
Points = tuple[tuple[float, float], ...]
KEYS = ("box", "mask", "reference", "prompt", "landmarks", "reference_landmarks")
FACE = 5  # landmarks


def place_of(text: str) -> Placement:
    """A placement from `key=value` words, quoted as in a shell.

    box=left,top,right,bottom in shares of width and height, or mask=FILE; reference=FILE;
    prompt='words'; landmarks and reference_landmarks=x,y,... of eyes, nose, corners of the mouth.

    Raises:
        UserError: a word without `=`, an unknown or repeated key, a number or file that cannot be
            read, or no place at all.
    """
    given = _words(text)
    more: dict[str, Any] = {"prompt": given.get("prompt")}
    if "reference" in given:
        more["reference"] = _picture(given["reference"])
    for key in ("landmarks", "reference_landmarks"):
        if key in given:
            numbers = _numbers(key, given[key], 2 * FACE)
            more[f"{key}_xy01"] = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if "mask" in given:
        return Placement.masked(_picture(given["mask"])[..., 0], **more)
    if "box" in given:
        return Placement(box_xyxy01=box_of(given["box"]), **more)
    if "landmarks_xy01" in more:
        return Placement(box_xyxy01=_around(more["landmarks_xy01"]), **more)
    raise UserError(
        f"The place {text!r} was given.",
        "It says what goes there, and not where.",
        "Add box=left,top,right,bottom in shares of width and height, or mask=FILE.",
    )


def box_of(text: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom. Raises UserError if it is not four numbers between commas."""
    x0, y0, x1, y1 = _numbers("box", text, 4)
    return x0, y0, x1, y1


def weights_of(words: Sequence[str]) -> dict[str, float]:
    """Subjects with weights, from `subject=weight` words.

    Raises:
        UserError: a word is none, or a weight no number from -2 to 2.
    """
    found = {}
    for word in words:
        subject, _, number = word.rpartition("=")
        try:
            found[subject] = float(number)
        except ValueError:
            found[subject] = math.nan
        if not subject or not abs(found[subject]) <= 2:
            raise UserError(
                f"{word!r} was given as a subject that acts beside the other.",
                "It is no subject=weight with a weight from -2 to 2.",
                "Write for example --also hat-2=0.5.",
            )
    return found


def canvas_of(text: str) -> Image:
    """A photo from a file, or white of `WIDTHxHEIGHT` pixels for what is painted as a whole."""
    width, _, height = text.partition("x")
    if width.isdigit() and height.isdigit():
        return np.full((int(height), int(width), 3), 255, np.uint8)
    return _picture(text)


def paint(
    params: Params, name: str, folder: Path, request: Request, changed: Sequence[str] = ()
) -> tuple[Image, Package]:
    """One picture by the adapter in a folder; its method's settings are those of its training.

    Args:
        changed: settings that are otherwise this time, `key=value` as params.yaml has them.

    Raises:
        UserError: there is no such adapter, it is another method's or another base's, a setting is
            unknown or out of range, or the method refuses the request.
    """
    if not folder.is_dir():
        raise UserError(
            f"{name} was asked to paint with the adapter in {folder}.",
            "There is none.",
            f"Train it: dvc repro train@{name}; or name its folder with --adapter.",
        )
    package = Package.open(folder)
    if package.card.method != name:
        raise UserError(
            f"{name} was asked to paint with the adapter in {folder}.",
            f"It is one of {package.card.method}.",
            f"Ask {package.card.method}, or name another folder.",
        )
    method = find(name, package.card.settings["method"] | _changes(params, name, changed))
    if LANDMARKS in method.accepts.needs:
        request = with_landmarks(request, lambda: face_finder(params))
    # Before the base is loaded: what the method cannot do takes no time to refuse.
    method.accepts.require(name, request)
    if method.accepts.rest:
        require_rest(request)

    from insitu.backbones import bases
    from insitu.backbones.loading import choose_device
    from insitu.backbones.precision import Precision

    backbone = bases.load(
        method.base,
        getattr(params.models, method.base),
        device=choose_device(params.device),
        precision=Precision.of(params.painting_base()),
    )
    package.require_base(backbone.digest)
    method.load(backbone, load_file(package.weights))
    try:
        return method.paint(backbone, [request])[0], package
    finally:
        method.detach(backbone)


def _changes(params: Params, name: str, changed: Sequence[str]) -> dict[str, Any]:
    """Settings by name, checked as those of params.yaml are."""
    known = getattr(params, name)
    plain, own = known.model_dump(exclude={"train"}), type(known)
    given: dict[str, Any] = {}
    for word in changed:
        key, equals, value = word.partition("=")
        if not equals or key not in plain:
            raise UserError(
                f"{word!r} was to be set for {name}.",
                "It is no key=value of its settings.",
                f"Use one of: {', '.join(plain)}.",
            )
        try:
            given[key] = YAML(typ="safe", pure=True).load(value)
            checked = own.model_validate(known.model_dump() | given).model_dump()
        except (YAMLError, ValidationError) as error:
            raise UserError(
                f"{word!r} was to be set for {name}.",
                f"It cannot be: {' '.join(str(error).split())}.",
                f"{key}: {own.model_fields[key].description}",
            ) from None
        given[key] = checked[key]
    return given


def _words(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError:
        raise UserError(
            f"The place {text!r} was given.",
            "A quotation in it does not end.",
            "Close it: prompt='a red mug'.",
        ) from None
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in KEYS or key in given:
            raise UserError(
                f"The place {text!r} was given.",
                f"{word!r} is no key and value, or comes twice.",
                f"Write key=value with {', '.join(KEYS)}, each once; quote values with spaces.",
            )
        given[key] = value
    if "box" in given and "mask" in given:
        raise UserError(
            f"The place {text!r} was given.",
            "It has a box and a mask, which are two places.",
            "Give one of them.",
        )
    return given


def _numbers(key: str, text: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(
            f"The {key} {text!r} was given.",
            f"It is not {count} numbers between commas.",
            "Write for example box=0.3,0.4,0.7,0.9: shares of width and height.",
        )
    return numbers


def _around(points: Points) -> tuple[float, float, float, float]:
    """The box of landmarks, which a face's own method makes larger as it needs."""
    low, high = np.min(points, 0), np.max(points, 0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _picture(path: str) -> Image:
    try:
        return read_photo(Path(path).read_bytes())
    except (OSError, ValueError) as error:  # ValueError: it is no file's name
        raise UserError(
            f"The file {path!r} was given.",
            f"It cannot be read: {getattr(error, 'strerror', error)}.",
            "Name a PNG or JPEG that is there.",
        ) from None
