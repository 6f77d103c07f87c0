"""Proves that a base in bfloat16 is learned on: its adapter is in float32 and brings the loss down
as on the base in float32; and that an offloaded base is refused before it is looked at.

Needs the nano inpainting checkpoint; a tiny random one for the refusal.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from insitu import world
from insitu.backbones.precision import Precision
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.methods import Example, find
from insitu.params import Checkpoint
from insitu.training.data import assemble, noise_of
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import fit
from insitu.training.recipe import Devices
from tests.training.runs import FACTS, RECIPE, SETTINGS, WATCH, base, encoded, load, request

__all__ = ["base", "encoded"]

NANO = Path(__file__).resolve().parents[2] / "models" / "nano" / "sdxl-inpaint"
STEPS = 5


def example() -> Example:
    subject = world.sample_subject(world.rng_for("dtype"), category="mug")
    image = world.portrait(subject, world.rng_for("dtype", 0), 64).image
    mask = np.zeros((64, 64), np.uint8)
    mask[8:56, 8:56] = 255
    return Example(id="a", image=image, mask=mask, prompt="a sks mug", pool="subject")


def losses(dtype: torch.dtype, folder: Path) -> list[float]:
    """Of steps on the nano base in this dtype, all on the same encoded example, noise and time."""
    backbone = InpaintBackbone.load(
        Checkpoint(path=str(NANO)), device=torch.device("cpu"), precision=Precision(dtype=dtype)
    )
    method = find("dreammix", SETTINGS | {"rank": 4})
    encode(method, backbone, [example()], folder / "e", facts=FACTS, root=folder / "work")
    encoded = Encoded.open(folder / "e", FACTS)
    rng = np.random.default_rng(0)
    noise = noise_of(encoded, [0], [rng])
    batch = assemble(encoded, [0], noise, [0.5], {}, [rng], progress=0.0)
    assert batch.told["text.context"].dtype == batch.told["text.pooled"].dtype == dtype
    torch.manual_seed(0)
    adapter = method.attach(backbone)
    optimizer = torch.optim.Adam(adapter.parameters(), 2e-2)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        terms = method.loss(backbone, batch.told, batch.noise, batch.t)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert loss.dtype == torch.float32
    assert {w.dtype for w in method.state(backbone).values()} == {torch.float32}
    return found


def test_it_learns_in_bfloat16_as_in_float32(tmp_path: Path) -> None:
    whole = losses(torch.float32, tmp_path / "float32")
    half = losses(torch.bfloat16, tmp_path / "bfloat16")
    assert half == pytest.approx(whole, rel=0.01)
    fallen = [1 - own[-1] / own[0] for own in (whole, half)]
    assert fallen[0] > 0.01
    assert fallen[1] == pytest.approx(fallen[0], rel=0.2)


def test_an_offloaded_base_is_refused_before_a_step(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    backbone = load(base)
    backbone.precision = replace(backbone.precision, offload="leaf")
    with pytest.raises(UserError, match="Training was asked for with `offload` leaf"):
        fit(
            find("dreammix", SETTINGS), backbone, Encoded.open(encoded, FACTS), [request()],
            recipe=RECIPE, devices=Devices(), watch=WATCH, work=tmp_path,
        )  # fmt: skip
    assert not any(hasattr(module, "lora_A") for module in backbone.unet.modules())
