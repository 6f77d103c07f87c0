"""Draws the pictures of docs/world.md: python docs/pictures.py [folder].

And takes over what `dvc repro measure@<method>` has drawn of each trained method, where it lies.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from insitu import world

Tile = tuple[np.ndarray, str]
"""A picture uint8 [H, W, 3] and the words under it."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TRAINED = Path(__file__).resolve().parents[1] / "reports" / "trained"
SIDE = 128
GAP = 8
LINE = 15
INK, PAPER = (40, 40, 46), (255, 255, 255)
MASK_COLOURS = ((230, 80, 60), (60, 140, 220), (250, 190, 40), (80, 180, 90))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # 256 colours look the same of what is drawn, and keep a picture under 150 kB.
    sheets = {name: draw().quantize(256, dither=Image.Dither.NONE) for name, draw in SHEETS.items()}
    for name, drawn in sheets.items():
        path = folder / f"{name}.png"
        drawn.save(path, optimize=True)
        print(f"{path} {path.stat().st_size // 1000} kB")
    for path in TRAINED.glob("*/overview.png"):
        (folder / "trained").mkdir(exist_ok=True)
        shutil.copy(path, folder / "trained" / f"{path.parent.name}.png")


def sheet(rows: Sequence[Sequence[Tile]], *, gap: int = GAP) -> Image.Image:
    """Tiles of one size in rows, their words wrapped underneath."""
    height, width = rows[0][0][0].shape[:2]
    font = ImageFont.load_default(size=12)
    texts = [[wrapped(words, font, width) for _, words in row] for row in rows]
    lines = [max(len(text) for text in row) for row in texts]
    columns = max(len(row) for row in rows)
    tall = sum(height + LINE * n + gap for n in lines) + gap
    page = Image.new("RGB", (columns * (width + gap) + gap, tall), PAPER)
    pen, y = ImageDraw.Draw(page), gap
    for row, row_texts, count in zip(rows, texts, lines, strict=True):
        for i, ((picture, _), text) in enumerate(zip(row, row_texts, strict=True)):
            x = gap + i * (width + gap)
            page.paste(Image.fromarray(picture), (x, y))
            for k, line in enumerate(text):
                pen.text((x, y + height + k * LINE), line, INK, font)
        y += height + LINE * count + gap
    return page


def wrapped(words: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def drawn(scene: world.Scene, words: str = "", *, side: int = SIDE) -> Tile:
    return world.render(scene, side).image, words


def view(thing: world.Thing, *, words: str = "", side: int = SIDE) -> Tile:
    """A thing large, always seen the same way."""
    scene = world.Scene(things=(thing,), frames=(world.Frame(0.5, 0.54, 0.4),))
    return drawn(scene, words, side=side)


def banner() -> Image.Image:
    """Sixteen scenes: every number of things, people, every style."""
    counts = (1, 2, 1, 3, 1, 2, 4, 1) * 2
    styles = ("photo",) * 12 + ("night", "pastel", "line art", "photo")
    scenes = [
        world.sample_scene(
            world.rng_for("banner", i),
            count=count,
            people=i % 5 == 1,
            style=style,
            background=list(world.BACKGROUNDS)[i * 3 % 10],
        )
        for i, (count, style) in enumerate(zip(counts, styles, strict=True))
    ]
    tiles = [drawn(scene, side=112) for scene in scenes]
    return sheet([tiles[:8], tiles[8:]], gap=3)


def categories() -> Image.Image:
    subjects = [
        world.sample_subject(world.rng_for("categories", name), category=name, accessory=False)
        for name in world.CATEGORIES
    ]
    tiles = [view(s, words=world.describe(s), side=112) for s in subjects]
    return sheet([tiles[:6], tiles[6:12], tiles[12:]])


def surfaces() -> Image.Image:
    """One mug in every pattern and material."""
    mug = world.sample_subject(world.rng_for("surfaces"), category="mug", accessory=False)
    mug = replace(mug, base=world.Shade(name="red"), second=world.Shade(name="white"), marks=())
    return sheet(
        [
            [
                view(
                    world.Edit(pattern=pattern, material=material).apply(mug),
                    words=f"{pattern} {material}",
                    side=80,
                )
                for pattern in world.PATTERNS
            ]
            for material in world.MATERIALS
        ]
    )


def identities() -> Image.Image:
    """Above, five identities of one caption; below, five photos of the first."""
    rng = world.rng_for("identities")
    first = replace(
        world.sample_subject(rng, category="teapot", accessory=False),
        base=world.Shade(name="green"),
        second=world.Shade(name="yellow"),
        material="matte",
    )
    first = replace(first, pattern=replace(first.pattern, kind="striped"))
    others = [world.sample_subject(rng, category="teapot") for _ in range(4)]
    twins = [
        replace(
            first,
            base=replace(other.base, name=first.base.name),
            second=replace(other.second, name=first.second.name),
            pattern=replace(other.pattern, kind="striped"),
            shape=other.shape,
            marks=other.marks,
        )
        for other in others
    ]
    above = [view(twin, words=world.describe(twin)) for twin in [first, *twins]]
    below = [(world.portrait(first, rng, SIDE).image, "the first again") for _ in range(5)]
    return sheet([above, below])


def faces() -> Image.Image:
    """A row for each identity: six photos with the five landmarks."""
    rows = []
    for i in range(3):
        face = world.sample_face(world.rng_for("faces", i + 3))
        person = world.sample_person(world.rng_for("faces", i), face=face)
        words = world.describe(person).split(" wearing")[0]
        photos = [world.face_photo(face, world.rng_for("photo", i, k), SIDE) for k in range(6)]
        rows.append([(with_landmarks(photo), "" if k else words) for k, photo in enumerate(photos)])
    return sheet(rows)


def with_landmarks(photo: world.Rendering) -> np.ndarray:
    page = Image.fromarray(photo.image)
    pen = ImageDraw.Draw(page)
    for thing in photo.things:
        if thing.landmarks_xy01 is not None:
            for x, y in thing.landmarks_xy01 * photo.image.shape[0]:
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), (255, 255, 255), (220, 0, 60))
    return np.asarray(page)


