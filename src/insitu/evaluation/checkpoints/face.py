"""Does the face checkpoint tell people apart, and find their eyes, nose and mouth?

Verification as usual in face recognition: the true accept rate (share of pairs of one person that
are accepted) at the cosine threshold where 1% of pairs of two people are accepted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from insitu import world
from insitu.evaluation.checkpoints import Figure, bootstrap
from insitu.perception.faces import FaceAnalyser

FAR = 0.01
Size = tuple[float, float]
LARGE: Size = (32, 64)
SMALL: Size = (16, 20)
"""Bounds on a face's width in pixels."""
PROBE, LARGEST = 32, 160
"""Sides in pixels of the picture that tells how large a face is, and of the largest picture."""


@dataclass(frozen=True, kw_only=True)
class FaceView:
    """One face in a uint8 image [H, W, 3] with its true box and landmarks (xy01)."""

    image: np.ndarray
    box_xyxy01: np.ndarray
    landmarks_xy01: np.ndarray

    @property
    def width_px(self) -> float:
        """Width of the face box in pixels."""
        return float(self.box_xyxy01[2] - self.box_xyxy01[0]) * self.image.shape[1]


def draw_face(face: world.Face, rng: np.random.Generator, size: Size) -> FaceView:
    """A view with a face `size` pixels wide: its owner in a scene, or a photo, half of each."""
    for _ in range(100):
        scene = people_scene(face, rng) if rng.random() < 0.5 else None
        key = int(rng.integers(2**31))
        probe = draw_view(face, scene, key, PROBE)
        if probe is None:
            continue
        pixels = 8 * round(float(rng.uniform(*size)) * PROBE / probe.width_px / 8)
        view = draw_view(face, scene, key, pixels) if 16 <= pixels <= LARGEST else None
        if view is not None and size[0] <= view.width_px <= size[1]:
            return view
    raise RuntimeError(f"No view had a face {size} px wide in 100 attempts.")


def people_scene(face: world.Face, rng: np.random.Generator) -> world.Scene:
    """The face's owner with up to two others."""
    others = [world.sample_person(rng) for _ in range(int(rng.integers(0, 3)))]
    things: list[world.Thing] = [world.sample_person(rng, face=face), *others]
    return world.sample_scene(rng, things=things, style="photo")


def draw_view(
    face: world.Face, scene: world.Scene | None, key: int, pixels: int
) -> FaceView | None:
    """The face in a scene, or in photo number `key`; None where too much of it is hidden or cut."""
    if scene is None:
        drawn = world.face_photo(face, world.rng_for("face-photo", key), size=pixels)
        one = drawn.things[0]
    else:
        drawn = world.render(scene, size=pixels)
        one = next(
            o for o in drawn.things if isinstance(o.thing, world.Person) and o.thing.face == face
        )
        if one.visible < 0.75:
            return None
    assert one.face_box_xyxy01 is not None and one.landmarks_xy01 is not None
    box, points = np.asarray(one.face_box_xyxy01), np.asarray(one.landmarks_xy01)
    if box.min() < 0 or box.max() > 1:
        return None
    return FaceView(image=drawn.image, box_xyxy01=box, landmarks_xy01=points)


def held_out(count: int, size: Size, *, seed: int, shot: int) -> list[FaceView]:
    """One view of each of `count` people that no recipe draws; another `shot` is another view."""
    views = []
    for n in range(count):
        face = world.sample_face(world.rng_for("held-out", "face", seed, n))
        views.append(draw_face(face, world.rng_for("held-out", "face", seed, n, shot), size))
    return views


def tar_at_far(cosines_NN: np.ndarray, far: float = FAR) -> float:
    """True accept rate where `far` of the pairs off the diagonal are accepted.

    Entry (i, j) compares one view of person i with another view of person j.
    """
    own = np.eye(len(cosines_NN), dtype=bool)
    threshold = np.quantile(cosines_NN[~own], 1 - far)
    return float((cosines_NN[own] > threshold).mean())


def landmark_errors(found_N52: Tensor, views: list[FaceView]) -> np.ndarray:
    """Mean distance of the five points in shares of the face's width, [N]."""
    errors = []
    for points, view in zip(found_N52.numpy(), views, strict=True):
        pixels = (points - view.landmarks_xy01) * view.image.shape[1::-1]
        errors.append(np.linalg.norm(pixels, axis=-1).mean() / view.width_px)
    return np.array(errors)


def figures(path: str | Path, *, count: int = 400, seed: int = 0) -> dict[str, Figure]:
    """Verification and landmark figures on `count` unseen people, true face boxes given.

    - `tar_large`, `tar_small`: TAR at FAR 1%, both faces 32-64 px or both 16-20 px wide, aligned
      with the checkpoint's own landmarks; `tar_small_to_large`: one of each;
    - `tar_large_true_landmarks`: the embedder alone;
    - `landmark_error_large`, `landmark_error_small`: mean error in shares of the face's width.
    """
    analyser = FaceAnalyser.from_pretrained(str(path))
    result: dict[str, Figure] = {}
    embedded: dict[str, list[Tensor]] = {}
    for name, size in (("large", LARGE), ("small", SMALL)):
        shots = [held_out(count, size, seed=seed, shot=shot) for shot in (0, 1)]
        points = [locate(analyser, views) for views in shots]
        embedded[name] = [embed(analyser, v, p) for v, p in zip(shots, points, strict=True)]
        result[f"tar_{name}"] = verification(*embedded[name])
        errors = np.concatenate([landmark_errors(p, v) for p, v in zip(points, shots, strict=True)])
        result[f"landmark_error_{name}"] = bootstrap(errors)
        if name == "large":
            truth = [torch.from_numpy(np.stack([v.landmarks_xy01 for v in s])) for s in shots]
            alone = [embed(analyser, v, t) for v, t in zip(shots, truth, strict=True)]
            result["tar_large_true_landmarks"] = verification(*alone)
    result["tar_small_to_large"] = verification(embedded["small"][0], embedded["large"][1])
    return result


def locate(analyser: FaceAnalyser, views: list[FaceView]) -> Tensor:
    """The checkpoint's landmarks, [N, 5, 2]."""
    boxes = np.stack([view.box_xyxy01 for view in views])
    return analyser.landmarks([view.image for view in views], boxes)


def embed(analyser: FaceAnalyser, views: list[FaceView], landmarks_N52: Tensor) -> Tensor:
    """The checkpoint's embeddings, [N, D]."""
    return analyser.embed([view.image for view in views], landmarks_N52)


def verification(first_ND: Tensor, second_ND: Tensor, *, rounds: int = 200) -> Figure:
    """TAR at FAR 1% of two views of each person; the interval is a bootstrap over people."""
    cosines = (first_ND @ second_ND.T).numpy()
    rng = np.random.default_rng(0)
    values = []
    for _ in range(rounds):
        # A person drawn twice would make false impostor pairs, so each round takes half of all.
        half = rng.permutation(len(cosines))[: len(cosines) // 2]
        values.append(tar_at_far(cosines[np.ix_(half, half)]))
    value = tar_at_far(cosines)
    # Half-samples without replacement vary like the full sample's bootstrap (Efron 1982, ch. 8).
    low, high = np.quantile(np.array(values) - np.mean(values) + value, [0.025, 0.975])
    return Figure(
        value=value, low=float(np.clip(low, 0, 1)), high=float(np.clip(high, 0, 1)), n=len(cosines)
    )
