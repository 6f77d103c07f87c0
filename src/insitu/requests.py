"""What is asked of a method and what it learns from: pictures with things at places."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]
EVERYWHERE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Something at a place.

    Attributes:
        box_xyxy01: the place, in shares of the picture's width and height.
        mask: uint8 [H, W], 255 = the place, where it is no box.
        reference: a picture of what goes there, uint8 [h, w, 3].
        prompt: what goes there, in words; with a reference the word for what it is.
        landmarks_xy01: where a face's eyes, nose and corners of the mouth go, five (x, y).
        reference_landmarks_xy01: where they are in the reference.
    """

    box_xyxy01: Box
    mask: Image | None = None
    reference: Image | None = None
    prompt: str | None = None
    landmarks_xy01: tuple[tuple[float, float], ...] | None = None
    reference_landmarks_xy01: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def masked(cls, mask_HW: Image, **more: object) -> "Placement":
        """A place of any shape; its box is the mask's own.

        Raises:
            UserError: the mask is empty.
        """
        rows, columns = np.nonzero(mask_HW > 127)
        if not len(rows):
            raise UserError(
                f"A mask of {mask_HW.shape[1]} x {mask_HW.shape[0]} pixels was given.",
                "Nothing in it is set, so there is no place.",
                "Draw where the thing goes with 255 on 0.",
            )
        height, width = mask_HW.shape
        box = (
            float(columns.min() / width), float(rows.min() / height),
            float((columns.max() + 1) / width), float((rows.max() + 1) / height),
        )  # fmt: skip
        return cls(box_xyxy01=box, mask=mask_HW, **more)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One picture to be made.

    Attributes:
        image: the photo, uint8 [H, W, 3].
        placements: what goes where.
        prompt: what is to be seen.
        seed: decides the picture, with all else equal.
        negative_prompt: what is not to be seen; None = nothing is said of it.
        background: keep = what is outside of the placements stays as it is; free = a whole picture
            is painted, and the photo gives only its size.
        style: a picture that the whole is to be like, uint8 [h, w, 3].
        replaced: words for how the subject looks that the prompt puts others in the place of.
    """

    image: Image
    placements: tuple[Placement, ...]
    prompt: str
    seed: int
    negative_prompt: str | None = None
    background: Literal["keep", "free"] = "keep"
    style: Image | None = None
    replaced: tuple[str, ...] = ()


def require_rest(request: Request) -> None:
    """Refuse places that leave nothing of a photo that is to stay.

    Raises:
        UserError: together they cover all of it.
    """
    if request.background == "free" or not request.placements:
        return
    height, width = request.image.shape[:2]
    covered = np.zeros((height, width), bool)
    for placement in request.placements:
        if placement.mask is not None:
            covered |= placement.mask > 127
        else:
            x0, y0, x1, y1 = np.array(placement.box_xyxy01) * (width, height, width, height)
            covered[round(y0) : round(y1), round(x0) : round(x1)] = True
    if covered.all():
        raise UserError(
            f"Places were given that cover all {width} x {height} pixels of the photo.",
            "Nothing of it would stay, so there is nothing to fit what is painted to.",
            "Give places that leave something of the photo.",
        )


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is learned from.

    Attributes:
        id: unlike any other in the data set.
        image: uint8 [H, W, 3], its sides multiples of the base's stride.
        mask: the part that is to be filled, uint8 [H, W], 255 = fill; None where all of it is.
        prompt: what is to be seen.
        pool: which share of a batch it belongs to.
        placements: what is where.
    """

    id: str
    image: Image
    prompt: str
    pool: str
    mask: Image | None = None
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """What a request may hold, from which API, CLI and studio know what to offer and to refuse.

    Attributes:
        placements: the fewest and the most.
        needs: what each placement must have, of `Placement`'s fields.
        takes: what it may have beyond that.
        negative_prompt: one is heeded.
        free: it can paint whole pictures, of which the photo gives only the size.
        places: it is told where things go; else boxes must be the whole picture.
        keeps: it can leave what is outside of the placements as it is.
        style: it heeds a picture that the whole is to be like.
        replaces: it heeds which of a subject's attributes a prompt replaces.
        rest: something of the photo has to stay, which what is painted is fitted to.
        wordless: an empty prompt will do where each placement has a reference.
        prompt: one that it takes, with the most placements.
    """

    placements: tuple[int, int]
    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    negative_prompt: bool = False
    free: bool = False
    keeps: bool = True
    places: bool = True
    style: bool = False
    replaces: bool = False
    rest: bool = False
    wordless: bool = False
    prompt: str = "a"
    said: Mapping[str, str] = field(
        default_factory=lambda: {
            "mask": "a mask", "reference": "a reference picture", "prompt": "a prompt of its own",
            "landmarks_xy01": "landmarks", "reference_landmarks_xy01": "landmarks of its reference",
        },
        repr=False,
    )  # fmt: skip

    def require(self, method: str, request: Request) -> None:
        """Refuse what the method cannot do, before any work.

        Raises:
            UserError: too few or too many placements, one that lacks something or holds what would
                be ignored, a picture or mask of the wrong kind, or an empty prompt.
        """
        few, many = self.placements
        if not few <= len(request.placements) <= many:
            wanted = str(few) if few == many else f"{few} to {many}"
            raise UserError(
                f"{len(request.placements)} placements were given to {method}.",
                f"It takes {wanted}.",
                "Give as many, or choose another method.",
            )
        _require_picture(request.image, "The photo")
        if request.negative_prompt is not None and not self.negative_prompt:
            raise UserError(
                f"The negative prompt {request.negative_prompt!r} was given to {method}.",
                "It does not use one, and would ignore it.",
                "Leave it out.",
            )
        if request.replaced and not self.replaces:
            raise UserError(
                f"{method} was told that the prompt replaces {', '.join(request.replaced)}.",
                "It was not tuned on a subject, and would ignore it.",
                "Leave it out, or choose another method.",
            )
        if request.style is not None:
            if not self.style:
                raise UserError(
                    f"A picture for the style was given to {method}.",
                    "As it is set up it does not use one, and would ignore it.",
                    "Leave it out, or choose another method.",
                )
            _require_picture(request.style, "The picture for the style")
        if request.background == "free" and not self.free:
            raise UserError(
                f"A whole picture was asked of {method}.",
                "It paints into a photo only.",
                "Ask with background='keep', or choose another method.",
            )
        if request.background == "keep" and not self.keeps:
            raise UserError(
                f"The background of the photo was to stay, and {method} was asked.",
                "It paints whole pictures only, and would paint over it.",
                "Ask with background='free', or choose another method.",
            )
        if not request.prompt.strip() and not self._shown(request):
            raise UserError(
                f"An empty prompt was given to {method}"
                + (", and no reference." if self.wordless else "."),
                "It says nothing of what is to be seen.",
                "Describe the picture" + (", give a reference, or both." if self.wordless else "."),
            )
        for number, placement in enumerate(request.placements, start=1):
            self._require_placement(method, number, placement, request.image)

    def _shown(self, request: Request) -> bool:
        """Whether pictures say what words do not."""
        given = [placement.reference is not None for placement in request.placements]
        return self.wordless and bool(given) and all(given)

    def _require_placement(
        self, method: str, number: int, placement: Placement, image: Image
    ) -> None:
        for name, word in self.said.items():
            given = getattr(placement, name) is not None
            if given and name not in self.needs | self.takes:
                raise UserError(
                    f"Placement {number} was given to {method} with {word}.",
                    "It does not use that, and would ignore it.",
                    "Leave it out, or choose another method.",
                )
            if not given and name in self.needs:
                raise UserError(
                    f"Placement {number} was given to {method} without {word}.",
                    "It needs one for each placement.",
                    "Add it, or choose another method.",
                )
        if not self.places and placement.box_xyxy01 != EVERYWHERE:
            raise UserError(
                f"Placement {number} was given to {method} with the box {placement.box_xyxy01}.",
                "It is told what is seen and not where, and would ignore it.",
                "Give the box 0,0,1,1, or choose another method.",
            )
        if placement.reference is not None:
            _require_picture(placement.reference, f"The reference of placement {number}")
        if placement.mask is None:
            return
        if placement.mask.shape != image.shape[:2]:
            have = " x ".join(map(str, placement.mask.shape[::-1]))
            raise UserError(
                f"The mask of placement {number} is {have} pixels.",
                f"The photo is {image.shape[1]} x {image.shape[0]}; they must match.",
                "Scale the mask to the photo's size.",
            )
        if not (placement.mask > 127).any():
            raise UserError(
                f"The mask of placement {number} is empty.",
                "There is nowhere for it to go.",
                "Draw where it goes with 255 on 0.",
            )


def _require_picture(image: Image, what: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"{what} is {image.dtype} of shape {tuple(image.shape)}.",
            "A picture is RGB: uint8 of height x width x 3.",
            "Convert it to RGB; put a transparent one on white first.",
        )
