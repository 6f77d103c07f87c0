"""The report for a reader."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from insitu.doctor.report import CheckpointReport, Report


def render(report: Report, console: Console) -> None:
    """Print versions, device, a table of checkpoints, and each problem in its three parts."""
    versions = [("python", report.python), *report.libraries.items()]
    console.print("  ".join(f"{name} {version or '-'}" for name, version in versions))
    device = report.device
    console.print(
        f"device: {device.type} ({escape(device.name)}, {device.cores} cores),"
        f" asked for: {device.requested}"
    )
    if report.checkpoints:
        console.print(_table(report.checkpoints))
    for problem in report.problems:
        console.print(f"[red]given:[/] {escape(problem.given)}")
        console.print(f"[red]why:[/]   {escape(problem.why)}")
        console.print(f"[red]to do:[/] {escape(problem.todo)}\n")
    count = len(report.problems)
    verdict = f"[red]{count} problem{'s' if count > 1 else ''}[/]" if count else "[green]ok[/]"
    console.print(f"{escape(report.params_file)}: {verdict}")


def _table(checkpoints: tuple[CheckpointReport, ...]) -> Table:
    table = Table("checkpoint", "class", "MB", "digest", "headline (95% interval)")
    for found in checkpoints:
        table.add_row(
            f"{escape(found.name)}\n[dim]{escape(found.path)}[/]",
            escape(found.model_class or "-"),
            "-" if found.weights_bytes is None else f"{found.weights_bytes / 1e6:.1f}",
            (found.weights_digest or "-")[:12],
            escape(_headline(found)),
        )
    return table


def _headline(found: CheckpointReport) -> str:
    if not found.exists:
        return "missing"
    if found.headline is None:
        return "no headline in its card" if found.has_card else "no card"
    low, high = found.headline.interval
    return f"{found.headline.name} {found.headline.value:.3g} ({low:.3g}, {high:.3g})"
