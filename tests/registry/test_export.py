"""A subject's adapter in other programs' files.

Proves that diffusers predicts the same from both forms, and that kohya's names are the published
ones. Needs the nano inpainting checkpoint.
"""

import hashlib
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from insitu.backbones.unet import InpaintBackbone
from insitu.cli import app
from insitu.methods import find
from insitu.methods.dreammix import DreamMix, Settings
from insitu.params import Checkpoint
from insitu.registry.package import CARD, WEIGHTS, Base, Card

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
SETTINGS = Settings(
    rank=4, targets=("to_k", "to_v", "to_out.0"), inside=1.5, outside=0.7, beta=0.4, local=1.0,
    enlarge=0.0, background="original", substitute="tokens", scheduler="own", steps=2,
    guidance_scale=1.0, rescale=0.0, context=0.3,
)  # fmt: skip
PUBLISHED = re.compile(
    r"lora_unet_(down_blocks|up_blocks|mid_block)_[a-z0-9_]+_attn[12]_to_(k|v|out_0)"
    r"\.(lora_down\.weight|lora_up\.weight|alpha)"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "mug-1"
    folder.mkdir()
    backbone = InpaintBackbone.load(Checkpoint(path=str(NANO)), device=torch.device("cpu"))
    method = DreamMix(SETTINGS)
    method.attach(backbone)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: 0.2 * torch.randn(value.shape, generator=generator)
        for name, value in method.state(backbone).items()
    }
    save_file(weights, folder / WEIGHTS)
    card = Card(
        method="dreammix", subject="mug-1", class_word="mug", identifier="sks",
        base=Base(path="nano", revision=None, weights_digest=backbone.digest),
        data_digest="b" * 64, settings={"method": asdict(SETTINGS)}, seed=0,
        weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    )  # fmt: skip
    (folder / CARD).write_text(card.text())
    assert isinstance(find("dreammix", asdict(SETTINGS)), DreamMix)
    return folder


def export(package: Path, out: Path, form: str) -> Path:
    done = CliRunner().invoke(app, ["export", str(package), str(out), "--form", form])
    assert done.exit_code == 0, done.output
    return out


def predicted(path: Path) -> torch.Tensor:
    """What the U-Net says with the file loaded by diffusers."""
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(NANO, dtype=torch.float32)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    torch.manual_seed(0)
    given, context = torch.randn(1, 9, 16, 16), torch.randn(1, 8, 192)
    told = {"text_embeds": torch.randn(1, 128), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        seen: torch.Tensor = pipeline.unet(
            given, 500, encoder_hidden_states=context, added_cond_kwargs=told
        ).sample
    return seen


def test_both_forms_are_the_same_adapter(package: Path, tmp_path: Path) -> None:
    plain = export(package, tmp_path / "a" / "plain.safetensors", "diffusers")
    kohya = export(package, tmp_path / "b" / "kohya.safetensors", "kohya")
    assert load_file(plain).keys() == load_file(package / WEIGHTS).keys()
    torch.testing.assert_close(predicted(kohya), predicted(plain))


def test_kohyas_names_are_the_published_ones(package: Path, tmp_path: Path) -> None:
    names = load_file(export(package, tmp_path / "kohya.safetensors", "kohya"))
    assert names and all(PUBLISHED.fullmatch(name) for name in names)
    layers = {name.split(".")[0] for name in names}
    assert len(names) == 3 * len(layers) == 3 * len(load_file(package / WEIGHTS)) // 2
    assert all(float(names[f"{layer}.alpha"]) == SETTINGS.rank for layer in layers)


def test_what_is_no_lora_is_refused(package: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(package), str(tmp_path / "x"), "--form", "onnx"])
    assert done.exit_code == 2 and "diffusers, kohya" in done.output
