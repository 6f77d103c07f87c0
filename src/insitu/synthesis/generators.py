"""Generators: a prompt, or a pair of identities, becomes a picture.

The world stands in for a generator with known faults; FLUX draws from the text. (A generator that
sees the references, as UNO in the paper, plugs in beside them.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from insitu import world
from insitu.backbones.loading import base_digest, choose_device
from insitu.backbones.precision import Offload, Precision, Quantize, load_pipeline
from insitu.params import Checkpoint
from insitu.randomness import rng_for
from insitu.records.engines import Pair, PlantedFault
from insitu.synthesis.bank import subject_of

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture, and what is wrong with it: None when its maker cannot know."""

    image: Pixels
    faults: tuple[PlantedFault, ...] | None


class PairGenerator(Protocol):
    """Draws pairs; `name` pins what drew them, for their lineage."""

    @property
    def name(self) -> str: ...

    def draw(self, pairs: Sequence[Pair]) -> list[Drawn]: ...


@dataclass(frozen=True, kw_only=True)
class WorldGenerator:
    """The world, failing at known rates as generators fail.

    Attributes:
        size: pixels, width and height.
        rates: of each fault of `world.FAULTS`, the share of pictures.
        degraded: share of pictures that are spoilt once more, evenly over `world.DEGRADATIONS`.
    """

    size: int
    rates: Mapping[str, float]
    degraded: float
    name: str = f"world {world.WORLD_VERSION}"

    def draw(self, pairs: Sequence[Pair]) -> list[Drawn]:
        return [self._draw(pair) for pair in pairs]

    def _draw(self, pair: Pair) -> Drawn:
        rng = rng_for("candidate", pair.seed, pair.id)
        things: list[world.Subject | world.Person] = [
            subject_of(reference.identity) for reference in pair.references
        ]
        scene = world.sample_scene(
            rng, things=things, style="photo", background=background_of(pair.prompt)
        )
        spoilt, found = world.inject(scene, rng, dict(self.rates))
        image = world.render(spoilt, self.size).image
        # Scenes run back to front; faults are told in the order of the references.
        place = {id(thing): k for k, thing in enumerate(things)}
        order = [place[id(thing)] for thing in scene.things]
        faults = [
            PlantedFault(kind=fault.kind, thing=None if fault.thing is None else order[fault.thing])
            for fault in found
        ]
        if rng.random() < self.degraded:
            kind = world.pick(rng, world.DEGRADATIONS)
            image = world.degrade(image, kind, rng)
            faults.append(PlantedFault(kind=kind, thing=None))
        return Drawn(image=image, faults=tuple(faults))


@dataclass(frozen=True, kw_only=True)
class FluxSettings:
    """How FLUX is held and called.

    Attributes:
        size: of a picture's sides, in pixels.
        true_cfg_scale: of classifier-free guidance, away from the empty prompt; 1 turns it off.
        quantize, offload: as in `Precision`; `quantize_text` does the same to T5.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    size: int
    steps: int
    guidance_scale: float
    true_cfg_scale: float
    max_sequence_length: int
    quantize: Quantize = "none"
    offload: Offload = "none"
    quantize_text: bool = False


class FluxGenerator:
    """FLUX text-to-image: the prompt alone decides who is seen, so filter B has much to do."""

    def __init__(self, settings: FluxSettings) -> None:
        from diffusers import FluxPipeline

        self.settings = settings
        self.name = pinned("flux", settings.checkpoint)
        if settings.quantize != "none":  # its rounding is seen in the pictures
            self.name += f" {settings.quantize}{' with T5' if settings.quantize_text else ''}"
        self._pipeline: Any = load_pipeline(
            FluxPipeline,
            settings.checkpoint,
            device=choose_device(settings.device),
            precision=Precision(
                dtype=getattr(torch, settings.dtype),
                quantize=settings.quantize,
                offload=settings.offload,
                text=settings.quantize_text,
            ),
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def draw(self, pairs: Sequence[Pair]) -> list[Drawn]:
        images = self.pictures([pair.prompt for pair in pairs], [pair.seed for pair in pairs])
        return [Drawn(image=image, faults=None) for image in images]

    @torch.no_grad()
    def pictures(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Pixels]:
        """One picture a prompt, uint8 [H, W, 3]; its noise follows from its own seed."""
        s = self.settings
        drawn = self._pipeline(
            list(prompts),
            negative_prompt=[""] * len(prompts) if s.true_cfg_scale > 1 else None,
            true_cfg_scale=s.true_cfg_scale,
            guidance_scale=s.guidance_scale,
            num_inference_steps=s.steps,
            max_sequence_length=s.max_sequence_length,
            height=s.size,
            width=s.size,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        return list(np.rint(drawn * 255).astype(np.uint8))


def background_of(prompt: str) -> str | None:
    """The world's place that a prompt names; None leaves it to chance."""
    for kind, phrase in world.BACKGROUNDS.items():
        if "{" not in phrase and phrase in prompt:
            return kind
    return None


def pinned(kind: str, checkpoint: Checkpoint) -> str:
    """A model's name in a lineage: its kind, where it comes from, and what pins its weights."""
    return f"{kind} {checkpoint.path}@{base_digest(checkpoint)[:12]}"
