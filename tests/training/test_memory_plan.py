"""Proves that a plan for several devices or fewer bits is the sum of what they hold, that the
advice is the first change that fits, and that the command tells both. Needs tiny random
checkpoints.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from insitu.backbones.precision import Precision
from insitu.cli import app
from insitu.errors import UserError
from insitu.training.memory import cheaper, predict
from insitu.training.memory.report import render
from insitu.training.recipe import Devices
from tests.tiny import write_params
from tests.training.planned import GIB, Invented, Keeping, predicted, run


def test_one_device_holds_everything() -> None:
    assert predicted() == {
        "base": 8, "encoders": 3, "adapter": 1, "gradients": 1, "optimizer": 1, "average": 1,
        "activations": 16, "all": 31,
    }  # fmt: skip


def test_two_devices_share_the_batch_and_ddp_adds_buckets() -> None:
    found = predicted(devices=Devices(count=2))
    assert (found["base"], found["activations"], found["buckets"], found["all"]) == (8, 8, 1, 24)


def test_fsdp_divides_what_it_shards_and_gathers_two_blocks() -> None:
    found = predicted(devices=Devices(count=4, strategy="fsdp"))
    assert (found["base"], found["encoders"], found["activations"]) == (2, 3, 4)
    assert found["gathered"] == 2 + 1, "what is in no block, and two blocks"
    assert found["optimizer"] == 0, "a quarter"
    assert found["all"] == 2 + 3 + 3 + 4 + 1


def test_fewer_bits_count_as_stored_and_widened_as_their_library_does() -> None:
    nf4 = predict(Invented(), run(precision=Precision(quantize="nf4", text=True)))  # type: ignore[arg-type]
    own = nf4.phases["training"]
    assert (own["base"], own["encoders"]) == (3 * GIB, GIB + GIB // 2)
    assert own["widened weights"] == GIB // 8
    for recompute, widened in ((False, 6 * GIB), (True, GIB // 2)):
        changed = run(precision=Precision(quantize="int8wo"), recompute=recompute)
        plan = predict(Invented(), changed)  # type: ignore[arg-type]
        assert plan.phases["training"]["widened weights"] == widened
        assert plan.phases["painting"]["widened weights"] == GIB // 8


@pytest.mark.parametrize(
    ("batch", "room_gib", "changes"),
    [
        (4, 26, {"devices.accumulate": 2}),  # 23 GiB, with a tenth to spare
        (4, 25, {"devices.accumulate": 4}),  # 19 GiB; two turns would fit without the tenth
        (4, 17, {"devices.strategy": "fsdp", "devices.count": 4}),  # 13; no other alone fits
        (3, 16, {"devices.accumulate": 3, "base.quantize": "nf4"}),  # 14.1; 3 is not to be shared
        (4, 4, None),  # the encoders alone are 3
    ],
)
def test_the_advice_is_the_first_change_that_fits(
    batch: int, room_gib: int, changes: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insitu.training.memory.plan.require", lambda precision, device: None)
    advice = cheaper(Keeping(), run(batch=batch), room_gib * GIB)  # type: ignore[arg-type]
    if changes is None:
        assert advice is None
    else:
        assert advice is not None and advice.changes == changes
        assert advice.plan.peak <= 0.9 * room_gib * GIB


def test_computing_activations_again_is_advised_first() -> None:
    advice = cheaper(Invented(), run(), 26 * GIB)  # type: ignore[arg-type]
    assert advice is not None and advice.changes == {"devices.recompute": True}
    assert advice.plan.peak == 19 * GIB
    already = cheaper(Invented(), run(recompute=True), 17 * GIB)  # type: ignore[arg-type]
    assert already is None or "devices.recompute" not in already.changes


def test_what_a_device_cannot_do_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(precision: Precision, device: torch.device) -> None:
        if precision.quantize != "none":
            raise UserError("It is quantized.", "Not here.", "Store it whole.")

    monkeypatch.setattr("insitu.training.memory.plan.require", refuse)
    assert cheaper(Invented(), run(batch=3), 16 * GIB) is None  # type: ignore[arg-type]


def test_advice_names_keys_of_the_settings_file() -> None:
    advice = cheaper(Keeping(), run(), 26 * GIB)  # type: ignore[arg-type]
    assert advice is not None and advice.words() == "tune.devices.accumulate: 2"


def test_the_command_plans_without_weights_and_tells_by_its_exit(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    params = tmp_path / "params.yaml"
    write_params(params, checkpoints)
    weights = checkpoints["inpaint"] / "unet" / "diffusion_pytorch_model.safetensors"
    hidden = weights.rename(tmp_path / "hidden")
    try:
        arguments = ["--params", str(params), "--device-memory", "0.001", "--json"]
        result = CliRunner().invoke(app, ["plan", "dreammix", *arguments])
    finally:
        hidden.rename(weights)
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert not told["fits"] and told["memory"] == int(0.001 * GIB)
    assert told["peak"] == max(sum(own.values()) for own in told["phases"].values())
    result = CliRunner().invoke(app, ["plan", "other", "--params", str(params)])
    assert result.exit_code == 2 and "dreammix" in result.stderr


def test_a_plan_is_shown_by_kind_with_what_to_change() -> None:
    plan = predict(Invented(), run())  # type: ignore[arg-type]
    advice = cheaper(Keeping(), run(), 26 * GIB)  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=100)
    render(plan, 26 * GIB, advice, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"activations\W+16.00 GiB\W+1.00 GiB", shown)
    assert re.search(r"all\W+31.00 GiB\W+13.00 GiB", shown)
    assert "it does not fit" in shown and "tune.devices.accumulate: 2: 23.00 GiB" in shown
