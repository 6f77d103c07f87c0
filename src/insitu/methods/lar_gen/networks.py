"""What is attached to the U-Net: Assign's layers and tokens, the RefineNet, its detail encoder."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from insitu.backbones import pins
from insitu.backbones.pins import Pin
from insitu.backbones.unet import InpaintBackbone, beside
from insitu.backbones.unet.beside import Features
from insitu.backbones.unet.image_tokens import ImageEncoder, resampler
from insitu.backbones.unet.inlet import narrowed
from insitu.errors import UserError

PARTS = "lar_gen"
"""Under this name they lie in the U-Net, so that they are spread over devices with it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each with the sentence of the paper behind it, see this folder's README.

    Attributes:
        assign: there is a branch over image tokens in cross-attention.
        refine: there is a RefineNet.
        tokens: N, of the image.
        width, depth, head: of the resampler f, and of its heads.
        main: what learns of the main U-Net in the first stage.
        first_stage: its share of the training.
        beta: how much Assign counts in the second stage and when painting; in the first it is 1.
        captions: of the object's region, its tag alone, or of the whole picture.
        mask_shape: of what is learned from.
        subject_size: side in pixels of the subject's picture; 0 = the base's.
        context: how much longer the painted square's side is than the box's, as a share.
        scheduler, steps, guidance_scale, rescale: of sampling.
        guide_refine: guidance's other pass does without Refine, too.
        clip: whose image tower sees the subject.
    """

    assign: bool
    refine: bool
    tokens: int
    width: int
    depth: int
    head: int
    main: Literal["none", "attention", "all"]
    first_stage: float
    beta: float
    captions: Literal["regional", "tag", "global"]
    mask_shape: Literal["instance", "box", "mixed"]
    subject_size: int
    context: float
    scheduler: Literal["own", "ddim", "euler"]
    steps: int
    guidance_scale: float
    rescale: float
    guide_refine: bool
    clip: Pin


class Detail(nn.Sequential):
    """MLP of eq. 8: patch features [B, N, D] -> the RefineNet's context [B, N, context]."""

    def __init__(self, features: int, context: int) -> None:
        super().__init__(
            nn.Linear(features, context), nn.GELU(), nn.Linear(context, context),
            nn.LayerNorm(context),
        )  # fmt: skip


class RefineNet(nn.Module):
    """A copy of the base's U-Net that denoises the subject's picture, and what its decoder saw.

    Attributes:
        learned: its cross-attention layers but for those after the last of `layers`, all of it that
            learns, by their names with slashes.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = copy.deepcopy(unet).requires_grad_(False)
        self.unet.conv_in = narrowed(unet)
        beside.put(self.unet, tokens=False)
        self.layers = beside.decoder(self.unet)
        self.learned = {
            name.removesuffix(".processor").replace(".", "/"): attn
            for name, attn in beside.attentions(self.unet)
            if name.endswith(beside.CROSS)
            and name.removesuffix(beside.CROSS) != self.layers[-1].removesuffix(".attn1")
        }
        # As adapters do: in fewer bits small steps are rounded away. (`Module.float` cannot do it
        # to copies of what holds no numbers, as in a memory plan.)
        for weight in (p for attn in self.learned.values() for p in attn.parameters()):
            weight.data = weight.data.float()

    def forward(self, z_BChw: Tensor, t: Tensor, context: Tensor, added: Any) -> Features:
        """c_obj: the inputs of the decoder's self-attention layers, by name."""
        with beside.keeping(self.unet) as kept:
            self.unet(
                z_BChw, t, encoder_hidden_states=context, added_cond_kwargs=added,
                return_dict=False,
            )  # fmt: skip
        return {layer: kept[layer] for layer in self.layers}


