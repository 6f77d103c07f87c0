"""Proves AnyPhoto's model and loss: who sees whom, what the adapter touches, both terms of the loss
by their formulas, faces of different numbers in a batch, and what is left when it is taken out.

Needs no GPU; tiny random checkpoints.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu import params
from insitu.backbones.flux import FluxBackbone, Text
from insitu.errors import UserError
from insitu.methods import find, pinned
from insitu.methods.anyphoto import AnyPhoto
from insitu.methods.anyphoto.curriculum import replacement, variants
from insitu.methods.anyphoto.faces import analyser
from insitu.methods.anyphoto.layout import FaceTokens, chosen_pictures, present_faces
from insitu.params.base import Models
from tests.methods.anyphoto_parts import (
    backbone_of,
    example,
    learned,
    method_of,
    noise,
    request,
    shipped_settings,
    told_of,
)

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
IMAGE_TOKENS = 64


@pytest.fixture(scope="module")
def backbone(checkpoints: dict[str, Path]) -> FluxBackbone:
    return backbone_of(checkpoints)


@pytest.fixture
def attached(checkpoints: dict[str, Path], backbone: FluxBackbone) -> Iterator[Any]:
    """Makes a method of changed settings and puts it in; all are taken out at the end."""
    made: list[AnyPhoto] = []

    def make(**changed: Any) -> AnyPhoto:
        made.append(method_of(checkpoints, PARAMS, **changed))
        made[-1].attach(backbone)
        return made[-1]

    yield make
    for method in made:
        method.detach(backbone)


def faces_of(told: dict[str, torch.Tensor]) -> list[FaceTokens]:
    return present_faces(
        chosen_pictures(told, torch.zeros(told["present"].shape, dtype=torch.long))
    )


def first_block(method: AnyPhoto, backbone: FluxBackbone, faces: list[FaceTokens]) -> torch.Tensor:
    """What the first block makes of picture and faces, [B, N + faces' tokens, D]."""
    caught: list[torch.Tensor] = []
    block = backbone.transformer.transformer_blocks[0]
    handle = block.register_forward_hook(lambda _, given, out: caught.append(out[1]))
    x_t = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    text = backbone.encode_text(("two people",))
    try:
        method._velocity(
            backbone, method._layout(backbone, faces, x_t), faces, Text(text.tokens, text.pooled),
            x_t, torch.tensor([0.5]), guidance=1.0, given=torch.tensor([True]),
        )  # fmt: skip
    finally:
        handle.remove()
    return caught[0]


@pytest.mark.parametrize("isolated", [True, False])
def test_in_the_first_block_a_face_depends_on_no_other_and_the_image_on_all(
    backbone: FluxBackbone, attached: Any, isolated: bool
) -> None:
    """Tokens and embeddings: gradients are exactly zero, or not (eq. 19; Table A)."""
    method = attached(isolated=isolated)
    learned(method, backbone)
    faces = faces_of(told_of(method, backbone, [example(0, 2)]))
    for face in faces:
        face.tokens.requires_grad_()
        face.embedding.requires_grad_()
    out = first_block(method, backbone, faces)
    sizes = [IMAGE_TOKENS, *(face.tokens.shape[1] for face in faces)]
    image, *of_faces = out.split(sizes, 1)
    references = [x for face in faces for x in (face.tokens, face.embedding)]
    for k, seen in enumerate(of_faces):
        gradients = torch.autograd.grad(seen.square().sum(), references, retain_graph=True)
        for number, gradient in enumerate(gradients):
            assert bool(gradient.any()) == (number // 2 == k or not isolated)
    gradients = torch.autograd.grad(image.square().sum(), references)
    assert all(gradient.any() for gradient in gradients)


def test_with_a_region_mask_only_the_region_sees_the_face(
    backbone: FluxBackbone, attached: Any
) -> None:
    """Table 2, a."""
    method = attached(location="roi")
    learned(method, backbone)
    faces = faces_of(told_of(method, backbone, [example(0, 1)]))
    assert faces[0].tokens.shape[1] == 4  # a patch of 16 pixels, whatever its place
    faces[0].tokens.requires_grad_()
    out = first_block(method, backbone, faces)[0, :IMAGE_TOKENS]
    reached = torch.stack(
        [torch.autograd.grad(x.square().sum(), faces[0].tokens, retain_graph=True)[0].any()
         for x in out]
    )  # fmt: skip
    assert torch.equal(reached, faces[0].region[0])
    assert 0 < reached.sum() < IMAGE_TOKENS


def test_pruned_tokens_are_the_canvas_tokens_with_the_pictures_positions(
    backbone: FluxBackbone, checkpoints: dict[str, Path]
) -> None:
    """Eq. 13, and ids (1, row, column) aligned with the picture's (0, row, column)."""
    same: dict[str, Any] = {"degradations": ()}
    pruned = method_of(checkpoints, PARAMS, **same)
    whole = method_of(checkpoints, PARAMS, location="canvas", **same)
    few = faces_of(told_of(pruned, backbone, [example(0, 2)]))
    many = faces_of(told_of(whole, backbone, [example(0, 2)]))
    latents = torch.zeros(1, 16, 16, 16)
    arranged = pruned._layout(backbone, few, latents)
    for k, (short, long) in enumerate(zip(few, many, strict=True)):
        assert long.tokens.shape[1] == IMAGE_TOKENS
        under = short.region[0].nonzero()[:, 0]
        assert torch.equal(short.places[0], under)
        torch.testing.assert_close(short.tokens[0], long.tokens[0, under])
        branch = arranged[f"face{k}"]
        image = arranged["image"].ids[under]
        assert torch.equal(branch.ids[0], image + torch.tensor([1.0, 0, 0]))
        assert branch.adapters == ("anyphoto",) and branch.present is None
    assert arranged["text"].adapters == arranged["image"].adapters == ()


def loss_of(
    method: AnyPhoto, backbone: FluxBackbone, told: dict[str, torch.Tensor], t: list[float]
) -> dict[str, torch.Tensor]:
    return method.loss(backbone, told, noise(told), torch.tensor(t))


def test_the_loss_is_the_papers(backbone: FluxBackbone, attached: Any) -> None:
    """Both terms written again around the same velocity (eq. 20 to 25)."""
    method = attached(face_weight=0.25, face_until=0.6)
    learned(method, backbone)
    told = told_of(method, backbone, [example(0, 2), example(1, 1), example(2, 3)])
    told["dropped.condition"] = torch.tensor([False, False, False])
    t = torch.tensor([0.4, 0.9, 0.1])
    eps = noise(told)
    terms = method.loss(backbone, told, eps, t)

    z_0, own = told["z_0"], method.settings
    p = replacement(told["progress"], own.replacement, own.milestones)
    which = variants(told["chances"][:, :3], p, own.variants)
    chosen = chosen_pictures(told, which)
    faces = present_faces(chosen)
    x_t = (1 - t.view(-1, 1, 1, 1)) * z_0 + t.view(-1, 1, 1, 1) * eps
    text = Text(told["text.tokens"], told["text.pooled"])
    v = method._velocity(
        backbone, method._layout(backbone, faces, x_t), faces, text, x_t, t, guidance=1.0,
        given=torch.ones(3, dtype=torch.bool),
    )  # fmt: skip
    torch.testing.assert_close(terms["flow"], ((v - (eps - z_0)) ** 2).mean((1, 2, 3)))
    looking = analyser(own.face, backbone.device)
    for row, count in enumerate((2, 1, 3)):
        estimate = backbone.decode((x_t - t.view(-1, 1, 1, 1) * v)[row : row + 1])
        pixels = (estimate + 1) / 2
        distances = []
        for k in range(count):
            seen = looking.embed_tensor(looking.align(pixels, told["landmarks"][row, k][None]))[0]
            distances.append(1 - seen @ told["embedding"][row, k, which[row, k]])
        expected = 0.25 * torch.stack(distances).mean() if t[row] < 0.6 else torch.tensor(0.0)
        torch.testing.assert_close(terms["face"][row], expected)
    terms["face"].sum().backward()
    lora = list(method_parameters(method, backbone))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in lora)
    assert any(p.grad.any() for p in lora)


def method_parameters(method: AnyPhoto, backbone: FluxBackbone) -> Iterator[torch.nn.Parameter]:
    yield from (p for p in backbone.transformer.parameters() if p.requires_grad)


def test_examples_of_a_batch_do_not_meet_and_padding_is_not_seen(
    backbone: FluxBackbone, attached: Any
) -> None:
    """Faces of different numbers and sizes: each example's loss is what it is alone."""
    method = attached()
    learned(method, backbone)
    examples = [example(0, 1), example(1, 3), example(2, 2)]
    told = told_of(method, backbone, examples)
    together = loss_of(method, backbone, told, [0.3, 0.3, 0.3])
    eps = noise(told)
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in told.items()}
        terms = method.loss(backbone, alone, eps[row : row + 1], torch.tensor([0.3]))
        for name, value in terms.items():
            torch.testing.assert_close(value[0], together[name][row], rtol=1e-4, atol=1e-5)


