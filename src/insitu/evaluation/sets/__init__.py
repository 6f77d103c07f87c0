"""Benchmarks: a description file says what is asked, of subjects and scenes drawn or in folders.

`description`: the file. `sources`: subjects and scenes of the world, or of folders. `kinds`: from
both to items. `items`: what is asked for, and what its picture is judged by.
"""

from insitu.evaluation.sets.description import Description, load
from insitu.evaluation.sets.items import Item, digest, scores_of
from insitu.evaluation.sets.kinds import Tuned, items_of, people_of, tuned_of

__all__ = [
    "Description", "Item", "Tuned", "digest", "items_of", "load", "people_of", "scores_of",
    "tuned_of",
]  # fmt: skip
