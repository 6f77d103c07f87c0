"""The procedural world: subjects, people and scenes with exact ground truth.

Everything is drawn from named random streams (`rng_for`) and is equal on every machine.
"""

from insitu.world.captions import DETAILS, Detail, article, caption, describe, describe_edit, place
from insitu.world.faces import (
    Expression,
    Face,
    Person,
    sample_expression,
    sample_face,
    sample_person,
)
from insitu.world.faults import DEGRADATIONS, FAULTS, Fault, degrade, inject
from insitu.world.geometry import Frame
from insitu.world.randomness import pick, rng_for
from insitu.world.rendering import RenderedThing, Rendering, face_photo, portrait, render
from insitu.world.scenes import (
    Light,
    Scene,
    Thing,
    sample_frames,
    sample_light,
    sample_scene,
)
from insitu.world.subjects import (
    Accessory,
    Edit,
    Mark,
    Pattern,
    Shade,
    Subject,
    sample_accessory,
    sample_shade,
    sample_subject,
)
from insitu.world.vocabulary import (
    ACCESSORIES,
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    HAIR_COLOURS,
    LIVING,
    MATERIALS,
    PATTERNS,
    STYLES,
    WORLD_VERSION,
    vocabulary,
)

__all__ = [
    "ACCESSORIES", "BACKGROUNDS", "CATEGORIES", "COLOURS", "DEGRADATIONS", "DETAILS", "FAULTS",
    "HAIR_COLOURS", "LIVING", "MATERIALS", "PATTERNS", "STYLES", "WORLD_VERSION", "Accessory",
    "Detail", "Edit", "Expression", "Face", "Fault", "Frame", "Light", "Mark", "Pattern",
    "Person", "RenderedThing", "Rendering", "Scene", "Shade", "Subject", "Thing", "article",
    "caption", "degrade", "describe", "describe_edit", "face_photo", "inject", "pick", "place",
    "portrait", "render", "rng_for", "sample_accessory", "sample_expression", "sample_face",
    "sample_frames", "sample_light", "sample_person", "sample_scene", "sample_shade",
    "sample_subject", "vocabulary",
]  # fmt: skip
