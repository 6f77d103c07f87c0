"""The token sequence: text, noisy picture, masked picture, references and where they go."""

from typing import Literal

import torch
from torch import Tensor

from insitu.backbones.branches import Branch, Layout
from insitu.backbones.flux import positions

IDENTITY, INPAINT = "identity", "inpaint"
"""The two adapters, IDA and InpA."""
Group = Literal["self", "identity+position", "conditions"]


def layout(
    boxes_BK4: Tensor,
    present_BK: Tensor,
    *,
    cells: tuple[int, int],
    reference_cells: int,
    words: int,
    adapters: tuple[tuple[str, ...], tuple[str, ...]],
    shifted: bool,
    placed: bool,
    group: Group,
) -> Layout:
    """Branches `text`, `image`, `mask`, and for each identity k `reference<k>`, `position<k>`.

    Text and picture see everything, conditions never see them (section "masked position-aware
    attention"), so all conditions are computed once.

    Args:
        boxes_BK4: xyxy in shares of the picture.
        present_BK: which of the K identities each example has.
        cells: height and width of the picture's latents; `reference_cells`: a reference's side.
        adapters: that act on references, and on the masked picture.
        shifted: identity k's columns are moved by k picture's widths (IMRoPE).
        placed: there are position tokens.
        group: whom conditions see: each branch alone, each identity its position, or all.
    """
    height, width = cells
    device, columns = boxes_BK4.device, width // 2
    of_identity, of_mask = adapters
    branches = [
        Branch(name="text", ids=torch.zeros(words, 3, device=device), space="text"),
        Branch(name="image", ids=positions(height, width).to(device)),
        Branch(name="mask", ids=positions(height, width).to(device), clean=True, adapters=of_mask),
    ]
    groups = [["mask"]]
    full = bool(present_BK.all())
    for k in range(boxes_BK4.shape[1]):
        shift = (k + 1) * columns if shifted else 0
        ids = positions(reference_cells, reference_cells, columns=shift).to(device)
        own = None if full else present_BK[:, k : k + 1]
        branches.append(
            Branch(
                name=f"reference{k}", ids=ids, clean=True, adapters=of_identity,
                present=None if own is None else own.expand(-1, len(ids)),
            )
        )  # fmt: skip
        groups.append([f"reference{k}"])
        if placed:
            ids = _centre(boxes_BK4[:, k], height // 2, columns, shift)
            name = f"position{k}"
            branches.append(Branch(name=name, ids=ids, space="model", clean=True, present=own))
            groups.append([name])
            if group == "identity+position":
                groups[-2:] = [[*groups[-2], name]]
    names = [branch.name for branch in branches]
    if group == "conditions":
        groups = [names[2:]]
    sees = {name: seen for seen in groups for name in seen}
    return Layout(branches, {"text": names, "image": names, **sees})


def _centre(boxes_B4: Tensor, rows: int, columns: int, shift: int) -> Tensor:
    """Position ids [B, 1, 3] of boxes' centres, in tokens."""
    x, y = (boxes_B4[:, :2] + boxes_B4[:, 2:]).T / 2
    row, column = y * rows - 0.5, x * columns - 0.5 + shift
    return torch.stack([torch.zeros_like(row), row, column], -1)[:, None]
