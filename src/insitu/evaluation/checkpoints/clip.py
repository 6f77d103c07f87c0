"""Held-out figures of a CLIP checkpoint: zero-shot attributes, caption retrieval, aesthetics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from insitu import world
from insitu.evaluation.checkpoints import Figure, bootstrap, proportion
from insitu.perception.clip import ClipScorer
from insitu.perception.dino import crop_square
from insitu.world.captions import article

SIZE = 64
RIVALS = 64  # captions that a scene's own one is retrieved from
ATTRIBUTES = {
    "colour": tuple(world.COLOURS),
    "pattern": world.PATTERNS,
    "material": world.MATERIALS,
}


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One subject to classify, cut from a photo scene or standing alone in a portrait."""

    image: NDArray[np.uint8]
    subject: world.Subject
    source: str

    def value(self, attribute: str) -> str:
        """The subject's own value of one of `ATTRIBUTES`."""
        if attribute == "pattern":
            return self.subject.pattern.kind
        value: str = getattr(self.subject, attribute)
        return value


def held_out_shots(count: int, seed: int = 0) -> list[Shot]:
    """Return `count` subjects, portraits and crops from scenes in turn."""
    draw = (_portrait, _crop)
    return [draw[i % 2](world.rng_for("held-out", "clip", seed, i)) for i in range(count)]


def _portrait(rng: np.random.Generator) -> Shot:
    subject = world.sample_subject(rng)
    return Shot(image=world.portrait(subject, rng).image, subject=subject, source="portrait")


def _crop(rng: np.random.Generator) -> Shot:
    while True:
        scene = world.sample_scene(rng, people=False, style="photo")
        rendering = world.render(scene, size=128)
        seen = rendering.things[int(rng.integers(len(scene.things)))]
        if seen.visible > 0.75 and isinstance(seen.thing, world.Subject):
            image = crop_square(rendering.image, seen.box_xyxy01, SIZE)
            return Shot(image=image, subject=seen.thing, source="scene crop")


def held_out_scenes(
    count: int, seed: int = 0, *, styled: bool = False
) -> tuple[list[world.Scene], list[NDArray[np.uint8]]]:
    """Return scenes and their pictures: photos, or `styled` in every style in turn."""
    styles = list(world.STYLES) if styled else ["photo"]
    scenes = [
        world.sample_scene(
            world.rng_for("held-out", "clip-scene", seed, i), style=styles[i % len(styles)]
        )
        for i in range(count)
    ]
    return scenes, [world.render(scene).image for scene in scenes]


def figures(path: str | Path, *, count: int = 600, seed: int = 0) -> dict[str, Figure]:
    """Measure a CLIP-like checkpoint on `count` held-out cases of each kind.

    Returns:
        Shares of right answers: `category` (18 choices; also by source), `colour` (12),
        `pattern` (6) and `material` (5) with the category given, `style` (4), `caption` (a photo
        scene's own caption among 64). `aesthetic_auc`, if there is a head: how often a clean
        picture outranks a degraded one.
    """
    scorer = ClipScorer.from_pretrained(path)
    shots = held_out_shots(count, seed)
    embedded = scorer.embed_images([shot.image for shot in shots])
    result = _category_figures(scorer, shots, embedded)
    for attribute, values in ATTRIBUTES.items():
        found = classify(scorer, shots, embedded, attribute)
        truth = [values.index(shot.value(attribute)) for shot in shots]
        result[attribute] = proportion(a == b for a, b in zip(found, truth, strict=True))
    result["style"] = proportion(_style_hits(scorer, count, seed))
    result["caption"] = proportion(_caption_hits(scorer, count, seed))
    if scorer.head is not None:
        result["aesthetic_auc"] = _aesthetic_auc(scorer, count, seed)
    return result


