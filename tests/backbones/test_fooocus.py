"""Proves that Fooocus' published files make a checkpoint for text-to-image one for inpainting.

The checkpoints are tiny random ones of SDXL's and SD1.5's classes; names are checked against
diffusers' own conversion of Stability's checkpoints.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file
from torch.nn import functional
from torch.testing import assert_close

from insitu.backbones import fooocus
from insitu.backbones.unet import InpaintBackbone
from insitu.backbones.unet.inlet import HEAD, narrowed
from insitu.errors import UserError
from insitu.params import Checkpoint
from tests import tiny

CPU = torch.device("cpu")
PATCHED = ("conv_in.weight", "up_blocks.1.resnets.0.conv1.weight", "time_embedding.linear_2.bias")


@pytest.fixture(scope="module", params=["sdxl", "sd"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    tiny.inpainting(folder, family=request.param, channels=4)
    return folder


def loaded(base: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(base / "unet")


def published(base: Path, folder: Path) -> tuple[Path, Path]:
    """Head and patch as they are downloaded."""
    torch.manual_seed(1)
    unet = loaded(base)
    theirs, state = fooocus.names(unet), unet.state_dict()
    patch = {}
    for name in PATCHED:
        steps = torch.randint(0, 256, state[name].shape, dtype=torch.uint8)
        low, high = torch.tensor(-0.1), torch.tensor(0.2)
        patch[f"diffusion_model.{theirs[name]}"] = (steps, low, high)
    head = {"head": torch.randn(unet.conv_in.out_channels, 5, 3, 3)}
    torch.save(head, folder / "head.pth")
    torch.save(patch, folder / "v26.patch")
    return folder / "head.pth", folder / "v26.patch"


def test_names_are_those_of_stability(base: Path) -> None:
    unet = loaded(base)
    state = unet.state_dict()
    named = {f"model.diffusion_model.{k}": state[v] for v, k in fooocus.names(unet).items()}
    assert len(named) == len(state)
    back = convert_ldm_unet_checkpoint(named, dict(unet.config))
    assert set(back) == set(state)
    for name, weight in back.items():
        assert weight.data_ptr() == state[name].data_ptr(), name


def test_bytes_span_the_least_and_the_greatest_value() -> None:
    packed = (torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor(-1.0), torch.tensor(4.0))
    assert_close(fooocus.unpacked(packed), torch.tensor([-1.0, 0.0, 4.0]))


def test_the_baked_base_predicts_with_head_and_patch(base: Path, tmp_path: Path) -> None:
    head, patch = published(base, tmp_path)
    assert fooocus.bake(base, head, patch, tmp_path / "out") == len(PATCHED)
    backbone = InpaintBackbone.load(Checkpoint(path=str(tmp_path / "out")), device=CPU)
    torch.manual_seed(2)
    z, t, text = (
        torch.randn(2, 4, 16, 16),
        torch.tensor([10, 700]),
        backbone.encode_text(("a", "b")),
    )
    mask, holed = torch.rand(2, 1, 16, 16), torch.randn(2, 4, 16, 16)

    plain = loaded(base)
    theirs, values = fooocus.names(plain), torch.load(patch)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if (key := f"diffusion_model.{theirs[name]}") in values:
                steps, low, high = values[key]
                weight += steps / 255 * (high - low) + low
    beside = functional.pad(torch.cat([mask, holed], 1), (1, 1, 1, 1), mode="replicate")
    feature = functional.conv2d(beside, torch.load(head)["head"])
    plain.conv_in.register_forward_hook(lambda module, given, out: out + feature)
    side = 16 * backbone.pipeline.vae_scale_factor
    added = backbone.family.told(text, side, side, torch.float32)
    expected = plain(z, t, encoder_hidden_states=text.context, added_cond_kwargs=added).sample
    assert_close(backbone.predict(z, t, mask, holed, text), expected)


def test_the_part_that_sees_latents_alone_is_the_base_s(base: Path, tmp_path: Path) -> None:
    head, patch = published(base, tmp_path)
    fooocus.bake(base, head, patch, tmp_path / "out", weight=0.0)
    backbone = InpaintBackbone.load(Checkpoint(path=str(tmp_path / "out")), device=CPU)
    assert_close(narrowed(backbone.unet).weight, loaded(base).conv_in.weight)


def test_files_of_another_model_are_refused_and_nothing_is_written(
    base: Path, tmp_path: Path
) -> None:
    head, patch = published(base, tmp_path)
    values = torch.load(patch)
    wrong = tmp_path / "wrong.pth"
    torch.save({"head": torch.randn(3, 5, 3, 3)}, wrong)
    with pytest.raises(UserError, match=r"is \[3, 5, 3, 3\]"):
        fooocus.bake(base, wrong, patch, tmp_path / "out")
    torch.save({"weights": torch.randn(3)}, wrong)
    with pytest.raises(UserError, match="no tensor 'head'"):
        fooocus.bake(base, wrong, patch, tmp_path / "out")
    torch.save(values | {"diffusion_model.label_emb.9.weight": values[next(iter(values))]}, wrong)
    with pytest.raises(UserError, match="Of its 4 weights this U-Net has 3"):
        fooocus.bake(base, head, wrong, tmp_path / "out")
    torch.save({k: (v[0][:1], v[1], v[2]) for k, v in values.items()}, wrong)
    with pytest.raises(UserError, match="and this U-Net's"):
        fooocus.bake(base, head, wrong, tmp_path / "out")
    wrong.write_bytes(b"<html>")
    with pytest.raises(UserError, match="no file of torch's tensors"):
        fooocus.bake(base, head, wrong, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be loaded"):
        fooocus.bake(tmp_path, head, patch, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_inpaints_already_is_refused(tmp_path: Path) -> None:
    tiny.inpainting(tmp_path / "base", family="sd", channels=9)
    with pytest.raises(UserError, match="takes 9 channels, and inpaints already"):
        fooocus.bake(tmp_path / "base", Path("head"), Path("patch"), tmp_path / "out")


def test_a_head_of_another_checkpoint_in_the_folder_is_refused(base: Path, tmp_path: Path) -> None:
    head, patch = published(base, tmp_path)
    fooocus.bake(base, head, patch, tmp_path / "out")
    save_file({"head": torch.randn(3, 5, 3, 3)}, tmp_path / "out" / HEAD)
    with pytest.raises(UserError, match="inpaint head"):
        InpaintBackbone.load(Checkpoint(path=str(tmp_path / "out")), device=CPU)
