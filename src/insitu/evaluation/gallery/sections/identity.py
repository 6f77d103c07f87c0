"""Is it the same thing? Nearest portraits of crops out of scenes, failures included."""

from collections.abc import Sequence

import torch

from insitu import world
from insitu.evaluation.checkpoints.dino import GALLERY, reference, scene_crop
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts
from insitu.evaluation.gallery.page import Group, Image, Section, Tile, Unit
from insitu.perception.dino import IdentityEncoder

TOP = 5
SCENE = 128  # side in pixels of the scenes that queries are cut from
MEANINGS = {
    "top1_128": f"the nearest of {GALLERY} portraits is the right one",
    "twins": "the own portrait is nearer than that of a twin in the same words",
}


def section(bench: Bench) -> Section:
    encoder: IdentityEncoder = bench.load(IdentityEncoder, bench.models.dino)
    return Section(
        key="dino",
        title="Identity of things",
        text=f"A crop out of a scene, and its {TOP} nearest of {GALLERY} portraits with their"
        " cosine. Where the right one is not among them, it stands last, with its rank.",
        groups=(
            _group(bench, encoder, "Any things", None),
            _group(bench, encoder, "Things of one category", "mug"),
        ),
        facts=(facts("dino", bench.models.dino, encoder.model, meanings=MEANINGS),),
    )


def _group(bench: Bench, encoder: IdentityEncoder, title: str, category: str | None) -> Group:
    """The first queries of one gallery."""
    rng = bench.rng("dino", title)
    things = [world.sample_subject(rng, category=category) for _ in range(GALLERY)]
    references = [reference(thing, rng) for thing in things]
    queries = [scene_crop(thing, rng, size=SCENE) for thing in things[: bench.settings.retrievals]]
    cosines = encoder.embed_images(queries) @ encoder.embed_images(references).T
    units = tuple(
        _unit(number, query, references, row)
        for number, (query, row) in enumerate(zip(queries, cosines.float(), strict=True))
    )
    text = "" if category is None else f"All {GALLERY} portraits show a {category}."
    return Group(title=title, text=text, units=units)


def _unit(own: int, query: Image, references: Sequence[Image], cosines: torch.Tensor) -> Unit:
    order = cosines.argsort(descending=True).tolist()
    rank = order.index(own)
    tiles = [Tile(image=query, label="query", alt="the query")]
    for place, n in enumerate(order[:TOP]):
        right = True if n == own else False if place == 0 else None
        tiles.append(Tile(image=references[n], label=f"{cosines[n]:.2f}", right=right))
    if rank >= TOP:
        label = f"{cosines[own]:.2f} (rank {rank + 1})"
        tiles.append(Tile(image=references[own], label=label, right=True))
    return Unit(tiles=tuple(tiles), right=rank == 0)
