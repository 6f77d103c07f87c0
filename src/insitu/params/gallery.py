"""Settings of the page of pictures."""

from typing import Annotated

from pydantic import Field

from insitu.params.base import Count, Scale, Settings, Steps


class FluxSampling(Settings):
    """How the gallery samples from the FLUX checkpoint."""

    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Distilled guidance, 1 to 30.")
    true_cfg_scale: Scale = Field(
        description="Classifier-free guidance, 1 to 30; 1 turns it off, more doubles the time."
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = Field(
        description="T5 tokens of a prompt, 1 to 512."
    )
    samples: Count = Field(
        description="Pictures of each kind (one subject, two, a person, a style), 1 to 64."
    )


class InpaintSampling(Settings):
    """How the gallery samples from the inpainting checkpoint."""

    steps: Steps = Field(description="Sampling steps, 1 to 1000.")
    guidance_scale: Scale = Field(description="Classifier-free guidance, 1 to 30; 1 is off.")
    samples: Count = Field(description="Pictures, 1 to 64.")


class Gallery(Settings):
    """The page of pictures that shows what each checkpoint can do."""

    size: Annotated[int, Field(ge=16, le=2048, multiple_of=16)] = Field(
        description="Side in pixels of what models paint and rebuild, a multiple of 16 from 16"
        " to 2048."
    )
    scene_size: Annotated[int, Field(ge=64, le=1024)] = Field(
        description="Side in pixels of the pictures that only show the world, 64 to 1024."
    )
    scenes: Count = Field(description="Scenes that open the page, 1 to 64.")
    examples: Count = Field(
        description="Pictures in a row about the world: a style, an identity, 1 to 64."
    )
    flux: FluxSampling = Field(description="Sampling from the FLUX checkpoint.")
    inpaint: InpaintSampling = Field(description="Sampling from the inpainting checkpoint.")
    reconstructions: Count = Field(description="Scenes through both autoencoders, 1 to 64.")
    readings: Count = Field(description="Things that CLIP names and describes, 1 to 64.")
    quality_pairs: Count = Field(description="Clean and degraded pictures to score, 1 to 64.")
    detections: Count = Field(description="Scenes with detected boxes, 1 to 64.")
    retrievals: Count = Field(description="Queries with their nearest identities, 1 to 64.")
    face_pairs: Count = Field(
        description="Face pairs of one person, and as many of two people, 1 to 64."
    )
