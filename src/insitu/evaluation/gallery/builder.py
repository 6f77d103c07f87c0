"""Run the sections, and publish the page."""

import time
from collections.abc import Callable
from pathlib import Path

from insitu import world
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.page import Page, Section
from insitu.evaluation.gallery.sections import (
    autoencoders,
    clip,
    detector,
    faces,
    flux,
    identity,
    inpaint,
    scenery,
)
from insitu.evaluation.gallery.writing import write
from insitu.files import replacing
from insitu.params import Params

SECTIONS: tuple[tuple[str, Callable[[Bench], Section]], ...] = (
    ("world", scenery.section),
    ("flux", flux.section),
    ("sdxl-inpaint", inpaint.section),
    ("autoencoders", autoencoders.section),
    ("clip", clip.section),
    ("detector", detector.section),
    ("dino", identity.section),
    ("face", faces.section),
)


def build(params: Params, folder: Path, say: Callable[[str], None]) -> None:
    """Write the page to `folder`/index.html; the last page stays if anything fails.

    Args:
        say: is told of each finished section, for someone who waits.

    Raises:
        UserError: a checkpoint is missing, its card unreadable, or the device not to be had.
    """
    bench = Bench.prepare(params)
    with replacing(folder) as fresh:
        sections = []
        for number, (name, make) in enumerate(SECTIONS, start=1):
            start = time.monotonic()
            sections.append(make(bench))
            say(f"{number}/{len(SECTIONS)} {name}: {time.monotonic() - start:.0f} s")
        write(_page(bench, tuple(sections)), fresh)
    say(f"wrote {folder / 'index.html'}")


def _page(bench: Bench, sections: tuple[Section, ...]) -> Page:
    return Page(
        title="What the checkpoints paint, find and recognize",
        text="Every picture below is of the first held-out cases of its kind: none was seen in"
        " training, and none is chosen for its looks, so failures are here too. Figures are those"
        " of each checkpoint's card. Right is marked ✓ and wrong ✗, by the world's own truth or by"
        f" the judge named beside it. World version {world.WORLD_VERSION}, seed"
        f" {bench.params.seed}.",
        banner=scenery.banner(bench),
        sections=sections,
    )