def styles() -> Image.Image:
    scene = world.sample_scene(world.rng_for("styles", 6), count=2, people=False, style="photo")
    scene = replace(scene, background="city")
    tiles = []
    for style in world.STYLES:
        styled = replace(scene, style=style)
        tiles.append(drawn(styled, world.caption(styled, detail="pattern"), side=160))
    return sheet([tiles])


def truth() -> Image.Image:
    """One scene and what is known of it."""
    rng, side = world.rng_for("truth", 5), 192
    dog = world.sample_subject(rng, category="dog", accessory=True)
    scene = world.Scene(
        things=(world.sample_person(rng), dog),
        frames=(world.Frame(0.6, 0.6, 0.4), world.Frame(0.34, 0.7, 0.26)),
        background="grass",
    )
    seen = world.render(scene, side, parts=True)
    masks, parts = seen.image // 3 + 160, seen.image // 3 + 160
    for thing, colour in zip(seen.things, MASK_COLOURS, strict=False):
        masks[thing.mask] = colour
        for i, mask in enumerate(thing.parts.values()):
            parts[mask] = world.rng_for("part", i).integers(40, 250, 3)
    return sheet(
        [
            [
                (seen.image, world.caption(scene)),
                (boxes(seen), "boxes, landmarks and the share of each thing that is seen"),
                (masks, "masks"),
                (parts, "parts"),
            ]
        ]
    )


def boxes(seen: world.Rendering) -> np.ndarray:
    page = Image.fromarray(with_landmarks(seen))
    pen, side = ImageDraw.Draw(page), page.width
    for thing, colour in zip(seen.things, MASK_COLOURS, strict=False):
        x0, y0, x1, y1 = (round(v * side) for v in thing.box_xyxy01)
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=2)
        pen.rectangle((x0, y0, x0 + 28, y0 + 15), fill=colour)
        pen.text((x0 + 2, y0), f"{thing.visible:.2f}", PAPER, ImageFont.load_default(size=12))
        if thing.face_box_xyxy01:
            pen.rectangle([round(v * side) for v in thing.face_box_xyxy01], outline=colour)
    return np.asarray(page)


def edits() -> Image.Image:
    mug = world.sample_subject(world.rng_for("edits", 1), category="mug", accessory=False)
    mug = replace(mug, base=world.Shade(name="red"), material="matte")
    mug = replace(mug, pattern=replace(mug.pattern, kind="striped"))
    some = [
        world.Edit(colour="blue"),
        world.Edit(pattern="zigzag"),
        world.Edit(colour="cyan", pattern="dotted"),
        world.Edit(material="woolly"),
        world.Edit(accessory="hat", accessory_colour="orange"),
    ]
    tiles = [view(mug, words=world.describe(mug))]
    tiles += [view(e.apply(mug), words=world.describe_edit(e, mug.category)) for e in some]
    return sheet([tiles])


def faults() -> Image.Image:
    """Above, what can go wrong with a scene; below, what can be done to a finished picture."""
    scene = world.sample_scene(world.rng_for("faults", 8), count=2, people=False, style="photo")
    scene = replace(scene, background="rug")
    above, below = [drawn(scene, "intended", side=112)], [drawn(scene, "finished", side=112)]
    for kind in world.FAULTS:
        faulty, _ = world.inject(scene, world.rng_for("fault", kind), {kind: 1.0})
        above.append(drawn(faulty, kind, side=112))
    for kind in world.DEGRADATIONS:
        image = world.render(scene, 112).image
        below.append((world.degrade(image, kind, world.rng_for("degrade", kind)), kind))
    return sheet([above, below])


SHEETS: dict[str, Callable[[], Image.Image]] = {
    "world": banner,
    "categories": categories,
    "surfaces": surfaces,
    "identities": identities,
    "faces": faces,
    "styles": styles,
    "truth": truth,
    "edits": edits,
    "faults": faults,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "pictures")
