"""The branch engine: a diffusion transformer over runs of tokens that see one another as told.

A *branch* is a run of tokens with position ids, the adapters that act on it, a modulation and a
name; a *layout* says which branches there are and which of them each one attends to. Attention is
computed block by block from that, so what nobody may see is never computed, and a branch that sees
only what does not change from step to step is computed once and kept (`Cache`).

    transformer = branching(pipeline.transformer)
    layout = Layout([text, image, reference], sees={"text": [...], "image": [...], ...})
    velocity = transformer(layout=layout, inputs=Inputs(...), cache=Cache())
"""

from insitu.backbones.branches.cache import Cache
from insitu.backbones.branches.layout import Branch, Layout, everything
from insitu.backbones.branches.transformer import (
    BranchTransformer,
    Inputs,
    branching,
    of_conditions,
)

__all__ = [
    "Branch",
    "BranchTransformer",
    "Cache",
    "Inputs",
    "Layout",
    "branching",
    "everything",
    "of_conditions",
]
