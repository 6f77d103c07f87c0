"""Proves that the `insitu` command shows refusals as three lines without a traceback, and that its
exit codes can be relied on. Needs the repository's params.yaml."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from insitu.cli import app
from insitu.errors import UserError

SHIPPED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def refusing() -> Iterator[str]:
    """The name of a command that refuses its input."""

    @app.command()
    def refuse() -> None:
        raise UserError("A 512x640 mask was given.", "The image is 512x512.", "Resize the mask.")

    yield "refuse"
    app.registered_commands.pop()


def test_a_refusal_is_three_labelled_lines_on_stderr(refusing: str) -> None:
    result = CliRunner().invoke(app, [refusing])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "given: A 512x640 mask was given.",
        "why:   The image is 512x512.",
        "to do: Resize the mask.",
    ]


def test_other_errors_are_not_disguised() -> None:
    result = CliRunner().invoke(app, ["doctor", "--jsn"])
    assert result.exit_code == 2
    assert "--jsn" in result.stderr


def test_doctor_reports_missing_checkpoints_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no checkpoints below it
    arguments = ["doctor", "--params", str(SHIPPED)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["ok"]
    assert [found["exists"] for found in report["checkpoints"]] == [False] * 6
    assert len(report["problems"]) == 6
    assert set(report["problems"][0]) == {"given", "why", "todo"}

    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "models.flux" in result.stdout
    assert "6 problems" in result.stdout


def test_the_installed_command_shows_invalid_settings(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("seed: 1\nseed: 2\n")
    command = [sys.executable, "-c", "from insitu.cli import app; app()"]
    done = subprocess.run(
        [*command, "doctor", "--json", "--params", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    (problem,) = json.loads(done.stdout)["problems"]
    assert "duplicate key" in problem["why"]


def test_the_command_runs_as_a_module_too() -> None:
    """Steps and jobs start it so; without an entry it would do nothing and succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "insitu.cli", "registry", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "promote" in done.stdout
