"""AnyPhoto: pruned location canvases, identity-adaptive modulation, identity-isolated attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from insitu.backbones import adapters
from insitu.backbones.branches import Inputs, Layout, of_conditions
from insitu.backbones.flux import FluxBackbone, Text, pack, unpack
from insitu.backbones.pins import Pin
from insitu.errors import UserError
from insitu.methods import Accepts, Example, Image, Request, Told, loaded
from insitu.methods.anyphoto.conditions import told_of_faces
from insitu.methods.anyphoto.curriculum import replacement, variants
from insitu.methods.anyphoto.faces import Modulation, analyser, embed
from insitu.methods.anyphoto.layout import (
    ADAPTER,
    FaceTokens,
    chosen_pictures,
    layout,
    name,
    present_faces,
)
from insitu.methods.anyphoto.likeness import estimate, face_loss
from insitu.methods.anyphoto.placing import Location, Rules, Seen, batches, encoded, placed
from insitu.perception.faces import FaceAnalyser

ATTENTION = r".*\.attn\.to_([qkv]|out\.0)"
IMAGE = (
    r"x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_([qkv]|out\.0)"
    r"|ff\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)"
)
TARGETS = {"attention": ATTENTION, "image": IMAGE}
MODULATION = "identity_modulation"
LORA, PREFIX = "transformer.", f"{MODULATION}."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each with the sentence of the paper behind it, see this folder's README.

    Attributes:
        faces: in a picture, at most.
        rank: of the LoRA; `targets`: the layers that get it.
        location: canvases pruned to the face's tokens, whole canvases, or the face alone with a
            region mask in attention.
        modulated: identity-adaptive modulation.
        isolated: identity-isolated attention.
        patch: side of an aligned crop in pixels.
        scale: least and greatest side of a pasted face, in sides of the picture.
        box: side of an aligned crop in longer sides of a box that comes without landmarks.
        variants: pictures encoded of each face itself, and as many of others of its identity.
        replacement: greatest probability p of learning from another face of the identity.
        milestones: shares of the training at which p rises.
        degradations: what is done to faces that are learned from, in this order.
        degrade: probability of each; `severity`: how strong they are, 0..1.
        face_weight: lambda; `face_until`: t above which the face loss does not count.
        trained_guidance: embedded guidance while it learns; `guidance_scale`: when it paints.
        identity_scale: classifier-free guidance by identity; 1 = off.
        steps: of sampling.
        face: the face embedder.
    """

    faces: int
    rank: int
    targets: Literal["attention", "image"]
    location: Location
    modulated: bool
    isolated: bool
    patch: int
    scale: tuple[float, float]
    box: float
    variants: int
    replacement: float
    milestones: tuple[float, ...]
    degradations: tuple[str, ...]
    degrade: float
    severity: float
    face_weight: float
    face_until: float
    trained_guidance: float
    guidance_scale: float
    identity_scale: float
    steps: int
    face: Pin


