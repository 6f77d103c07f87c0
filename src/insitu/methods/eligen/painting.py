"""Sampling with regional attention, and the inpainting fusion that keeps a photo's background."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from insitu.backbones.branches import Inputs
from insitu.backbones.flux import FluxBackbone, Text, Velocity, pack, unpack
from insitu.backbones.image_prompt import NAME, ImagePrompt
from insitu.methods import Image, Request
from insitu.methods.eligen.layout import GLOBAL, IMAGE, Entities, layout
from insitu.methods.eligen.regions import canvas, cells_of, place, scaled, tokens_of

if TYPE_CHECKING:
    from insitu.methods.eligen.method import Settings


def velocity(
    backbone: FluxBackbone,
    text: Text,
    entities: Entities | None,
    *,
    guidance: float,
    beside: Mapping[str, Tensor] | None = None,
) -> Velocity:
    """DiT(z_t; p; p_1..p_n; m_1..m_n), eq. 14, in float32; without entities DiT(z_t; p).

    Args:
        beside: tokens of pictures for the style, see `Inputs`.
    """
    made: dict[tuple[int, int], Any] = {}

    def at(x_t: Tensor, t: Tensor) -> Tensor:
        height, width = x_t.shape[-2:]
        if (height, width) not in made:  # the same at each step
            made[height, width] = layout(entities, text.tokens, height=height, width=width)
        tokens = {GLOBAL: text.tokens, IMAGE: pack(x_t)}
        if entities is not None:
            tokens |= dict(zip(entities.names, entities.tokens.unbind(1), strict=True))
        inputs = Inputs(
            tokens=tokens,
            pooled=text.pooled,
            t=t,
            guidance=torch.full_like(t, guidance),
            beside=beside or {},
        )
        v = backbone.transformer(layout=made[height, width], inputs=inputs)
        return unpack(v, height, width).float()

    return at


def fused(
    positive: Velocity,
    negative: Velocity | None,
    *,
    scale: float,
    background: tuple[Tensor, Tensor] | None,
    before_cfg: bool,
) -> Velocity:
    """Guidance and the background's velocity, eq. 15-18.

    Args:
        negative: None where `scale` is 1.
        scale: of classifier-free guidance.
        background: z_init [B, C, h, w] and the union of the masks, bool [B, 1, h, w]; None = all
            of it is painted.
        before_cfg: the background joins the positive side (eq. 16), so that it ends at
            scale z_init - (scale - 1) x_neg; else it joins after guidance, and ends at z_init.
    """

    def kept(v: Tensor, z_t: Tensor, sigma: Tensor) -> Tensor:
        if background is None:
            return v
        z_init, inside = background
        return torch.where(inside, v, (z_t - z_init) / sigma.view(-1, 1, 1, 1))

    def at(z_t: Tensor, sigma: Tensor) -> Tensor:
        v = positive(z_t, sigma)
        if before_cfg:
            v = kept(v, z_t, sigma)
        if negative is not None:
            n = negative(z_t, sigma)
            v = n + scale * (v - n)
        return v if before_cfg else kept(v, z_t, sigma)

    return at


@torch.no_grad()
def paint(
    backbone: FluxBackbone,
    requests: Sequence[Request],
    settings: "Settings",
    prompt: ImagePrompt | None = None,
) -> list[Image]:
    """One picture a request, in batches of one size, number of entities, kind of background, and
    with a style or without.

    Args:
        prompt: put into the transformer, for requests with a style.
    """
    together: dict[tuple[tuple[int, int], int, str, bool], list[int]] = {}
    for k, request in enumerate(requests):
        size = canvas(request.image, size=backbone.size, stride=backbone.stride)
        key = size, len(request.placements), request.background, request.style is not None
        together.setdefault(key, []).append(k)
    pictures: dict[int, Image] = {}
    for ((height, width), _, background, styled), which in together.items():
        some = [requests[k] for k in which]
        z = latents(backbone, some, settings, height, width, prompt if styled else None)
        for k, request, picture in zip(which, some, backbone.pictures(z), strict=True):
            own = scaled(picture, *request.image.shape[:2])
            whole = background == "free" or not settings.paste
            pictures[k] = own if whole else _pasted(own, request)
    return [pictures[k] for k in range(len(requests))]


@torch.no_grad()
def latents(
    backbone: FluxBackbone,
    requests: Sequence[Request],
    settings: "Settings",
    height: int,
    width: int,
    prompt: ImagePrompt | None = None,
) -> Tensor:
    """z_0 of requests with as many entities each, painted at height x width pixels."""
    noise = backbone.noise([request.seed for request in requests], height, width)
    h, w = noise.shape[-2:]
    cells = [[cells_of(place(p, r.image), h, w) for p in r.placements] for r in requests]
    guidance, scale = settings.guidance, settings.guidance_scale
    text = backbone.encode_text(tuple(request.prompt for request in requests))
    styles = [request.style for request in requests if request.style is not None]
    beside = {} if prompt is None else {NAME: prompt.tokens(styles)}
    entities = _entities(backbone, requests, cells)
    positive = velocity(backbone, text, entities, guidance=guidance, beside=beside)
    negative = None
    if scale != 1:
        unwanted = backbone.encode_text(tuple(r.negative_prompt or "" for r in requests))
        # A black picture stands for none, as in diffusers.
        none = {} if prompt is None else {NAME: prompt.tokens([0 * style for style in styles])}
        negative = velocity(backbone, unwanted, None, guidance=guidance, beside=none)
    background = None
    if requests[0].background == "keep" and settings.fuse != "off":
        photos = np.stack([scaled(request.image, height, width) for request in requests])
        union = np.stack([np.any(own, axis=0)[None] for own in cells])
        background = backbone.encode(photos), torch.from_numpy(union).to(noise.device)
    v = fused(
        positive,
        negative,
        scale=scale,
        background=background,
        before_cfg=settings.fuse == "before_cfg",
    )
    return backbone.sample(noise, v, steps=settings.steps)


def _entities(
    backbone: FluxBackbone, requests: Sequence[Request], cells: Sequence[Sequence[Any]]
) -> Entities | None:
    count = len(requests[0].placements)
    if not count:
        return None
    prompts = tuple(p.prompt or "" for request in requests for p in request.placements)
    tokens = backbone.encode_text(prompts).tokens.unflatten(0, (len(requests), count))
    regions = np.stack([[tokens_of(one) for one in own] for own in cells])
    return Entities(tokens=tokens, regions=torch.from_numpy(regions).to(tokens.device))


def _pasted(painted_HWC: Image, request: Request) -> Image:
    """The photo with what was painted where a mask is; elsewhere bit for bit the photo."""
    inside = np.any([place(p, request.image) > 127 for p in request.placements], axis=0)
    return np.where(inside[..., None], painted_HWC, request.image)
