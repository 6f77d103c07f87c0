"""Is it the same person? Pairs of views with their cosine, and landmarks, true and found."""

import numpy as np
import torch
from numpy.typing import NDArray

from insitu.evaluation.checkpoints.face import (
    FAR,
    LARGE,
    FaceView,
    embed,
    held_out,
    landmark_errors,
    locate,
)
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts
from insitu.evaluation.gallery.overlays import dots, face_crop
from insitu.evaluation.gallery.page import Group, Image, Section, Tile, Unit
from insitu.perception.faces import FaceAnalyser

CALIBRATION = 16  # further people, whose pairs set the threshold
MARGIN = 0.3
SIDE = 256  # pixels of a face's crop
MEANINGS = {"tar_large": "pairs of one person accepted, where 1% of other pairs are"}


def section(bench: Bench) -> Section:
    analyser: FaceAnalyser = bench.load(FaceAnalyser, bench.models.face)
    count, seed = bench.settings.face_pairs, bench.seed("faces")
    shots = [held_out(count, LARGE, seed=seed, shot=shot) for shot in (0, 1)]
    points = [locate(analyser, views).float().cpu() for views in shots]
    first, second = (
        embed(analyser, views, found) for views, found in zip(shots, points, strict=True)
    )
    cosines = (first @ second.T).float().cpu().numpy()
    limit = _threshold(analyser, bench.seed("faces", "calibration"))
    crops = [[_crop(view) for view in views] for views in shots]
    own = [(n, n) for n in range(count)]
    others = [(n, (n + 1) % count) for n in range(count)] if count > 1 else []
    model_class = f"{type(analyser.embedder).__name__} for identity, and for landmarks"
    return Section(
        key="face",
        title="Faces",
        text=f"Pairs above the cosine {limit:.2f} pass as one person: the value that"
        f" {FAR:.0%} of the pairs of {CALIBRATION} other people exceed.",
        groups=(
            Group(title="One person, two views", units=_pairs(crops, own, cosines, limit)),
            Group(title="Two people", units=_pairs(crops, others, cosines, limit)),
            _landmarks(shots[0], points[0]),
        ),
        facts=(
            facts("face", bench.models.face, analyser, meanings=MEANINGS, model_class=model_class),
        ),
    )


def _threshold(analyser: FaceAnalyser, seed: int) -> float:
    shots = [held_out(CALIBRATION, LARGE, seed=seed, shot=shot) for shot in (0, 1)]
    first, second = (embed(analyser, views, locate(analyser, views)) for views in shots)
    cosines = (first @ second.T).float().cpu().numpy()
    strangers = ~np.eye(len(cosines), dtype=bool)
    return float(np.quantile(cosines[strangers], 1 - FAR))


def _crop(view: FaceView) -> Image:
    image, _ = face_crop(view.image, view.box_xyxy01, [], SIDE, MARGIN)
    return image


def _pairs(
    crops: list[list[Image]],
    pairs: list[tuple[int, int]],
    cosines: NDArray[np.float32],
    limit: float,
) -> tuple[Unit, ...]:
    units = []
    for pair in pairs:
        cosine, same = float(cosines[pair]), pair[0] == pair[1]
        accepted = cosine > limit
        tiles = tuple(
            Tile(image=crops[shot][n], alt=f"person {n + 1}") for shot, n in enumerate(pair)
        )
        note = f"{cosine:.2f}, passes as {'one person' if accepted else 'two people'}"
        units.append(Unit(tiles=tiles, right=accepted == same, note=note))
    return tuple(units)


def _landmarks(views: list[FaceView], found_N52: torch.Tensor) -> Group:
    errors = landmark_errors(found_N52, views)
    units = []
    for view, found, error in zip(views, found_N52, errors, strict=True):
        sets = [view.landmarks_xy01, found.numpy().astype(np.float64)]
        image, (true, seen) = face_crop(view.image, view.box_xyxy01, sets, SIDE, MARGIN)
        drawn = (*dots(true, colour=3, filled=False), *dots(seen, colour=0, filled=True))
        label = f"off by {error:.1%}"
        units.append(Unit(tiles=(Tile(image=image, points=drawn, label=label, alt="a face"),)))
    return Group(
        title="Landmarks",
        text="Rings are true, dots are found; the mean distance in shares of the face's width.",
        units=tuple(units),
        tile_px=140,
    )
