"""The one training loop of the nano recipes: resumable, exactly, from a single file.

Data and noise are functions of the step number alone (the loop also seeds torch with it), so a
run that is killed and started again takes the same steps as one that never stopped.
"""

import ast
import hashlib
import inspect
import json
import math
import os
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from insitu.errors import UserError

from . import state

Step = Callable[[int], Mapping[str, Tensor]]
RUNNING = 0.98  # decay of the losses' running means, per step


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a call to `fit` left behind; the modules themselves hold the last weights.

    Attributes:
        finished: False when `max_seconds` ended the run before its last step.
        step: steps taken in all, over every resumed run.
        seconds: training time in all, over every resumed run.
        losses: running mean of each loss term.
    """

    finished: bool
    step: int
    seconds: float
    losses: dict[str, float]
    averages: dict[str, dict[str, Tensor]] = field(repr=False)

    def ema_state(self, name: str) -> dict[str, Tensor]:
        """Return module `name`'s averaged weights, as a state dict; KeyError without EMA."""
        return self.averages[name]


def code_digest(*objects: Any) -> str:
    """Digest of modules', classes' or functions' code; comments and docstrings do not count.

    For fingerprints: a checkpoint or corpus made by other code is stale.
    """
    total = hashlib.sha256()
    for each in objects:
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                ast.get_docstring(node, clean=False) is not None
            ):
                node.body = node.body[1:]
        total.update(ast.dump(tree).encode())
    return total.hexdigest()[:16]


def seconds_allowed() -> float | None:
    """How long one call may train, from NANO_MAX_SECONDS; None = until the last step."""
    limit = os.environ.get("NANO_MAX_SECONDS")
    return float(limit) if limit else None


def trapezoid(steps: int, warmup: int, cooldown: int) -> Callable[[int], float]:
    """Learning-rate multiplier: linear up over `warmup` steps, flat, linear to 0 at the end."""

    def multiplier(step: int) -> float:
        up = (step + 1) / max(warmup, 1)
        down = (steps - step) / max(cooldown, 1)
        return max(0.0, min(1.0, up, down))

    return multiplier


