"""What the model is told of an example's faces, encoded once for the whole training.

Of each face there are `variants` pictures of itself and as many of other faces of its identity,
each degraded in its own way; a step of the training takes one of them (`curriculum`).
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.backbones.flux import FluxBackbone
from insitu.errors import UserError
from insitu.methods import Example, Placement
from insitu.methods.anyphoto.data import Person, Portrait
from insitu.methods.anyphoto.degradations import degraded
from insitu.methods.anyphoto.faces import crop, embed, require_face, require_landmarks
from insitu.methods.anyphoto.placing import Rules, Seen, encoded, look, target
from insitu.perception.faces import FaceAnalyser
from insitu.randomness import rng_for


def told_of_faces(
    backbone: FluxBackbone, faces: FaceAnalyser, rules: Rules, own: Any, example: Example
) -> dict[str, Tensor]:
    """Of F faces at most, with V pictures each of M tokens at most.

    tokens [F, V, M, C] and their `places` [F, V, M], `kept` bool [F, V, M]; `embedding` [F, V, E]
    of the picture before it was degraded; `region` bool [F, V, N], the tokens where it goes;
    `landmarks` [F, 5, 2] in the example's picture; `present` bool [F].

    Raises:
        UserError: there are more faces than F, or none, or one lies outside.
    """
    _require_faces(example, own.faces)
    height, width = example.image.shape[:2]
    count, pictures = own.faces, 2 * own.variants
    seen: list[Seen] = []
    embeddings, landmarks = [], torch.zeros(count, 5, 2)
    for k, placement in enumerate(example.placements):
        what = f"Face {k + 1} of {example.id}"
        points = target(faces, placement, rules, height, width, what)
        landmarks[k] = torch.from_numpy(points / (width, height))
        sources = _sources(placement, own.variants)
        known = {id(one): _embedding(faces, one, what) for one in sources}
        for number, source in enumerate(sources):
            rng = rng_for("degrade", example.id, k, number)
            patch = crop(faces, source.image, np.array(source.landmarks_xy01), rules.patch)
            patch = degraded(
                patch, own.degradations, rng, probability=own.degrade, severity=own.severity
            )
            seen.append(look(patch, points, rules, height, width, what)[0])
            embeddings.append(known[id(source)])
    tokens, places, kept = encoded(backbone, seen, rules.tokens(height, width))
    region = torch.from_numpy(np.stack([one.region for one in seen])).to(backbone.device)
    told = {
        "tokens": tokens, "places": places, "kept": kept, "region": region,
        "embedding": torch.stack(embeddings),
    }  # fmt: skip
    present = torch.arange(count) < len(example.placements)
    return {name: _padded(value, count, pictures) for name, value in told.items()} | {
        "landmarks": landmarks.to(backbone.device),
        "present": present.to(backbone.device),
    }


def _sources(placement: Placement, variants: int) -> list[Portrait]:
    """The face itself so many times, then others of its identity; itself where there are none."""
    assert placement.reference is not None  # `examples` gives each one
    own = Portrait(
        image=placement.reference, landmarks_xy01=placement.reference_landmarks_xy01 or ()
    )
    others = placement.others if isinstance(placement, Person) else ()
    return [own] * variants + list(itertools.islice(itertools.cycle(others or [own]), variants))


def _embedding(faces: FaceAnalyser, source: Portrait, what: str) -> Tensor:
    points = require_landmarks(source.landmarks_xy01, what)
    height, width = source.image.shape[:2]
    require_face(points, height, width, what)
    return embed(faces, source.image, points)


def _padded(values: Tensor, faces: int, pictures: int) -> Tensor:
    """[present faces x pictures, ...] -> [faces, pictures, ...], zero where there is no face."""
    lacking = faces * pictures - len(values)
    filled = torch.cat([values, values.new_zeros(lacking, *values.shape[1:])])
    return filled.unflatten(0, (faces, pictures))


def _require_faces(example: Example, most: int) -> None:
    count = len(example.placements)
    if not 1 <= count <= most:
        raise UserError(
            f"The example {example.id!r} has {count} faces.",
            f"The method learns from 1 to {most} faces in a picture.",
            "Set anyphoto.faces higher, or leave the example out.",
        )
