"""CLIP's picture: what it reads from held-out things, and how it ranks clean and spoilt ones."""

from pathlib import Path

import numpy as np

from insitu import world
from insitu.evaluation.checkpoints.clip import (
    ATTRIBUTES,
    Shot,
    classify,
    held_out_shots,
    quality_pairs,
)
from insitu.perception.clip import ClipScorer
from insitu.world.captions import article

from . import grid

COLUMNS = 8
SHOTS = 24
SIDE = 128  # pixels of a tile


def write(scorer: ClipScorer, path: Path) -> None:
    """Write three rows of things with zero-shot answers, then a row ranked by aesthetic score."""
    tiles = _read_tiles(scorer)
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    grid.write_grid(path, [*rows, _ranked_tiles(scorer)])


def _read_tiles(scorer: ClipScorer) -> list[np.ndarray]:
    shots = held_out_shots(SHOTS, seed=1)
    images = [shot.image for shot in shots]
    embedded = scorer.embed_images(images)
    best = scorer.zero_shot(images, [article(name) for name in world.CATEGORIES]).max(dim=1)
    read = {name: classify(scorer, shots, embedded, name) for name in ATTRIBUTES}
    tiles = []
    for number, shot in enumerate(shots):
        found = world.CATEGORIES[int(best.indices[number])]
        right = found == shot.subject.category
        tile = grid.framed(shot.image, SIDE, right)
        tile = grid.labelled(tile, f"{found} {100 * float(best.values[number]):.0f}%")
        for name, answers in read.items():
            tile = grid.labelled(tile, _answer(shot, name, answers[number]))
        tiles.append(tile)
    return tiles


def _answer(shot: Shot, attribute: str, index: int) -> str:
    answer, truth = ATTRIBUTES[attribute][index], shot.value(attribute)
    return answer if answer == truth else f"{answer}: NO, {truth}"


def _ranked_tiles(scorer: ClipScorer) -> list[np.ndarray]:
    clean, spoilt = quality_pairs(COLUMNS // 2, seed=1)
    images = [*clean, *spoilt]
    scores = scorer.aesthetic(images)
    return [
        grid.labelled(
            grid.labelled(grid.framed(images[i], SIDE), f"aesthetic {float(scores[i]):+.1f}"),
            "clean" if i < len(clean) else "degraded",
        )
        for i in scores.argsort(descending=True).tolist()
    ]
