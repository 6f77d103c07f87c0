"""How far it is, for people: a bar in a terminal, a line a minute elsewhere; others' notes off."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from insitu.training.callbacks import Meter

EVERY_S = 60.0
LIGHTNING = ("lightning.pytorch", "lightning.fabric")
"""Say at level INFO what hardware there is, what else could be installed, and why it stopped."""
DIFFUSERS = "diffusers.models.modeling_utils"


def progress(meter: Meter) -> "Told":
    """What fits where the output goes."""
    return Bar(meter) if sys.stderr.isatty() else Lines(meter)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's notes and diffusers' empty warning; other warnings pass."""
    notes, models = [logging.getLogger(name) for name in LIGHTNING], logging.getLogger(DIFFUSERS)
    levels = [logger.level for logger in notes]
    for logger in notes:
        logger.setLevel(logging.WARNING)
    models.addFilter(_names_a_module)
    try:
        yield
    finally:
        for logger, level in zip(notes, levels, strict=True):
            logger.setLevel(level)
        models.removeFilter(_names_a_module)


def _names_a_module(record: logging.LogRecord) -> bool:
    """diffusers warns that no module should be kept in float32, and lists none."""
    return "should be kept in float32: []" not in record.getMessage()


class Told(lightning.Callback):
    """Losses, speed and the time left; the latter from the steps of this process alone.

    Args:
        meter: knows the speed.
        clock: seconds, of any origin.
    """

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter, self.clock = meter, clock
        self._began, self._first = 0.0, 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._began, self._first = self.clock(), trainer.global_step

    def facts(self, trainer: lightning.Trainer) -> list[str]:
        """`loss 0.0312`, `validation 0.0405`, `7.5 examples/s`, `0:01:20 left`; what is known."""
        told = []
        for name, label in (("loss", "loss"), ("validation_loss", "validation")):
            if name in trainer.callback_metrics:
                told.append(f"{label} {float(trainer.callback_metrics[name]):.4f}")
        if self.meter.rate > 0:
            told.append(f"{self.meter.rate:.1f} examples/s")
        done, steps = trainer.global_step - self._first, trainer.max_steps
        if done > 0:
            left = (self.clock() - self._began) / done * (steps - trainer.global_step)
            told.append(f"{timedelta(seconds=round(left))} left")
        return told


class Bar(Told):
    """A bar that moves, with the facts behind it."""

    def __init__(
        self,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
        *,
        console: Console | None = None,
    ) -> None:
        """`console` = where it is shown, standard error unless told."""
        super().__init__(meter, clock)
        self.console = console
        self._shown: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        super().on_train_start(trainer, module)
        if not trainer.is_global_zero:
            return
        self._shown = Progress(
            TextColumn("step {task.completed}/{task.total}"), BarColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console or Console(stderr=True), refresh_per_second=4,
        )  # fmt: skip
        self._shown.add_task("", total=trainer.max_steps, completed=self._first, facts="")
        self._shown.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if self._shown is not None:
            facts = ", ".join(self.facts(trainer))
            (task,) = self._shown.task_ids
            self._shown.update(task, completed=trainer.global_step, facts=facts)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, module: Any, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


class Lines(Told):
    """A line a minute, and one at the end."""

    def __init__(
        self,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
        *,
        every_s: float = EVERY_S,
    ) -> None:
        super().__init__(meter, clock)
        self.every_s = every_s
        self._said, self._step = 0.0, 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        super().on_train_start(trainer, module)
        self._said, self._step = self._began, self._first
        if self._first > 0 and trainer.is_global_zero:
            print(f"continues after step {self._first}/{trainer.max_steps}", flush=True)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if not trainer.is_global_zero or trainer.global_step == self._step:
            return  # another process tells, or the step has more turns
        self._step = trainer.global_step
        now, last = self.clock(), trainer.global_step == trainer.max_steps
        if last or now - self._said >= self.every_s:
            self._said = now
            told = [f"step {trainer.global_step}/{trainer.max_steps}", *self.facts(trainer)]
            print(", ".join(told), flush=True)
