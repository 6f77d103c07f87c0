"""Proves that the nano image prompt loads in plain diffusers and sets the style as its card says.

Needs models/nano/{flux,clip,image-prompt} and the world; half a minute of sampling.
"""

import json
from pathlib import Path

import torch
from diffusers import FluxPipeline

from insitu.digest import file_digest, weights_digest
from recipe.image_prompt import base, measure

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
FOLDER = NANO / "image-prompt"


def test_it_loads_in_plain_diffusers() -> None:
    pipeline = FluxPipeline.from_pretrained(NANO / "flux", dtype=torch.float32)
    pipeline.load_ip_adapter(
        str(FOLDER), weight_name="ip_adapter.safetensors",
        image_encoder_pretrained_model_name_or_path=str(FOLDER / "image_encoder"),
    )  # fmt: skip
    assert pipeline.transformer.encoder_hid_proj is not None
    told = json.loads((FOLDER / "card.json").read_text())
    assert told["weights_digest"] == weights_digest(FOLDER)
    encoder = FOLDER / "image_encoder" / "model.safetensors"
    assert file_digest(encoder) == file_digest(NANO / "clip" / "model.safetensors")


def test_the_card_is_reproduced_on_a_small_sample() -> None:
    told = json.loads((FOLDER / "card.json").read_text())["figures"]
    assert told["style"]["low"] > told["style without the picture"]["high"]
    found, _ = measure(base(), 24)
    for name, figure in found.items():
        assert figure.low <= told[name]["high"] and told[name]["low"] <= figure.high, name
