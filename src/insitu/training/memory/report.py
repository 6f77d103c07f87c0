"""A plan in words: one line, a table, JSON, or a refusal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from insitu.errors import UserError
from insitu.training.memory.plan import Advice, Plan


def render(plan: Plan, memory: int, advice: Advice | None, console: Console) -> None:
    """A table by kind, what there is, and what to change if that is not enough."""
    table = Table("kind", *plan.phases)
    for kind in plan.kinds:
        table.add_row(kind, *(gib(own.get(kind, 0)) for own in plan.phases.values()))
    table.add_section()
    table.add_row("all", *(gib(sum(own.values())) for own in plan.phases.values()))
    console.print(table)
    fits = plan.peak <= memory
    console.print(f"{gib(plan.peak)} on each device, {gib(memory)} there: {_fits(fits)}")
    if not fits:
        console.print(_todo(advice), soft_wrap=True)


def facts(plan: Plan, memory: int, advice: Advice | None) -> dict[str, Any]:
    """Bytes by phase and kind, for JSON."""
    cheaper = None
    if advice is not None:
        cheaper = {"changes": dict(advice.changes), "peak": advice.plan.peak}
    return {
        "phases": {name: dict(own) for name, own in plan.phases.items()}, "peak": plan.peak,
        "memory": memory, "fits": plan.peak <= memory, "cheaper": cheaper,
    }  # fmt: skip


def _fits(fits: bool) -> str:
    return "it fits" if fits else "it does not fit"


def _todo(advice: Advice | None) -> str:
    if advice is None:
        return "No cheaper setting fits either. Use a device with more memory, or a smaller base."
    return f"In params.yaml set {advice.words()}: {gib(advice.plan.peak)}."


def short(plan: Plan, memory: int) -> str:
    """One line on a plan: the peak by kind, and what there is."""
    kinds = sorted(plan.phases[plan.phase].items(), key=lambda kind: -kind[1])
    parts = ", ".join(f"{name} {gib(size)}" for name, size in kinds[:4])
    return (
        f"memory: {gib(plan.peak)} at the peak, {plan.phase} ({parts});"
        f" {gib(memory)} there"
    )  # fmt: skip


def refusal(plan: Plan, memory: int, advice: Advice | None) -> UserError:
    """The three parts, naming what would fit."""
    return UserError(
        f"A run was asked for that takes {gib(plan.peak)} on each device, at the peak of"
        f" {plan.phase}.",
        f"{gib(memory)} is there.",
        f"{_todo(advice)} Or set tune.devices.force: true to try all the same.",
    )


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
