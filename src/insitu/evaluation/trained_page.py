"""The page about a trained method: what each request asks for, and both ways' pictures."""

from collections.abc import Mapping

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw, ImageOps

from insitu.backbones.zoom import box_mask
from insitu.evaluation import findings
from insitu.evaluation.findings import Finding
from insitu.evaluation.gallery.overlays import PALETTE
from insitu.evaluation.gallery.page import DrawnBox, DrawnPoint, Group, Page, Section, Tile, Unit
from insitu.evaluation.metrics import Image
from insitu.evaluation.trained import WAYS, Trial
from insitu.requests import Request

GAP, HEAD = 8, 24  # pixels of the overview
GRAY = 128  # of places that are to be filled
SHOWN = {"trained": "with the adapter", "untrained": "without"}
NAMES = {
    "own_box": "In its own box: the box looks more like its own reference than like the other one",
    "dino": "DINO, does the box show this very subject",
    "clip_i": "CLIP-I, does the place look like its reference",
    "found": "Found, does a detector see that kind of thing",
    "background_mean": "Mean background change outside of the boxes, in grey levels",
    "face_sim_ref": "Face similarity to the reference, by the face embedder",
    "face_found": "Faces found, of those that were asked for",
    "in_mask": "Found in its place: its box overlaps the one asked for by an IoU of 0.5",
    "entity_recall": "Found anywhere",
    "location_error": "Location error, how far off it stands, in diagonals of its box",
    "dino_found": "DINO of what was found with its reference, not found = -1",
    "clip_t_global": "CLIP-T, does the picture show what the prompt says",
    "box_iou": "IoU of the box of what was found with the box asked for",
    "clip_t": "CLIP-T, does the place show what its prompt says",
}


def make(done: Trial, summary: Mapping[str, Finding], title: str) -> Page:
    """The page, to be written by `gallery.writing.write`."""
    first = WAYS[0]
    text = (
        "Means over all requests and seeds, with 95% intervals of a bootstrap over requests, then"
        " their seeds. What could not be measured is in them with the metric's worst value."
    )
    own = next(iter(summary))
    units = [_unit(done, n, own) for n in range(len(done.requests))]
    return Page(
        title=title,
        text="Requests made of pictures that no training saw, painted with the trained adapter, and"
        " with one that has learned nothing. Every picture that was scored is here.",
        banner=Group(
            units=tuple(
                Unit(tiles=(Tile(image=pictures[0], alt=done.requests[n].prompt),))
                for n, pictures in enumerate(done.pictures[first][:24])
            ),
            banner=True,
        ),
        sections=(
            findings.section(summary, WAYS, NAMES, text),
            Section(
                key="pictures", title="Every picture", text="",
                groups=(Group(units=tuple(units)),),
            ),
        ),
    )  # fmt: skip


def overview(done: Trial, *, rows: int = 6, side: int = 128) -> Image:
    """A row a request: references, places, then both ways; uint8 [H, W, 3] on white."""
    some = range(min(rows, len(done.requests)))
    references = max(len(_references(done.requests[n])) for n in some)
    heads = [*["reference"] * references, "asked for", *(SHOWN[way] for way in reversed(WAYS))]
    step = side + GAP
    canvas = Pil.new("RGB", (len(heads) * step - GAP, HEAD + len(some) * step - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        draw.text((column * step + side // 2, HEAD // 2), head, "black", anchor="mm")
    for row, n in enumerate(some):
        given = [Pil.fromarray(picture) for picture in _references(done.requests[n])]
        blank = [None] * (references - len(given))
        painted = [Pil.fromarray(done.pictures[way][n][0]) for way in reversed(WAYS)]
        tiles = [*given, *blank, _drawn(done.requests[n], side), *painted]
        for column, tile in enumerate(tiles):
            if tile is not None:
                fitted = ImageOps.fit(tile, (side, side), Pil.Resampling.NEAREST)
                canvas.paste(fitted, (column * step, HEAD + row * step))
    return np.asarray(canvas)


def _drawn(request: Request, side: int) -> Pil.Image:
    """What stays of the photo, with the places' outlines."""
    picture = Pil.fromarray(_canvas(request)).resize((side, side), Pil.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for k, placement in enumerate(request.placements):
        x0, y0, x1, y1 = (round(share * (side - 1)) for share in placement.box_xyxy01)
        draw.rectangle((x0, y0, x1, y1), outline=PALETTE[k % len(PALETTE)], width=2)
    return picture


def _canvas(request: Request) -> Image:
    """What stays of the photo: its places are gray, and where all is painted it is white."""
    if request.background == "free":
        return np.full_like(request.image, 255)
    places = np.zeros(request.image.shape[:2], np.bool_)
    for placement in request.placements:
        places |= box_mask(placement.box_xyxy01, request.image) > 0
    return np.where(places[..., None], np.uint8(GRAY), request.image)


def _references(request: Request) -> list[Image]:
    return [p.reference for p in request.placements if p.reference is not None]


def _unit(done: Trial, n: int, own: str) -> Unit:
    request = done.requests[n]
    boxes = tuple(
        DrawnBox(box_xyxy01=p.box_xyxy01, colour=k) for k, p in enumerate(request.placements)
    )
    points = tuple(
        DrawnPoint(point_xy01=point, colour=k)
        for k, p in enumerate(request.placements)
        for point in p.landmarks_xy01 or ()
    )
    tiles = [
        Tile(image=image, label=f"reference {k}")
        for k, image in enumerate(_references(request), start=1)
    ]
    tiles.append(Tile(image=_canvas(request), label="asked for", boxes=boxes, points=points))
    for way in WAYS:
        values = done.values(way, own)[n, 0]
        tiles += [
            Tile(image=picture, label=f"{way}, {value:.2f}")
            for picture, value in zip(done.pictures[way][n], values, strict=True)
        ]
    said = [f"{k}: {p.prompt}" for k, p in enumerate(request.placements, start=1) if p.prompt]
    return Unit(tiles=tuple(tiles), text=request.prompt, note="; ".join(said))