def test_dropped_identities_say_nothing_and_have_no_face_loss(
    backbone: FluxBackbone, attached: Any
) -> None:
    method = attached()
    learned(method, backbone)
    told = told_of(method, backbone, [example(0, 2), example(1, 2)])
    told["dropped.condition"] = torch.tensor([True, False])
    before = loss_of(method, backbone, told, [0.3, 0.3])
    changed = told | {
        "tokens": told["tokens"] + 1,
        "embedding": torch.nn.functional.normalize(told["embedding"].flip(-1), dim=-1),
    }
    after = loss_of(method, backbone, changed, [0.3, 0.3])
    assert before["flow"][0] == after["flow"][0]
    assert before["flow"][1] != after["flow"][1]
    assert before["face"][0] == 0 and before["face"][1] > 0


def test_without_face_loss_or_modulation_there_is_none(
    backbone: FluxBackbone, attached: Any
) -> None:
    """Table 2: b (pruning alone), and e (without modulation)."""
    method = attached(face_weight=0.0, modulated=False, degradations=(), replacement=0.0)
    told = told_of(method, backbone, [example(0, 2)])
    assert set(loss_of(method, backbone, told, [0.3])) == {"flow"}
    names = {name for name, p in backbone.transformer.named_parameters() if p.requires_grad}
    assert names and all("lora" in name for name in names)
    assert all(name.startswith("transformer.") for name in method.state(backbone))


