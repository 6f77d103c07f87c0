"""Whole pictures of the world, as the autoencoders and the generators see them."""

import numpy as np

from insitu import world

SIZE = 64


def picture(index: int) -> dict[str, np.ndarray]:
    """Scenes (7 of 10), reference portraits (2) and face photos (1), uint8 [64, 64, 3]."""
    rng = world.rng_for("picture", index)
    match index % 10:
        case 0:
            image = world.face_photo(world.sample_face(rng), rng, SIZE).image
        case 1 | 2:
            image = world.portrait(world.sample_subject(rng), rng, SIZE).image
        case _:
            image = world.render(world.sample_scene(rng), SIZE).image
    return {"image": image}


def held_out(count: int, size: int = SIZE) -> np.ndarray:
    """Scenes that no training saw: uint8 [count, size, size, 3]."""
    scenes = (world.sample_scene(world.rng_for("held-out", "picture", i)) for i in range(count))
    return np.stack([world.render(scene, size).image for scene in scenes])
