"""The token sequence: text, noisy picture, and a branch for each face (sections 3.2 and 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from insitu.backbones.branches import Branch, Layout
from insitu.backbones.flux import positions
from insitu.methods import Told

ADAPTER = "anyphoto"
TYPE = 1
"""First number of a face token's position; text and picture have 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceTokens:
    """The kth face of each example of a batch.

    Attributes:
        tokens: [B, M, C], packed latents.
        places: [B, M], which tokens of their picture they are, row by row.
        kept: bool [B, M], false for padding.
        embedding: e_k, [B, E].
        region: bool [B, N], the picture's tokens where the face goes.
    """

    tokens: Tensor
    places: Tensor
    kept: Tensor
    embedding: Tensor
    region: Tensor

    def trimmed(self) -> "FaceTokens":
        """Without places that are padding in every example."""
        used = sum(self.kept.any(0).tolist())  # tokens come first, padding after them
        return FaceTokens(
            tokens=self.tokens[:, :used], places=self.places[:, :used], kept=self.kept[:, :used],
            embedding=self.embedding, region=self.region,
        )  # fmt: skip


def chosen_pictures(told: Told, which_BF: Tensor) -> dict[str, Tensor]:
    """Of each face what is told of one of its pictures, [B, F, ...]."""
    rows = torch.arange(len(which_BF), device=which_BF.device)[:, None]
    columns = torch.arange(which_BF.shape[1], device=which_BF.device)
    pictures = ("tokens", "places", "kept", "embedding", "region")
    return {key: told[key][rows, columns, which_BF] for key in pictures}


def present_faces(chosen: Mapping[str, Tensor]) -> list[FaceTokens]:
    """Those that any example has."""
    having = chosen["kept"].any(-1).any(0).tolist()
    return [
        FaceTokens(**{key: value[:, k] for key, value in chosen.items()}).trimmed()
        for k, any_has in enumerate(having)
        if any_has
    ]


def name(k: int) -> str:
    return f"face{k}"


def layout(
    faces: Sequence[FaceTokens],
    *,
    cells: tuple[int, int],
    words: int,
    face_cells: tuple[int, int],
    isolated: bool,
    shifted: bool,
    by_region: bool,
) -> Layout:
    """Text and picture see everything; a face sees text, picture and itself (eq. 19).

    Args:
        cells: height and width of the picture's latents; `face_cells`: of what `places` number,
            the picture itself when its faces' tokens are aligned with it.
        isolated: false lets faces see one another (Table A, "all visible").
        shifted: faces' modulations are moved (section 3.3).
        by_region: picture and face see one another only where the face goes (Table 2, a).
    """
    device = faces[0].tokens.device
    grid = positions(*face_cells, kind=TYPE).to(device)
    names = [name(k) for k in range(len(faces))]
    branches = [
        Branch(name="text", ids=torch.zeros(words, 3, device=device), space="text"),
        Branch(name="image", ids=positions(*cells).to(device)),
        *(
            Branch(
                name=own, ids=grid[face.places], adapters=(ADAPTER,), shifted=shifted,
                present=None if bool(face.kept.all()) else face.kept,
            )
            for own, face in zip(names, faces, strict=True)
        ),
    ]  # fmt: skip
    every: dict[str, Tensor | None] = dict.fromkeys(["text", "image", *names])
    sees = {"text": dict(every), "image": dict(every)}
    for own, face in zip(names, faces, strict=True):
        sees[own] = {"text": None, "image": None, own: None} if isolated else dict(every)
        if by_region:
            sees["image"][own] = face.region[:, :, None]
            sees[own]["image"] = face.region[:, None]
    return Layout(branches, sees)
