"""Inpainting U-Nets of Stable Diffusion, SD1.5's and SDXL's shapes alike.

backbone = InpaintBackbone.load(checkpoint, device=device)  # 9 channels, or 4 widened
beside.put(backbone.unet)                                      # image tokens, reference features
latents = denoise(backbone, guess, start, sampling, source=...)  # DDIM or Euler, blended
"""

from insitu.backbones.unet.backbone import InpaintBackbone
from insitu.backbones.unet.families import Text

__all__ = ["InpaintBackbone", "Text"]
