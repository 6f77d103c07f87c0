"""Proves what a person sees of a training: a line a minute or a bar, with the right time left, also
after a resume, from one process; and that others' notes are off while warnings pass.

Needs no checkpoint: a line of one weight is fitted, and a clock that its steps move.
"""

import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from insitu.training.callbacks import Meter
from insitu.training.progress import DIFFUSERS, LIGHTNING, Bar, Lines, Told, progress, quiet

STEPS, STEP_S, BATCH = 20, 10.0, 4


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line(lightning.LightningModule):
    """Each step takes 10 s of the clock, each validation 100 s."""

    def __init__(self, clock: Clock, stop_at: int = -1) -> None:
        super().__init__()
        self.adapter = torch.nn.Linear(1, 1)
        self.clock, self.stop_at = clock, stop_at

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.global_step == self.stop_at:
            raise RuntimeError("stopped")
        self.clock.now += STEP_S
        loss = self.adapter(batch).square().mean()
        self.log("loss", torch.tensor(0.25))
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.clock.now += 100
        self.log("validation_loss", torch.tensor(0.125))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(
    told: Told, clock: Clock, folder: Path, *, stop_at: int = -1, validate: int = 1000
) -> None:
    data: DataLoader[Any] = DataLoader(torch.ones(STEPS, 1), batch_size=1)
    last = folder / "last.ckpt"
    kept = ModelCheckpoint(
        dirpath=folder, filename="last", every_n_train_steps=5, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[told.meter, told, kept], log_every_n_steps=2,
        num_sanity_val_steps=0, val_check_interval=min(validate, STEPS),
        limit_val_batches=1 if validate <= STEPS else 0, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(
        Line(clock, stop_at), data, data, ckpt_path=str(last) if last.exists() else None,
        weights_only=False,
    )  # fmt: skip


def lines(clock: Clock) -> Lines:
    return Lines(Meter(BATCH, 2, clock), clock)


@pytest.mark.filterwarnings("ignore")
def test_a_line_a_minute_and_one_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with quiet():
        train(lines(clock), clock, tmp_path, validate=10)
    assert capsys.readouterr().out.splitlines() == [
        "step 6/20, loss 0.2500, 0.4 examples/s, 0:02:20 left",
        # The validation's 100 s are in the time that a step takes.
        "step 11/20, loss 0.2500, validation 0.1250, 0.4 examples/s, 0:02:52 left",
        "step 17/20, loss 0.2500, validation 0.1250, 0.4 examples/s, 0:00:48 left",
        "step 20/20, loss 0.2500, validation 0.1250, 0.4 examples/s, 0:00:00 left",
    ]


@pytest.mark.filterwarnings("ignore")
def test_after_a_resume_the_time_left_is_by_this_processs_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with quiet():
        with pytest.raises(RuntimeError, match="stopped"):
            train(lines(clock), clock, tmp_path, stop_at=7)
        clock.now += 5000
        capsys.readouterr()
        train(lines(clock), clock, tmp_path)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "continues after step 5/20"
    assert told[1] == "step 11/20, loss 0.2500, 0.4 examples/s, 0:01:30 left"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop_at", [-1, 13])
def test_a_bar_shows_the_same_and_ends_with_the_training(tmp_path: Path, stop_at: int) -> None:
    clock, shown = Clock(), io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    bar = Bar(Meter(BATCH, 2, clock), clock, console=console)
    with quiet():
        if stop_at < 0:
            train(bar, clock, tmp_path)
        else:
            with pytest.raises(RuntimeError, match="stopped"):
                train(bar, clock, tmp_path, stop_at=stop_at)
    end = "step 20/20" if stop_at < 0 else "step 13/20"
    left = "0:00:00 left" if stop_at < 0 else "0:01:10 left"
    final = shown.getvalue().split("\r")[-1]
    assert end in final and f"loss 0.2500, 0.4 examples/s, {left}" in final
    assert shown.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_other_processes_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for first in (True, False):
        clock, console = Clock(), Console(file=io.StringIO(), force_terminal=True)
        for told in (lines(clock), Bar(Meter(BATCH, 2), clock, console=console)):
            trainer: Any = SimpleNamespace(
                is_global_zero=first, global_step=5, max_steps=6, callback_metrics={}
            )
            told.on_train_start(trainer, None)
            trainer.global_step = 6
            told.on_train_batch_end(trainer, None, None, None, 0)
            told.on_train_end(trainer, None)
        assert bool(capsys.readouterr().out) == first
        assert bool(console.file.getvalue()) == first  # type: ignore[attr-defined]


def test_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, kind in ((True, Bar), (False, Lines)):
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda t=terminal: t))
        assert type(progress(Meter(BATCH, 2))) is kind


@pytest.mark.filterwarnings("ignore")
def test_notes_are_off_and_warnings_pass(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes, models = logging.getLogger(LIGHTNING[0]), logging.getLogger(DIFFUSERS)
    empty = "There are modules in X that should be kept in float32: []. Casting"

    def run() -> list[str]:
        caplog.clear()
        clock = Clock()
        train(lines(clock), clock, tmp_path / str(len(list(tmp_path.iterdir()))))
        notes.warning("a real one")
        models.warning(empty)
        models.warning(empty.replace("[]", "['wo']"))
        return [record.getMessage() for record in caplog.records]

    # Other tests may have silenced diffusers.
    with caplog.at_level(logging.INFO, LIGHTNING[0]), caplog.at_level(logging.INFO, DIFFUSERS):
        notes.addHandler(caplog.handler)
        models.addHandler(caplog.handler)
        loud = run()
        assert any("`Trainer.fit` stopped" in said for said in loud) and empty in loud
        assert any("GPU available" in said for said in loud)
        with quiet():
            heard = run()
        assert list(dict.fromkeys(heard)) == ["a real one", empty.replace("[]", "['wo']")]
        assert len(run()) >= len(loud)  # and on again
        notes.removeHandler(caplog.handler)
        models.removeHandler(caplog.handler)
