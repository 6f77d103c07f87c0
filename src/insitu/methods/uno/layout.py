"""UNO's token sequence: text, picture and references, of which each sees all."""

from typing import Literal

import torch
from torch import Tensor

from insitu.backbones.branches import Branch, Layout, everything
from insitu.backbones.flux import positions

ADAPTER = "uno"
Acting = Literal["all", "references"]


def layout(
    present_BK: Tensor,
    *,
    words: int,
    cells: tuple[int, int],
    reference_cells: int,
    acting: Acting,
) -> Layout:
    """Universal rotary positions: reference k begins where the picture and those before it end, in
    rows and in columns, so that the references lie on the diagonal (UNO, section 3.3).

    Args:
        present_BK: which of the K references each example has.
        words: tokens of the prompt.
        cells: height and width of the picture's latents; `reference_cells`: a reference's side.
        acting: which tokens the adapter acts on.
    """
    device, (height, width) = present_BK.device, cells
    full = bool(present_BK.all())
    own = (ADAPTER,) if acting == "all" else ()
    branches = [
        Branch(name="text", ids=torch.zeros(words, 3, device=device), space="text", adapters=own),
        Branch(name="image", ids=positions(height, width).to(device), adapters=own),
    ]
    for k in range(present_BK.shape[1]):
        before = k * reference_cells // 2
        ids = positions(
            reference_cells, reference_cells,
            rows=height // 2 + before, columns=width // 2 + before,
        ).to(device)  # fmt: skip
        present = None if full else present_BK[:, k : k + 1].expand(-1, len(ids))
        branches.append(Branch(name=f"reference{k}", ids=ids, adapters=(ADAPTER,), present=present))
    return Layout(branches, everything([branch.name for branch in branches]))