class AnyPhoto:
    """The four verbs on FLUX."""

    name = "anyphoto"
    base = "flux"
    drops = frozenset({"condition"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.accepts = Accepts(
            placements=(1, settings.faces),
            needs=frozenset({"reference", "reference_landmarks_xy01"}),
            takes=frozenset({"landmarks_xy01"}),
            free=True,
            keeps=False,
        )

    def untrained(self) -> "AnyPhoto":
        """Itself, with the weights that it starts from."""
        return self

    def attach(self, backbone: FluxBackbone) -> nn.ModuleDict:
        """LoRA, which will act on face tokens alone, and the MLP of the modulation.

        Raises:
            UserError: the face embedder cannot be had, or the patch does not fit the base.
        """
        own, transformer = self.settings, backbone.transformer
        faces = self._analyser(backbone)
        self._rules(backbone)
        targets = of_conditions(transformer, TARGETS[own.targets])
        config = LoraConfig(r=own.rank, lora_alpha=own.rank, target_modules=targets)
        learned: dict[str, nn.Module] = {"lora": adapters.attach(transformer, config, ADAPTER)}
        if own.modulated:
            numbers = int(faces.embedder.config.num_labels)
            learned[MODULATION] = Modulation(numbers, backbone.width).to(backbone.device)
            # Within the transformer, so that it is spread over devices with it.
            transformer.add_module(MODULATION, learned[MODULATION])
        return nn.ModuleDict(learned)

    def detach(self, backbone: FluxBackbone) -> None:
        adapters.detach(backbone.transformer)
        backbone.transformer._modules.pop(MODULATION, None)

    def state(self, backbone: FluxBackbone) -> dict[str, Tensor]:
        """The LoRA under PEFT's names after diffusers' prefix, the MLP under its own."""
        found = adapters.state(backbone.transformer, ADAPTER, prefix=LORA)
        if self.settings.modulated:
            found |= adapters.plain_state(_modulation(backbone), prefix=PREFIX)
        return found

    def load(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        loaded(self, backbone, state)

    def fill(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        of_mlp = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
        of_lora = {k: v for k, v in state.items() if not k.startswith(PREFIX)}
        adapters.fill(backbone.transformer, ADAPTER, of_lora, prefix=LORA)
        if self.settings.modulated:
            _modulation(backbone).load_state_dict(of_mlp)

    def condition(self, backbone: FluxBackbone, examples: Sequence[Example]) -> Told:
        """Clean latents; of each face its pictures' tokens and embeddings, see `conditions`.

        Raises:
            UserError: an example has more faces than `faces`, or none, or one that lies outside.
        """
        faces, rules, own = self._analyser(backbone), self._rules(backbone), self.settings
        told = [told_of_faces(backbone, faces, rules, own, example) for example in examples]
        return {
            "z_0": backbone.encode(np.stack([example.image for example in examples])),
            **{key: torch.stack([one[key] for one in told]) for key in told[0]},
        }

    def loss(
        self, backbone: FluxBackbone, told: Told, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """L = L_CFM + lambda L_face (eq. 20 to 25), each [B]."""
        own, z_0 = self.settings, told["z_0"]
        x_t = torch.lerp(z_0, noise, t[:, None, None, None])
        dropped = told.get("dropped.condition", torch.zeros_like(t, dtype=torch.bool))
        p = replacement(told["progress"], own.replacement, own.milestones)
        which = variants(told["chances"][:, : own.faces], p, own.variants)
        chosen = chosen_pictures(told, which)
        faces = present_faces(chosen)
        text = Text(told["text.tokens"], told["text.pooled"])
        v = self._velocity(
            backbone, self._layout(backbone, faces, x_t), faces, text, x_t, t,
            guidance=own.trained_guidance, given=~dropped,
        )  # fmt: skip
        terms = {"flow": (v - (noise - z_0)).square().mean((1, 2, 3))}
        if own.face_weight:
            counted = (t < own.face_until) & ~dropped
            rows = [row for row, counts in enumerate(counted.tolist()) if counts]
            at = torch.tensor(rows, dtype=torch.long, device=t.device)
            l_face = torch.zeros_like(t)
            if rows:
                found = face_loss(
                    backbone, self._analyser(backbone), estimate(x_t, v, t)[at],
                    told["landmarks"][at], told["present"][at], chosen["embedding"][at],
                )  # fmt: skip
                l_face = l_face.index_add(0, at, found)
            terms["face"] = own.face_weight * l_face
        return terms

    def paint(self, backbone: FluxBackbone, requests: Sequence[Request]) -> list[Image]:
        """A new picture of each photo's size with every face at its place; of the photo only the
        size counts. A style in the prompt holds for the faces, too.

        Raises:
            UserError: a request holds what this method cannot use, a reference shows no face, or a
                face is smaller than a token or outside of the picture.
        """
        for request in requests:
            self.accepts.require(self.name, request)
        rules, faces = self._rules(backbone), self._analyser(backbone)
        seen = [placed(backbone, faces, rules, request) for request in requests]
        sizes = [(*backbone.fitting(*r.image.shape[:2]), len(r.placements)) for r in requests]
        painted: dict[int, Image] = {}
        for numbers in batches(sizes):
            pictures = self._batch(
                backbone, [requests[n] for n in numbers], [seen[n] for n in numbers]
            )
            painted |= dict(zip(numbers, pictures, strict=True))
        return [_resized(painted[n], request.image) for n, request in enumerate(requests)]

    @torch.no_grad()
    def _batch(
        self, backbone: FluxBackbone, requests: Sequence[Request], seen: Sequence[Sequence[Seen]]
    ) -> list[Image]:
        """Requests of one size with equally many faces."""
        own, analyse = self.settings, self._analyser(backbone)
        faces = []
        for k in range(len(seen[0])):
            kth = [one[k] for one in seen]
            tokens, places, kept = encoded(backbone, kth, max(len(s.places) for s in kth))
            placements = [request.placements[k] for request in requests]
            embedding = torch.stack([_embedding(analyse, placement) for placement in placements])
            region = torch.from_numpy(np.stack([s.region for s in kth])).to(backbone.device)
            faces.append(
                FaceTokens(
                    tokens=tokens, places=places, kept=kept, embedding=embedding, region=region
                )
            )
        text = backbone.encode_text(tuple(request.prompt for request in requests))
        height, width = backbone.fitting(*requests[0].image.shape[:2])
        noise = backbone.noise([request.seed for request in requests], height, width)
        arranged = self._layout(backbone, faces, noise)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            every = torch.ones_like(t, dtype=torch.bool)
            v = self._velocity(
                backbone, arranged, faces, text, x, t, guidance=own.guidance_scale, given=every
            )
            if own.identity_scale == 1:
                return v
            without = self._velocity(
                backbone, arranged, faces, text, x, t, guidance=own.guidance_scale, given=~every
            )
            return without + own.identity_scale * (v - without)

        return backbone.pictures(backbone.sample(noise, velocity, steps=own.steps))

    def _velocity(
        self, backbone: FluxBackbone, arranged: Layout, faces: Sequence[FaceTokens], text: Text,
        x_t: Tensor, t: Tensor, *, guidance: float, given: Tensor,
    ) -> Tensor:  # fmt: skip
        """v [B, C, h, w]; where `given` [B] is false, faces' tokens and offsets are zero."""
        mlp = getattr(backbone.transformer, MODULATION, None)
        own = given.to(t.dtype)[:, None]
        tokens = {name(k): face.tokens * own[..., None] for k, face in enumerate(faces)}

        def offsets() -> dict[str, Tensor]:
            """delta_k = MLP(e_k) (eq. 16)."""
            if mlp is None:
                return {}
            return {name(k): mlp(face.embedding) * own for k, face in enumerate(faces)}

        inputs = Inputs(
            tokens={"text": text.tokens, "image": pack(x_t), **tokens}, pooled=text.pooled, t=t,
            guidance=torch.full_like(t, guidance), offsets=offsets,
        )  # fmt: skip
        v = backbone.transformer(layout=arranged, inputs=inputs)
        return unpack(v.float(), *x_t.shape[-2:])

    def _layout(
        self, backbone: FluxBackbone, faces: Sequence[FaceTokens], latents: Tensor
    ) -> Layout:
        own, cells = self.settings, (latents.shape[-2], latents.shape[-1])
        alone = own.patch // int(backbone.pipeline.vae_scale_factor)
        by_region = own.location == "roi"
        return layout(
            faces, cells=cells, words=backbone.words,
            face_cells=(alone, alone) if by_region else cells, isolated=own.isolated,
            shifted=hasattr(backbone.transformer, MODULATION), by_region=by_region,
        )  # fmt: skip

    def _analyser(self, backbone: FluxBackbone) -> FaceAnalyser:
        return analyser(self.settings.face, backbone.device)

    def _rules(self, backbone: FluxBackbone) -> Rules:
        own, stride = self.settings, backbone.stride
        if own.location == "roi" and own.patch % stride:
            raise UserError(
                f"anyphoto.location is roi, and patch is {own.patch}.",
                f"A face alone is encoded as it is, and tokens are {stride} pixels wide.",
                f"Set patch to a multiple of {stride}.",
            )
        return Rules(
            location=own.location, patch=own.patch, scale=own.scale, box=own.box, stride=stride
        )


def _modulation(backbone: FluxBackbone) -> nn.Module:
    found: nn.Module = getattr(backbone.transformer, MODULATION)
    return found


def _embedding(faces: FaceAnalyser, placement: Any) -> Tensor:
    return embed(faces, placement.reference, np.array(placement.reference_landmarks_xy01))


def _resized(picture: Image, like: Image) -> Image:
    height, width = like.shape[:2]
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC))