@pytest.mark.parametrize(
    ("progress", "p"), [(0.0, 0), (0.19, 0), (0.2, 0.125), (0.5, 0.25), (0.79, 0.375), (1.0, 0.5)]
)
def test_other_faces_come_in_by_milestones(progress: float, p: float) -> None:
    now = torch.tensor([progress])
    assert replacement(now, 0.5, (0.2, 0.4, 0.6, 0.8)).item() == pytest.approx(p)
    assert replacement(now, 0.3, (0.0,)).item() == pytest.approx(0.3)  # fixed, Table B


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_one_chance_chooses_the_picture(p: float) -> None:
    chances = torch.linspace(0, 1, 6001)[None, :-1]
    chosen = variants(chances, torch.tensor([p]), 3)
    assert (chosen >= 3).float().mean().item() == pytest.approx(p, abs=1e-3)
    counts = torch.bincount(chosen[0], minlength=6) / 6000
    expected = torch.tensor([(1 - p) / 3] * 3 + [p / 3] * 3)
    torch.testing.assert_close(counts, expected, atol=1e-3, rtol=0)


def test_pictures_of_a_face_are_its_own_then_others_and_embeddings_are_undegraded(
    backbone: FluxBackbone, checkpoints: dict[str, Path]
) -> None:
    plain = method_of(checkpoints, PARAMS, degradations=())
    rough = method_of(checkpoints, PARAMS, degradations=("gaussian_noise",), degrade=1.0)
    one, other = (told_of(method, backbone, [example(0, 1)]) for method in (plain, rough))
    assert torch.equal(one["embedding"], other["embedding"])
    assert not torch.equal(one["tokens"], other["tokens"])
    tokens = one["tokens"][0, 0]
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
    assert not torch.equal(tokens[2], tokens[3])  # two others
    assert not torch.equal(other["tokens"][0, 0, 0], other["tokens"][0, 0, 1])
    assert one["present"].tolist() == [[True, False, False]]
    assert not one["kept"][0, 1:].any()
    assert torch.equal(told_of(rough, backbone, [example(0, 1)])["tokens"], other["tokens"])


def test_a_fresh_adapter_changes_nothing_and_detaching_leaves_no_trace(
    backbone: FluxBackbone, checkpoints: dict[str, Path]
) -> None:
    method = method_of(checkpoints, PARAMS)
    before = {name: value.clone() for name, value in backbone.transformer.state_dict().items()}
    plain = method.paint(backbone, [request()])[0]
    method.attach(backbone)
    assert np.array_equal(method.paint(backbone, [request()])[0], plain)
    learned(method, backbone, 1.0)
    state = method.state(backbone)
    tuned = method.paint(backbone, [request()])[0]
    assert not np.array_equal(tuned, plain)
    method.detach(backbone)
    after = backbone.transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    method.load(backbone, state)
    assert np.array_equal(method.paint(backbone, [request()])[0], tuned)
    method.detach(backbone)
    with pytest.raises(UserError, match="are unknown here"):
        method_of(checkpoints, PARAMS, modulated=False).load(backbone, state)
    assert backbone.transformer.state_dict().keys() == before.keys()


def test_identity_guidance_moves_away_from_the_picture_without_identities(
    backbone: FluxBackbone, attached: Any, checkpoints: dict[str, Path]
) -> None:
    method = attached()
    learned(method, backbone, 1.0)
    plain = method.paint(backbone, [request()])[0]
    guided = method_of(checkpoints, PARAMS, identity_scale=3.0).paint(backbone, [request()])[0]
    assert not np.array_equal(plain, guided)


def test_settings_come_back_from_a_card_and_pin_the_embedder(
    checkpoints: dict[str, Path], backbone: FluxBackbone
) -> None:
    models = Models.model_validate(
        {name: {"path": str(path)} for name, path in checkpoints.items()}
        | {"flux": {"path": str(checkpoints["flux"]), "size": 64, "max_sequence_length": 16}}
    )
    settings = pinned("anyphoto", shipped_settings(PARAMS), models)
    method = find("anyphoto", settings)
    card = json.loads(json.dumps(asdict(method.settings)))
    assert find("anyphoto", card).settings == method.settings
    card["face"]["digest"] = "0" * 64
    with pytest.raises(UserError, match=r"models\.face"):
        find("anyphoto", card).attach(backbone)
    card["face"]["path"] = "no/such/folder/here"
    with pytest.raises(UserError, match="no such folder"):
        find("anyphoto", card).attach(backbone)
    assert pinned("dreammix", {"rank": 4}, models) == {"rank": 4}