def fit(
    *,
    modules: dict[str, nn.Module],
    optimizers: list[Optimizer],
    step: Step,
    steps: int,
    work: Path,
    schedule: Callable[[int], float],
    fingerprint: Mapping[str, Any],
    ema: float | None = None,
    clip_norm: float | None = 1.0,
    save_s: float = 120.0,
    log_every: int = 100,
    max_seconds: float | None = None,
    samples_per_step: int | None = None,
    threads: int | None = None,
) -> FitResult:
    """Train `modules` for `steps` steps, continuing from `work` if a checkpoint is there.

    Args:
        modules: everything that learns or is saved, by name.
        optimizers: their parameter groups' `lr` is the base that `schedule` multiplies.
        step: maps the step number to named scalar loss terms; "loss" is differentiated if
            present, else their sum.
        work: folder of the checkpoint (`checkpoint.safetensors`) and the log (`log.jsonl`).
        fingerprint: JSON settings that the weights depend on. A checkpoint with others is
            refused. Entries "steps" and "phases" are not compared: more of them extend a run.
        ema: decay of the weights' average, warmed up as (1 + n) / (10 + n); None for none.
        clip_norm: largest gradient norm over all modules; None for no clipping.
        save_s: seconds between checkpoints.
        max_seconds: end with a checkpoint after this long; `finished` is then False.
        samples_per_step: for the printed rate only.
        threads: torch's threads; None keeps OMP_NUM_THREADS' choice.

    Raises:
        UserError: the checkpoint is of other settings or beyond `steps`, or a loss or gradient
            is not finite (the last checkpoint stays).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    run = _Run(modules, optimizers, ema, fingerprint, work)
    run.resume(steps)
    parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    started = saved = logged = time.monotonic()
    logged_step, before = run.step, run.seconds
    while run.step < steps:
        now = time.monotonic()
        if max_seconds is not None and now - started >= max_seconds:
            break
        if now - saved >= save_s:
            run.save(steps)
            saved = now
        run.set_lr(schedule(run.step))
        run.take(step, parameters, clip_norm)
        now = time.monotonic()
        run.seconds = before + now - started
        if run.step % log_every == 0 or run.step == steps:
            taken = max(run.step - logged_step, 1)
            run.log(steps, (now - logged) / taken, samples_per_step)
            logged, logged_step = now, run.step
    if run.step > run.saved_step:
        run.save(steps)
    return FitResult(
        finished=run.step >= steps,
        step=run.step,
        seconds=run.seconds,
        losses=dict(run.losses),
        averages=run.average.states() if run.average is not None else {},
    )


class _Run:
    """The state of one run: modules, optimizers, averages, counters."""

    def __init__(
        self,
        modules: dict[str, nn.Module],
        optimizers: list[Optimizer],
        ema: float | None,
        fingerprint: Mapping[str, Any],
        work: Path,
    ) -> None:
        self.modules, self.optimizers, self.work = modules, optimizers, work
        # Through JSON, so that tuples and lists compare equal to what a checkpoint holds.
        self.fingerprint = json.loads(json.dumps(dict(fingerprint)))
        self.average = state.Average(modules, ema) if ema is not None else None
        self.base_lr = [[g["lr"] for g in o.param_groups] for o in optimizers]
        self.step, self.saved_step, self.seconds = 0, -1, 0.0
        self.losses: dict[str, float] = {}

    def set_lr(self, multiplier: float) -> None:
        for optimizer, bases in zip(self.optimizers, self.base_lr, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * multiplier

    def take(self, step: Step, parameters: list[nn.Parameter], clip_norm: float | None) -> None:
        """Take one optimizer step and count it."""
        torch.manual_seed(self.step)  # dropout and the like, too, follow the step number
        terms = step(self.step)
        loss = terms["loss"] if "loss" in terms else torch.stack(list(terms.values())).sum()
        self._check_finite("loss", loss.item())
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        bound = math.inf if clip_norm is None else clip_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, bound, foreach=True)
        self._check_finite("gradient's norm", norm.item())
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        for name, term in terms.items():
            value = term.item()
            self.losses[name] = RUNNING * self.losses.get(name, value) + (1 - RUNNING) * value

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"The {what} is {value} at step {self.step}.",
                "Training has diverged, and no later step can repair the weights.",
                f"Lower the learning rate; the last good state stays in {self.work.name}/.",
            )

    def log(self, steps: int, step_s: float, samples_per_step: int | None) -> None:
        eta_s = (steps - self.step) * step_s
        rate = samples_per_step / step_s if samples_per_step and step_s > 0 else None
        shown = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        speed = f"  {rate:.0f} samples/s" if rate else ""
        print(f"{self.step}/{steps}  {shown}{speed}  {eta_s / 60:.1f} min left", flush=True)
        line = {"step": self.step, "seconds": round(self.seconds, 1), **self.losses}
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def save(self, steps: int) -> None:
        header = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "steps": steps,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        state.save(self.work, header, self.modules, self.optimizers, self.average)
        self.saved_step = self.step

    def resume(self, steps: int) -> None:
        """Load the checkpoint, if there is one."""
        header = state.read_header(self.work)
        if header is None:
            return
        _refuse_other_settings(header["fingerprint"], self.fingerprint, self.work)
        if header["step"] > steps:
            raise UserError(
                f"{steps} steps were asked for, but {self.work.name}/ is at step {header['step']}.",
                "A run cannot be shortened after it went further.",
                "Ask for more steps, or delete the work folder to start over.",
            )
        state.load(self.work, self.modules, self.optimizers, self.average)
        self.step = self.saved_step = header["step"]
        self.seconds, self.losses = header["seconds"], header["losses"]
        print(f"resumed at step {self.step}", flush=True)


def _refuse_other_settings(old: dict[str, Any], new: dict[str, Any], work: Path) -> None:
    keys = (old.keys() | new.keys()) - {"steps", "phases"}
    differing = sorted(k for k in keys if old.get(k) != new.get(k))
    if differing:
        listed = ", ".join(f"{k}: {old.get(k)} then, {new.get(k)} now" for k in differing)
        raise UserError(
            f"The checkpoint in {work.name}/ was made with other settings ({listed}).",
            "Continuing it would mix two different trainings.",
            "Restore the settings, or delete the work folder to start over.",
        )
