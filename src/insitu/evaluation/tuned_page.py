"""The page about tuned adapters: every picture of every subject, both ways."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageDraw, ImageOps

from insitu.evaluation import findings
from insitu.evaluation.findings import Finding
from insitu.evaluation.gallery.page import DrawnBox, Group, Page, Section, Tile, Unit
from insitu.evaluation.metrics import Scores
from insitu.evaluation.placement import Place
from insitu.evaluation.tuned import Trial

GAP = 8  # pixels between the pictures of the overview
HEAD = 24  # pixels of the line of heads over it
WAYS = ("tuned", "untuned")
INTERVALS = (
    "Means over all pictures, with 95% intervals of a bootstrap over subjects, then their"
    " scenes, then seeds. What could not be measured is in them with the metric's worst value."
)
NAMES = {
    "dino": "DINO, is it this very subject",
    "clip_i": "CLIP-I, does it look like the photos",
    "clip_t": "CLIP-T, is it that kind of thing",
    "found": "Found, does a detector see that kind of thing",
    "location_error": "Location error, how far off the box it stands, in the box's diagonals",
    "background_mean": "Mean background change outside of the box, in grey levels",
    "background_largest": "Largest background change outside of the box, in grey levels",
    "seam": "Seam, how far the box's edge stands out, 0 = not at all, 1 = it alone",
}


def make(trials: Sequence[Trial], places: Sequence[Place], summary: Mapping[str, Finding]) -> Page:
    """The page, to be written by `gallery.writing.write`."""
    return Page(
        title="Subjects, placed",
        text="Each subject is tuned on a few photos and then put into scenes that no training saw."
        " Beside it stands what the untuned base paints when it is told everything that words can"
        " tell. Every picture that was scored is here.",
        banner=Group(
            units=tuple(
                Unit(tiles=(Tile(image=trial.tuned[k][0], alt=f"{trial.subject}, tuned"),))
                for k in range(len(places))
                for trial in trials
            ),
            banner=True,
        ),
        sections=(
            findings.section(summary, WAYS, NAMES, INTERVALS),
            *(_subject(trial, places) for trial in trials),
        ),
    )


def overview(trials: Sequence[Trial], *, places: int = 3, side: int = 128) -> NDArray[np.uint8]:
    """A row a subject: a photo, then for the first places untuned and tuned, side by side.

    uint8 [H, W, 3]; pictures are cut to squares of `side` pixels, on white, under a line of heads.
    """
    step, places = side + GAP, min(places, len(trials[0].tuned))
    heads = ["photo", *["untuned", "tuned"] * places]
    head = Pil.new("RGB", (len(heads) * step, HEAD), "white")
    for column, text in enumerate(heads):
        ImageDraw.Draw(head).text(
            (column * step + side // 2, HEAD // 2), text, "black", anchor="mm"
        )
    canvas = np.full((len(trials) * step, len(heads) * step, 3), 255, np.uint8)
    for row, trial in enumerate(trials):
        pairs = zip(trial.untuned[:places], trial.tuned[:places], strict=True)
        pictures = [trial.reference, *(pictures[0] for pair in pairs for pictures in pair)]
        for column, picture in enumerate(pictures):
            top, left = row * step, column * step
            square = np.asarray(ImageOps.fit(Pil.fromarray(picture), (side, side)))
            canvas[top : top + side, left : left + side] = square
    return np.vstack([np.asarray(head), canvas])[:-GAP, :-GAP]


def _subject(trial: Trial, places: Sequence[Place]) -> Section:
    units = [Unit(tiles=(Tile(image=trial.reference, label="a photo"),), text=trial.description)]
    for k, place in enumerate(places):
        drawn = (DrawnBox(box_xyxy01=trial.boxes_xyxy01[k]),)
        hole = Tile(image=place.image, label="the scene", boxes=drawn)
        for r in range(len(trial.tuned[k])):
            ways = (
                ("tuned", trial.tuned[k][r], trial.tuned_scores),
                ("untuned", trial.untuned[k][r], trial.untuned_scores),
            )
            pair = [
                Tile(image=picture, label=f"{way}, DINO {trial.values(scores['dino'])[k, r]:.2f}")
                for way, picture, scores in ways
            ]
            n = k * len(trial.tuned[k]) + r
            notes = [f"{way}: {reason}" for way, _, s in ways for reason in _reasons(s, n)]
            units.append(Unit(tiles=(hole, *pair), text=place.text, note="; ".join(notes)))
    return Section(
        key=trial.subject, title=trial.subject, text="", groups=(Group(units=tuple(units)),)
    )


def _reasons(scores: Mapping[str, Scores], n: int) -> list[str]:
    """Why measurements of picture `n` failed, each reason once."""
    return [*dict.fromkeys(s.reasons[n] for s in scores.values() if s.reasons[n])]
