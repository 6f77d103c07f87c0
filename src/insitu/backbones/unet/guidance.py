"""Classifier-free guidance over all conditions at once (LAR-Gen, section 4.5)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from insitu.backbones.unet.backbone import InpaintBackbone
from insitu.backbones.unet.beside import Beside
from insitu.backbones.unet.families import Text, joined
from insitu.backbones.unet.sampling import Sampling, guided


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """What the U-Net is told of a batch of pictures at each step.

    Attributes:
        mask, holed: as `InpaintBackbone.predict` takes them.
        text: the prompts; `untold` = those of the pass that guidance leads away from.
    """

    mask: Tensor
    holed: Tensor
    text: Text
    untold: Text

    def guess(
        self,
        backbone: InpaintBackbone,
        z_BChw: Tensor,
        t: Tensor,
        sampling: Sampling,
        see: Callable[[], Beside] | None = None,
        see_both: Callable[[], Beside] | None = None,
    ) -> Tensor:
        """The guided prediction [B, C, h, w] at a timestep [].

        Args:
            see: as `InpaintBackbone.predict` takes it, where there is one pass.
            see_both: the same for both passes, [2 B, ...], the untold one first.
        """
        times = t.round().long().expand(len(z_BChw))
        if not sampling.guides:
            return backbone.predict(z_BChw, times, self.mask, self.holed, self.text, see)
        z, t2, mask, holed = (torch.cat([x, x]) for x in (z_BChw, times, self.mask, self.holed))
        texts = joined([self.untold, self.text])
        untold, full = backbone.predict(z, t2, mask, holed, texts, see_both).chunk(2)
        return guided(full, untold, sampling)
