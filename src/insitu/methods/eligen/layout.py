"""Regional attention: which prompt sees which part of the picture, and which part sees it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from insitu.backbones.branches import Branch, Layout
from insitu.backbones.flux import positions

ADAPTER = "eligen"
GLOBAL, IMAGE = "global", "image"


@dataclass(frozen=True, kw_only=True, eq=False)
class Entities:
    """The local prompts of a batch and where they hold; E is the most of one picture.

    Attributes:
        tokens: p_i, encoded as the global prompt is, [B, E, T, D].
        regions: m_i as tokens of the picture, bool [B, E, N].
        present: bool [B, E], false where a picture has fewer; None = all have as many.
    """

    tokens: Tensor
    regions: Tensor
    present: Tensor | None = None

    @property
    def names(self) -> list[str]:
        return [f"entity {k}" for k in range(1, self.tokens.shape[1] + 1)]


def layout(entities: Entities | None, text: Tensor, *, height: int, width: int) -> Layout:
    """Entities, global prompt, picture (eq. 9-12): M(p_i, z) = M(z, p_i) = m_i, M(p_i, p_i) = 1,
    M(z, z) = 1, and M(p_i, p_j) = 0, where the global prompt is a p_i with m_i = 1 everywhere.

    Args:
        entities: None for the plain transformer.
        text: the global prompt, [B, T, D].
        height, width: of the picture, in latent cells.
    """
    at_zero = torch.zeros(text.shape[1], 3, device=text.device)
    branches = [
        Branch(name=GLOBAL, ids=at_zero, space="text", adapters=(ADAPTER,)),
        Branch(name=IMAGE, ids=positions(height, width).to(text.device), adapters=(ADAPTER,)),
    ]
    sees: dict[str, dict[str, Tensor | None]] = {
        GLOBAL: {GLOBAL: None, IMAGE: None},
        IMAGE: {GLOBAL: None, IMAGE: None},
    }
    local = []
    for k, name in enumerate(entities.names if entities else ()):
        assert entities is not None
        m, present = entities.regions[:, k], None
        if entities.present is not None:
            present = entities.present[:, k, None].expand(-1, text.shape[1])
        local.append(
            Branch(name=name, ids=at_zero, space="text", adapters=(ADAPTER,), present=present)
        )
        sees[name] = {name: None, IMAGE: m[:, None, :]}
        sees[IMAGE][name] = m[:, :, None]
    return Layout([*local, *branches], sees)