def _category_figures(
    scorer: ClipScorer, shots: Sequence[Shot], embedded: Tensor
) -> dict[str, Figure]:
    prompts = scorer.embed_texts([article(category) for category in world.CATEGORIES])
    found = (embedded @ prompts.T).argmax(dim=1).tolist()
    hits = [
        world.CATEGORIES[k] == shot.subject.category for k, shot in zip(found, shots, strict=True)
    ]
    result = {"category": proportion(hits)}
    for source in ("portrait", "scene crop"):
        own = [hit for hit, shot in zip(hits, shots, strict=True) if shot.source == source]
        result[f"category, {source}"] = proportion(own)
    return result


def classify(
    scorer: ClipScorer, shots: Sequence[Shot], embedded: Tensor, attribute: str
) -> list[int]:
    """Return the index of each shot's most likely value of an attribute, its category given."""
    values = ATTRIBUTES[attribute]
    phrases = [article(f"{value} {c}") for c in world.CATEGORIES for value in values]
    prompts = scorer.embed_texts(phrases).unflatten(0, (len(world.CATEGORIES), len(values)))
    rows = [world.CATEGORIES.index(shot.subject.category) for shot in shots]
    similarity = (prompts[rows] @ embedded.unsqueeze(-1)).squeeze(-1)
    found: list[int] = similarity.argmax(dim=1).tolist()
    return found


def _style_hits(scorer: ClipScorer, count: int, seed: int) -> list[bool]:
    scenes, images = held_out_scenes(count, seed, styled=True)
    texts = [
        world.caption(replace(scene, style=style), detail="category")
        for scene in scenes
        for style in world.STYLES
    ]
    prompts = scorer.embed_texts(texts).unflatten(0, (count, len(world.STYLES)))
    found = (prompts @ scorer.embed_images(images).unsqueeze(-1)).squeeze(-1).argmax(dim=1)
    styles = list(world.STYLES)
    return [styles[k] == s.style for k, s in zip(found.tolist(), scenes, strict=True)]


def _caption_hits(scorer: ClipScorer, count: int, seed: int) -> list[bool]:
    rounds = max(1, count // RIVALS)
    scenes, images = held_out_scenes(rounds * RIVALS, seed)
    texts = scorer.embed_texts([world.caption(scene) for scene in scenes])
    pictures = scorer.embed_images(images)
    hits: list[bool] = []
    for part in range(0, len(scenes), RIVALS):
        mine = slice(part, part + RIVALS)
        best = (pictures[mine] @ texts[mine].T).argmax(dim=1).tolist()
        hits += [k == own for own, k in enumerate(best)]
    return hits


def quality_pairs(
    count: int, seed: int = 0
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Return clean pictures and degraded ones of other scenes and portraits, `count` each."""

    def picture(key: str, i: int) -> NDArray[np.uint8]:
        rng = world.rng_for("held-out", key, seed, i)
        if i % 2:
            return world.portrait(world.sample_subject(rng), rng).image
        return world.render(world.sample_scene(rng)).image

    clean = [picture("clip-clean", i) for i in range(count)]
    spoilt = [
        world.degrade(
            picture("clip-spoilt", i),
            world.DEGRADATIONS[i % len(world.DEGRADATIONS)],
            world.rng_for("held-out", "clip-degrade", seed, i),
        )
        for i in range(count)
    ]
    return clean, spoilt


def _aesthetic_auc(scorer: ClipScorer, count: int, seed: int) -> Figure:
    clean, spoilt = quality_pairs(count, seed)
    pairs = np.stack([scorer.aesthetic(clean).numpy(), scorer.aesthetic(spoilt).numpy()], axis=1)
    return bootstrap(pairs, _auc)


def _auc(scores_N2: NDArray[np.float64]) -> float:
    """Probability that a clean score beats a spoilt one, ties half (Mann-Whitney)."""
    clean, spoilt = scores_N2.T
    ranked = np.sort(spoilt)
    wins = np.searchsorted(ranked, clean, "left") + np.searchsorted(ranked, clean, "right")
    return float(wins.sum() / (2 * len(clean) * len(spoilt)))
