"""Proves that what infra/ names exists: commands of the command line, Dagster's settings."""

import re
import shlex
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from typer.testing import CliRunner

from insitu.cli import app

INFRA = Path(__file__).resolve().parents[1] / "infra"


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return loaded


def test_every_service_runs_a_command_that_exists() -> None:
    services = compose()["services"]
    assert set(services) == {"mlflow", "dagster", "serve"}
    for name in ("mlflow", "serve"):
        program, command, *options = shlex.split(services[name]["command"])
        assert program == "insitu"
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert told.exit_code == 0
        flags = [option for option in options if option.startswith("--")]
        assert flags and all(flag in told.output for flag in flags)
    assert "dagster dev" in services["dagster"]["command"]


def test_all_services_reach_the_registry_where_params_yaml_says() -> None:
    services = compose()["services"]
    params = yaml.safe_load((INFRA.parent / "params.yaml").read_text())
    port = re.search(r"127\.0\.0\.1:(\d+)$", params["registry"]["tracking_uri"])
    assert port is not None
    assert f"127.0.0.1:{port[1]}:{port[1]}" in services["mlflow"]["ports"]
    for name in ("dagster", "serve"):
        assert services[name]["network_mode"] == "service:mlflow"
        assert "mlflow" in services[name]["depends_on"]
    # Nothing is reachable from other machines unless somebody decides so.
    assert all(entry.startswith("127.0.0.1:") for entry in services["mlflow"]["ports"])


def test_what_the_services_are_built_from_is_there() -> None:
    services = compose()["services"]
    for service in services.values():
        build = service["build"]
        context = (INFRA / build["context"]).resolve()
        text = (context / build["dockerfile"]).read_text()
        for line in re.findall(r"^COPY (.+) \S+$", text, flags=re.MULTILINE):
            for source in line.split():
                assert (context / source).exists(), source


def test_dagster_takes_its_settings(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((INFRA / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.telemetry_enabled is False
        assert instance.get_settings("concurrency")["pools"] == {"default_limit": 1}
        assert instance.run_monitoring_enabled
