"""Proves EliGen's numerics: an entity's prompt acts in its own region only, the loss is the flow's
whatever the number of entities, and the adapter is plain PEFT that diffusers loads.

Needs no GPU; the tiny random pipeline of `tests/tiny.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from safetensors.torch import save_file

from insitu.backbones import adapters
from insitu.backbones.branches import Inputs, branching
from insitu.backbones.flux import FluxBackbone, pack
from insitu.errors import UserError
from insitu.methods import Example, Placement, Told, find
from insitu.methods.eligen import EliGen
from insitu.methods.eligen.layout import Entities, layout
from insitu.methods.eligen.method import ADAPTER, AROUND
from tests.methods.eligen_parts import (
    RIGHT,
    SETTINGS,
    SIZE,
    WORDS,
    attached,
    base_of,
    mug,
    photo,
    request,
)


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> FluxBackbone:
    return base_of(checkpoints)


@pytest.fixture
def trained(base: FluxBackbone) -> Iterator[EliGen]:
    yield from attached(base)


def examples() -> list[Example]:
    cat = Placement(box_xyxy01=RIGHT, prompt="a blue cat")
    placements = [(mug(), cat), (cat,), ()]
    return [
        Example(id=f"e{k}", image=photo(k), prompt="a red mug", pool="entities", placements=own)
        for k, own in enumerate(placements)
    ]


def told_of(method: EliGen, base: FluxBackbone, given: list[Example]) -> Told:
    text = base.encode_text(tuple(example.prompt for example in given))
    told = method.condition(base, given)
    return told | {"text.tokens": text.tokens, "text.pooled": text.pooled}


def noise_and_times(told: Told) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = told["z_0"].shape
    return torch.randn(shape, generator=generator), torch.rand(shape[0], generator=generator)


def one_block(*, single: bool) -> Any:
    """A transformer whose only block is a double-stream or a single-stream one."""
    torch.manual_seed(1)
    plain = FluxTransformer2DModel(
        patch_size=1, in_channels=8, num_layers=0 if single else 1,
        num_single_layers=1 if single else 0, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return branching(plain.requires_grad_(False).eval())


@pytest.mark.parametrize("single", [False, True])
def test_an_entity_acts_on_the_first_blocks_tokens_of_its_region_only(single: bool) -> None:
    model = one_block(single=single)
    regions = torch.zeros(1, 2, 6, dtype=torch.bool)
    regions[0, 0, [0, 3]] = True
    regions[0, 1, [2, 3, 5]] = True
    prompts = torch.randn(1, 2, 3, 12).requires_grad_()
    text, x_t = torch.randn(1, 3, 12), torch.randn(1, 2, 4, 6)
    entities = Entities(tokens=prompts, regions=regions)
    tokens = {"global": text, "image": pack(x_t)}
    tokens |= dict(zip(entities.names, prompts.unbind(1), strict=True))
    inputs = Inputs(
        tokens=tokens, pooled=torch.randn(1, 10), t=torch.tensor([0.5]),
        guidance=torch.tensor([3.5]),
    )  # fmt: skip
    out = model(layout=layout(entities, text, height=4, width=6), inputs=inputs)
    for k in range(2):
        for token in range(6):
            (grad,) = torch.autograd.grad(out[0, token].sum(), prompts, retain_graph=True)
            if regions[0, k, token]:
                assert grad[0, k].abs().max() > 1e-4
            else:
                assert torch.equal(grad[0, k], torch.zeros_like(grad[0, k]))


def test_the_attention_is_the_composed_masks() -> None:
    """Eq. 9-13, written again as one mask over all tokens."""
    regions = torch.rand(2, 2, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    present = torch.tensor([[True, True], [True, False]])
    text = torch.zeros(2, 3, 12)
    entities = Entities(tokens=torch.zeros(2, 2, 3, 12), regions=regions, present=present)
    made = layout(entities, text, height=4, width=6)
    assert [branch.name for branch in made.branches] == ["entity 1", "entity 2", "global", "image"]
    assert all(not branch.ids.any() for branch in made.branches[:3])

    composed = torch.zeros(2, 15, 15, dtype=torch.bool)
    prompts, image = [slice(0, 3), slice(3, 6), slice(6, 9)], slice(9, 15)
    for b in range(2):
        for k, span in enumerate(prompts):
            m = regions[b, k] if k < 2 else torch.ones(6, dtype=torch.bool)
            there = k == 2 or bool(present[b, k])
            composed[b, span, span] = there
            composed[b, span, image] = m
            composed[b, image, span] = m[:, None] & there
        composed[b, image, image] = True
    found = torch.zeros_like(composed)
    for view in made.whole.views:
        rows = torch.cat([torch.arange(15)[span] for span in view.queries])
        keys = torch.cat([torch.arange(15)[span] for span in view.keys])
        mask = torch.ones(1, len(rows), len(keys), dtype=torch.bool)
        if view.mask is not None:
            mask = view.mask[:, 0]
        for b in range(2):
            found[b, rows[:, None], keys] = mask[min(b, len(mask) - 1)]
    # What an absent entity itself sees is of no account: nobody sees it.
    composed[1, 3:6], found[1, 3:6] = False, False
    assert torch.equal(found, composed)


def test_the_loss_is_the_flows_for_every_number_of_entities(
    base: FluxBackbone, trained: EliGen
) -> None:
    """A batch of pictures with 2, 1 and 0 entities gives what each gives by itself, with no room
    for more than it has."""
    given = examples()
    told = told_of(trained, base, given)
    assert told["entities.tokens"].shape == (3, 3, WORDS, 16)
    assert told["entities.present"].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    noise, t = noise_and_times(told)
    terms = trained.loss(base, told, noise, t)
    assert terms["flow"].shape == (3,)
    for k, example in enumerate(given):
        part = told_of(trained, base, [example])
        count = len(example.placements)
        entities = Entities(
            tokens=part["entities.tokens"][:, :count], regions=part["entities.regions"][:, :count]
        )
        x_t = (1 - t[k]) * part["z_0"] + t[k] * noise[k]
        tokens = {"global": part["text.tokens"], "image": pack(x_t)}
        tokens |= dict(zip(entities.names, entities.tokens.unbind(1), strict=True))
        v = base.transformer(
            layout=layout(entities, part["text.tokens"], height=8, width=8),
            inputs=Inputs(
                tokens=tokens, pooled=part["text.pooled"], t=t[k : k + 1],
                guidance=torch.ones(1),
            ),
        )  # fmt: skip
        expected = (v - pack(noise[k : k + 1] - part["z_0"])).square().mean()
        torch.testing.assert_close(terms["flow"][k], expected, rtol=1e-4, atol=1e-5)


def test_dropped_entities_are_no_entities(base: FluxBackbone, trained: EliGen) -> None:
    one = examples()[0]
    told, without = (
        told_of(trained, base, [example]) for example in (one, replace(one, placements=()))
    )
    noise, t = noise_and_times(told)
    dropped = trained.loss(base, told | {"dropped.condition": torch.tensor([True])}, noise, t)
    kept = trained.loss(base, told | {"dropped.condition": torch.tensor([False])}, noise, t)
    bare = trained.loss(base, without, noise, t)
    torch.testing.assert_close(dropped["flow"], bare["flow"], rtol=1e-5, atol=1e-6)
    assert (kept["flow"] - bare["flow"]).abs() > 1e-5


@pytest.mark.parametrize("feed_forward", [False, True])
def test_it_learns_around_attention_and_in_adaln_of_every_block(
    base: FluxBackbone, feed_forward: bool
) -> None:
    method = EliGen(replace(SETTINGS, feed_forward=feed_forward))
    names = {name.removesuffix("/lora_A") for name in method.attach(base) if "lora_A" in name}
    try:
        terms = method.loss(
            base, (told := told_of(method, base, examples())), *noise_and_times(told)
        )
        terms["flow"].mean().backward()
        learning = [p for p in base.transformer.parameters() if p.requires_grad]
        assert len(learning) == 2 * len(names) and all(p.grad is not None for p in learning)
    finally:
        method.detach(base)
    linear = {
        name.replace(".", "/")
        for name, layer in base.transformer.named_modules()
        if isinstance(layer, torch.nn.Linear) and "transformer_blocks" in name
    }
    fed = {name for name in linear if "/ff" in name or name.endswith("proj_mlp")}
    assert len(linear) == 14 + 6 and len(fed) == 5
    assert names == (linear if feed_forward else linear - fed)


def test_the_papers_rank_on_flux_dev_has_as_many_numbers_as_its_shapes_say() -> None:
    """19 double-stream and 38 single-stream blocks of width 3072."""
    with torch.device("meta"):
        model = branching(FluxTransformer2DModel(guidance_embeds=True))
        config = LoraConfig(r=64, lora_alpha=64, target_modules=AROUND % "")
        adapters.attach(model, config, ADAPTER)
    d = 3072
    double = 8 * (d + d) + 2 * (d + 6 * d)
    single = 3 * (d + d) + (d + 3 * d) + (5 * d + d)
    assert adapters.count(model, ADAPTER) == 64 * (19 * double + 38 * single)


def test_the_adapter_loads_in_diffusers_and_paints_the_same_without_entities(
    base: FluxBackbone, trained: EliGen, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    save_file(trained.state(base), tmp_path / "adapter.safetensors")
    asked = request(background="free", negative_prompt="a blue cat")
    (painted,) = trained.paint(base, [replace(asked, placements=())])

    plain = FluxPipeline.from_pretrained(checkpoints["flux"], dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)

    def pictured() -> np.ndarray:
        image = plain(
            asked.prompt, negative_prompt=asked.negative_prompt, true_cfg_scale=3.0,
            guidance_scale=3.5, height=SIZE, width=SIZE, num_inference_steps=SETTINGS.steps,
            max_sequence_length=WORDS, output_type="np",
            generator=torch.Generator().manual_seed(asked.seed),
        ).images[0]  # fmt: skip
        return np.rint(image * 255).astype(int)

    before = pictured()
    plain.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    assert np.abs(pictured() - painted).max() <= 1
    assert np.abs(before - painted).max() > 5  # the adapter does something


def test_a_saved_adapter_paints_the_same_and_untrained_painting_needs_none(
    base: FluxBackbone, trained: EliGen
) -> None:
    state = trained.state(base)
    (with_adapter,) = trained.paint(base, [request()])
    trained.detach(base)
    method = find("eligen", vars(SETTINGS))
    (untrained,) = method.paint(base, [request()])
    method.load(base, state)
    (again,) = method.paint(base, [request()])
    assert np.array_equal(again, with_adapter)
    assert not np.array_equal(untrained, with_adapter)
    (other,) = method.paint(base, [request(replace(mug(), prompt="a green dog"))])
    assert not np.array_equal(other, with_adapter)

    method.detach(base)
    with pytest.raises(UserError, match="rank"):
        EliGen(replace(SETTINGS, rank=4)).load(base, state)
    method.load(base, state)  # the fixture takes it out again
