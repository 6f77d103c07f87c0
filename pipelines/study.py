"""A preference study of what the claims' arms painted: the papers' questions about the same
pictures that were measured.

Run from the repository's root, after `python -m pipelines.claims`:

    python -m pipelines.study inpaint_anywhere boundid studies/boundid full "several passes"
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from insitu.errors import UserError
from insitu.evaluation.claims import registered as registry
from insitu.evaluation.gallery.overlays import PALETTE
from insitu.params import Params
from insitu.serving.study import BEST_OVERALL, IDENTITY_AND_PROMPT, Item, Shown, Study, write
from pipelines import _step
from pipelines._wanted import ASKED, FACTS, PICTURES, Place, asked_in, replicates

MOST = 30
"""Items: as many as the papers' questionnaires have."""
SIDE = 256
"""Pixels of the photo with its places, so that their frames are thin."""


def main(
    params: Params, report: _step.Report, method: str, on: str, folder: Path, arms: Sequence[str]
) -> None:
    registered = registry.load()
    if method not in registered.methods:
        raise UserError(
            f"A study of {method} was to be made.",
            "No claims about it are registered.",
            f"Name one of: {', '.join(registered.methods)}.",
        )
    places = {}
    for arm in arms:
        if arm not in registered.methods[method].arms:
            raise UserError(
                f"The arm {arm!r} of {method} was to be shown.",
                "It is not registered.",
                f"Name some of: {', '.join(registered.methods[method].arms)}.",
            )
        first = replicates(registered, method, arm)[0]
        places[arm] = Place(method=method, arm=arm, replicate=first).table(on)
        if not (places[arm] / FACTS).exists():
            raise UserError(
                f"The arm {arm!r} was to be shown with what it painted of {on}.",
                f"There is nothing in {places[arm]}.",
                "Check the claims first: insitu claims; or name a benchmark that it paints.",
            )
    digest = json.loads((places[arms[0]] / FACTS).read_text())["items"]
    asked = asked_in(digest)
    told = json.loads((asked / ASKED).read_text())[:MOST]
    items, pictures = [], {}
    for n, one in enumerate(told):
        context = []
        for k in range(one["references"]):
            context.append(
                Shown(label=f"reference {k + 1}", file=f"pictures/{n}-reference-{k}.png")
            )
            pictures[context[-1].file] = _read(asked / f"{n}-{k}.png")
        context.append(Shown(label="where", file=f"pictures/{n}-where.png"))
        pictures[context[-1].file] = _where(_read(asked / f"{n}.png"), one)
        outputs = {arm: f"pictures/{n}-{k}.png" for k, arm in enumerate(arms)}
        for arm, file in outputs.items():
            pictures[file] = _read(places[arm] / PICTURES / f"{n}.png")
        items.append(
            Item(id=str(n), prompt=one["prompt"], context=tuple(context), outputs=outputs)
        )  # fmt: skip
    references = any(one["references"] > 1 for one in told)
    study = Study(
        title="Which picture is better?",
        questions=IDENTITY_AND_PROMPT if references else BEST_OVERALL,
        ways=tuple(arms), items=tuple(items),
    )  # fmt: skip
    write(folder, study, pictures)
    print(f"wrote {folder}: insitu study serve {folder}")
    report({"items": len(items)})


def _where(photo: np.ndarray, one: dict) -> np.ndarray:  # type: ignore[type-arg]
    """What stays of the photo, with the places framed; white where all is painted."""
    base = photo if one["keep"] else np.full_like(photo, 255)
    shown = Image.fromarray(base).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(shown)
    for k, (x0, y0, x1, y1) in enumerate(one["boxes"]):
        corners = tuple(round(edge * (SIDE - 1)) for edge in (x0, y0, x1, y1))
        draw.rectangle(corners, outline=PALETTE[k % len(PALETTE)], width=3)
    return np.asarray(shown)


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a preference study of claims' arms.")
    parser.add_argument("method")
    parser.add_argument("benchmark")
    parser.add_argument("folder", type=Path)
    parser.add_argument("arms", nargs="+", help="two to nine")
    given = parser.parse_args()
    sys.exit(
        _step.run(
            lambda params, report: main(
                params, report, given.method, given.benchmark, given.folder, given.arms
            )
        )
    )
