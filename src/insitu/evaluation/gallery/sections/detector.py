"""Boxes for a text query: what is found, what is missed, and what is found without being there."""

from insitu import world
from insitu.evaluation.checkpoints.detector import QUERIES, Case, assign, held_out
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts, threshold
from insitu.evaluation.gallery.page import Box, DrawnBox, Group, Line, Section, Tile, Unit
from insitu.perception.detector import Detection

DRAWN = 8  # boxes of one scene, the best ones
LEAST = 0.3  # score of a drawn box, where the card names no threshold
MEANINGS = {"map50": "mean average precision at IoU 0.5 over 20 queries"}


def section(bench: Bench) -> Section:
    cases = held_out(bench.settings.detections, bench.seed("detector"))
    limit = threshold(bench.models.detector, LEAST)
    images = [case.image for case in cases]
    everything = bench.detector.detect(images, QUERIES, threshold=limit)
    units = []
    for i, (case, found) in enumerate(zip(cases, everything, strict=True)):
        units.append(_unit(case, found, _absent(bench, case, i, limit)))
    return Section(
        key="detector",
        title="Detection",
        text=f"Each scene is asked for all {len(QUERIES)} kinds of things at once; boxes above the"
        f" score {limit:.2f} are drawn, missed things dashed. A scene is right when nothing is"
        " missed and nothing wrong found. The last line asks for one thing that is not there, and"
        " gives its best score.",
        groups=(Group(title="Held-out scenes", units=tuple(units), tile_px=192),),
        facts=(facts("detector", bench.models.detector, bench.detector.model, meanings=MEANINGS),),
    )


def _unit(case: Case, found: list[Detection], absent: Line) -> Unit:
    matched = assign(case, found)
    boxes: list[DrawnBox] = []
    lines: list[Line] = []

    def add(box: Box, query: str, value: str, right: bool | None, *, dashed: bool = False) -> None:
        colour = len(boxes)
        boxes.append(DrawnBox(box_xyxy01=box, colour=colour, dashed=dashed))
        lines.append(Line(text=query, value=value, right=right, colour=colour))

    # A box on something nearly hidden is neither asked for nor counted wrong.
    rights = [False if i is None else case.targets[i].visible or None for i in matched]
    for detection, right in list(zip(found, rights, strict=True))[:DRAWN]:
        add(detection.box_xyxy01, detection.query, f"{detection.score:.2f}", right)
    if len(found) > DRAWN:
        lines.append(Line(text=f"and {len(found) - DRAWN} boxes more"))
    missed = [t for i, t in enumerate(case.targets) if t.visible and i not in matched]
    for target in missed:
        add(target.box_xyxy01, target.query, "missed", False, dashed=True)
    lines.append(absent)
    return Unit(
        tiles=(Tile(image=case.image, alt=world.caption(case.scene), boxes=tuple(boxes)),),
        lines=tuple(lines),
        right=not missed and False not in (*rights, absent.right),
    )


def _absent(bench: Bench, case: Case, number: int, limit: float) -> Line:
    """The best score for something that the scene does not hold."""
    there = {target.query for target in case.targets}
    others = [query for query in QUERIES if query not in there]
    query = world.pick(bench.rng("absent", number), others)
    (found,) = bench.detector.detect([case.image], [query], threshold=0.0)
    score = max((detection.score for detection in found), default=0.0)
    return Line(text=f"{query} (absent)", value=f"{score:.2f}", right=score <= limit)
