"""Textual attribute substitution (section 3.4): a prompt without what it replaces.

p_dec = p_raw - the projection of p_raw on the span of the replaced attributes' embeddings (eq. 9 is
the case of one). A word may be several tokens, and several attributes are taken out at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from insitu.backbones.unet import InpaintBackbone, Text


def substituted(
    backbone: InpaintBackbone, text: Text, words: Sequence[str], *, pooled: bool
) -> Text:
    """p_dec of a prompt [1, T, D], in which nothing lies in the span of the words' tokens.

    Args:
        pooled: the pooled vector, too, is taken out of the span of the words' pooled vectors.
    """
    found = backbone.encode_text(tuple(words))
    span = torch.cat([_own(backbone, found.context[k], word) for k, word in enumerate(words)])
    context = outside(text.context, span)
    if not pooled or text.pooled is None or found.pooled is None:
        return Text(context, text.pooled)
    return Text(context, outside(text.pooled, found.pooled))


def outside(x: Tensor, span_KD: Tensor) -> Tensor:
    """Each vector [..., D] without its projection on a span, a copy.

    The span's base is orthonormal by its singular vectors, those apart from 0, so that words that
    say the same take out no more than one of them.
    """
    wide = span_KD.double()
    _, sizes, base = torch.linalg.svd(wide, full_matrices=False)
    base = base[sizes > sizes.max() * 1e-6]
    return (x.double() - (x.double() @ base.T) @ base).to(x.dtype)


def _own(backbone: InpaintBackbone, context_TD: Tensor, word: str) -> Tensor:
    """The embeddings of a word's own tokens, without those of beginning and end."""
    count = len(backbone.pipeline.tokenizer(word, add_special_tokens=False).input_ids)
    return context_TD[1 : 1 + count]