def attach(backbone: InpaintBackbone, own: Settings, encoder: ImageEncoder) -> nn.ModuleDict:
    """Put the parts in; what learns of them, by names that stages of training are given by."""
    unet, learned, parts = backbone.unet, nn.ModuleDict(), nn.ModuleDict()
    context = int(unet.config.cross_attention_dim)
    if own.main != "none":
        backbone.open()
    if own.refine:
        refine = parts["refine"] = RefineNet(unet)
        parts["detail"] = Detail(encoder.width, context).to(backbone.device)
    layers = beside.put(unet, tokens=own.assign)
    if own.assign:
        parts["resampler"] = resampler(
            encoder.width, context, width=own.width, depth=own.depth, head=own.head,
            tokens=own.tokens,
        ).to(backbone.device)  # fmt: skip
        learned["assign"] = nn.ModuleDict({"layers": layers, "resampler": parts["resampler"]})
    for part in parts.values():
        part.called_alone = True  # type: ignore[assignment]
    unet.add_module(PARTS, parts)
    if own.refine:
        cross = nn.ModuleDict(refine.learned)
        learned["refine"] = nn.ModuleDict({"cross": cross, "detail": parts["detail"]})
    if own.main != "none":
        learned["main"] = _main(unet, own.main)
    learned.requires_grad_(True)
    return learned


def learned(backbone: InpaintBackbone, own: Settings) -> dict[str, nn.Module]:
    """What was attached and may have learned, by the names in the file."""
    found: dict[str, nn.Module] = {}
    here = parts(backbone)
    if own.assign:
        layers = dict(beside.attentions(backbone.unet))
        found["ip_adapter"] = nn.ModuleDict(
            {
                str(number): attn.processor
                for number, (name, attn) in enumerate(layers.items())
                if name.endswith(beside.CROSS)
            }
        )
        found["resampler"] = here["resampler"]
    if own.refine:
        refine: Any = here["refine"]
        found["refine"] = nn.ModuleDict(refine.learned)
        found["detail"] = here["detail"]
    if own.main != "none":
        found["main"] = _main(backbone.unet, own.main)
    return found


def detach(backbone: InpaintBackbone) -> None:
    beside.remove(backbone.unet)
    backbone.unet._modules.pop(PARTS, None)
    backbone.close()


def image_encoder(own: Settings, device: torch.device) -> ImageEncoder:
    found: ImageEncoder = pins.load(ImageEncoder, own.clip, "clip", device)
    return found


def parts(backbone: InpaintBackbone) -> nn.ModuleDict:
    found: nn.ModuleDict = getattr(backbone.unet, PARTS)
    return found


def require(backbone: InpaintBackbone, own: Settings) -> None:
    """Refuse what cannot be attached or trained, before any work.

    Raises:
        UserError: nothing would learn, or the U-Net is to learn and is held in fewer bits.
    """
    if not (own.assign or own.refine) and own.main == "none":
        raise UserError(
            "lar_gen was set up with assign and refine false, and main none.",
            "Nothing of it would learn.",
            "Set one of the three otherwise.",
        )
    held = backbone.precision
    if own.main != "none" and (held.dtype != torch.float32 or held.quantize != "none"):
        raise UserError(
            f"lar_gen's main U-Net is to learn ({own.main}), and is held in {held.dtype}"
            f" with quantize {held.quantize}.",
            "In so few bits an optimizer's usual steps are rounded away.",
            "Set dtype to float32 and quantize to none, or lar_gen.main to none.",
        )


def tokens(backbone: InpaintBackbone, features: Tensor) -> Tensor:
    """c_i of eq. 4, [B, N, context]."""
    found: Tensor = parts(backbone)["resampler"](features)
    return found


def refined(
    backbone: InpaintBackbone, z_obj: Tensor, noise: Tensor, t_B: Tensor, features: Tensor
) -> Features:
    """c_obj of the subject's latents, noised to the same t."""
    own, empty = parts(backbone), backbone.encode_text(("",))[[0] * len(z_obj)]
    noised = backbone.schedule.add_noise(z_obj, noise, t_B)
    height, width = (side * backbone.pipeline.vae_scale_factor for side in z_obj.shape[-2:])
    added = backbone.family.told(empty, height, width, backbone.precision.dtype)
    found: Features = own["refine"](noised, t_B, own["detail"](features), added)
    return found


def _main(unet: Any, which: str) -> nn.ModuleDict:
    """Modules of the main U-Net by name: attention layers, or all that it has."""
    if which == "attention":
        every = (
            (name.removesuffix(".processor").replace(".", "/"), attn)
            for name, attn in beside.attentions(unet)
        )
        return nn.ModuleDict(dict(every))
    return nn.ModuleDict({n: child for n, child in unet.named_children() if n != PARTS})
