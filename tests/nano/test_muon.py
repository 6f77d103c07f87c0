"""Proves that our Muon is torch's Muon (to bfloat16's tolerance) and splits models as it says.

Needs torch and transformers' CLIP class with random weights.
"""

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from recipe.muon import Muon, orthogonalise, split


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64)])
def test_agrees_with_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon(ours, lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=4 * 0.02 * 0.05, rtol=0)


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 40)))
    assert values.min() > 0.3
    assert values.max() < 1.4


def test_refuses_vectors() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([nn.Parameter(torch.zeros(3))])


def test_split_keeps_embeddings_norms_and_projections_out() -> None:
    config = CLIPTextConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8,
    )  # fmt: skip
    model = CLIPTextModel(config)
    matrices, rest = split(model)
    inside = {id(p) for p in matrices}
    names = {name for name, p in model.named_parameters() if id(p) in inside}
    assert len(names) == 2 * 6
    assert all(".layers." in name and name.endswith("weight") for name in names)
    assert len(matrices) + len(rest) == len(list(model.parameters()))
