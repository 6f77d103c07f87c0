"""Proves that the training loop resumes exactly, refuses other settings, and stops on NaN.

Needs torch only; a run is a linear model and takes milliseconds.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from insitu.errors import UserError
from recipe.loop import FitResult, code_digest, fit, trapezoid
from recipe.muon import Muon


class Toy:
    """A small net with dropout and two optimizers, as the recipes have."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2)
        )
        matrices = [p for p in self.net.parameters() if p.ndim == 2]
        rest = [p for p in self.net.parameters() if p.ndim != 2]
        self.optimizers = [Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.01)]
        self.poisoned_step: int | None = None

    def step(self, i: int) -> dict[str, Tensor]:
        x = torch.randn(16, 4)  # follows the loop's seeding by step
        error = (self.net(x) - x[:, :2]).square().mean()
        if i == self.poisoned_step:
            error = error * torch.nan
        return {"error": error, "decay": 1e-3 * self.net[0].weight.square().sum()}

    def fit(self, work: Path, steps: int = 40, **options: object) -> FitResult:
        settings: dict[str, object] = {
            "fingerprint": {"lr": (0.02, 0.01), "steps": steps},
            "schedule": trapezoid(60, 5, 10),
            "ema": 0.9,
        }
        return fit(
            modules={"net": self.net},
            optimizers=self.optimizers,
            step=self.step,
            steps=steps,
            work=work,
            **{**settings, **options},  # type: ignore[arg-type]
        )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_interrupted_run_equals_uninterrupted(tmp_path: Path) -> None:
    whole, cut = Toy(), Toy()
    straight = whole.fit(tmp_path / "a")
    first = cut.fit(tmp_path / "b", steps=17)
    again = Toy()
    resumed = again.fit(tmp_path / "b")
    assert first.finished
    assert resumed.step == straight.step == 40
    assert same(whole.net.state_dict(), again.net.state_dict())
    assert same(straight.ema_state("net"), resumed.ema_state("net"))
    assert resumed.losses == pytest.approx(straight.losses)
    assert not same(whole.net.state_dict(), straight.ema_state("net"))


def test_max_seconds_ends_with_a_checkpoint(tmp_path: Path) -> None:
    result = Toy().fit(tmp_path, max_seconds=0.0)
    assert not result.finished
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert Toy().fit(tmp_path).finished


def test_finished_run_is_not_repeated(tmp_path: Path) -> None:
    Toy().fit(tmp_path)
    toy = Toy()
    toy.poisoned_step = 0
    assert toy.fit(tmp_path).step == 40


def test_refuses_other_settings_and_shortening(tmp_path: Path) -> None:
    Toy().fit(tmp_path)
    with pytest.raises(UserError, match="lr: "):
        Toy().fit(tmp_path, fingerprint={"lr": (0.5, 0.01)})
    with pytest.raises(UserError, match="at step 40"):
        Toy().fit(tmp_path, steps=30)


def test_refuses_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="cannot be read"):
        Toy().fit(tmp_path)


def test_nan_names_the_step_and_keeps_the_last_state(tmp_path: Path) -> None:
    toy = Toy()
    toy.poisoned_step = 9
    with pytest.raises(UserError, match="at step 9"):
        toy.fit(tmp_path, save_s=0.0)
    healthy = Toy()
    healthy.fit(tmp_path, steps=9)
    assert all(v.isfinite().all() for v in healthy.net.state_dict().values())


def test_log_lines_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Toy().fit(tmp_path, log_every=10, samples_per_step=16)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert {"error", "decay", "seconds"} <= lines[0].keys()
    assert "samples/s" in capsys.readouterr().out


def test_trapezoid() -> None:
    multiplier = trapezoid(100, 10, 20)
    assert multiplier(0) == pytest.approx(0.1)
    assert multiplier(50) == 1.0
    assert multiplier(99) == pytest.approx(0.05)
    assert multiplier(100) == 0.0


def test_tied_weights_survive(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    def run(steps: int) -> FitResult:
        torch.manual_seed(1)
        net = Tied()
        return fit(
            modules={"net": net},
            optimizers=[torch.optim.AdamW(net.parameters())],
            step=lambda i: {"loss": net.b(net.a(torch.ones(1, 3))).square().sum()},
            steps=steps,
            work=tmp_path,
            schedule=trapezoid(steps, 1, 1),
            fingerprint={},
            ema=0.99,
        )

    run(3)
    average = run(6).ema_state("net")
    assert torch.equal(average["a.weight"], average["b.weight"])


def test_code_digest_sees_code_and_not_words() -> None:
    def one(x: int) -> int:
        """Add one."""
        return x + 1

    plain = code_digest(one)

    def one(x: int) -> int:  # a comment, and no docstring
        return x + 1

    assert code_digest(one) == plain

    def one(x: int) -> int:
        return x + 2

    assert code_digest(one) != plain
