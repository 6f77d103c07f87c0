"""Proves that a subject's training is one MLflow run with one history, however often interrupted,
under one parent; that its end is told, the machine watched, GPUs included, and a server that goes
away outlived.

Needs MLflow with a SQLite file, and for one test a tiny random checkpoint. In place of NVIDIA's
driver library stands one of the same functions; pynvml and MLflow above it are the real ones.
"""

import functools
import threading
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest
from lightning.pytorch.loggers.logger import Logger
from mlflow.exceptions import MlflowException

from insitu.methods import Request, find
from insitu.methods.dreammix.method import DreamMix
from insitu.registry.store import Store
from insitu.training.encoding import Encoded
from insitu.training.fit import fit
from insitu.training.recipe import Devices, Watch
from insitu.training.run_logger import RunLogger, parent_run
from tests import mlflow_file
from tests.training.runs import FACTS, RECIPE, SETTINGS, base, encoded, load
from tests.training.runs import request as asked

__all__ = ["base", "encoded"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.connect(mlflow_file.make(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture(autouse=True)
def _seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not looked at, unless a test asks for it."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1000")


def history(store: Store, run_id: str, key: str) -> dict[int, float]:
    """Values by step, each step once."""
    found = store.client.get_metric_history(run_id, key)
    steps = [metric.step for metric in found]
    assert len(steps) == len(set(steps)), f"{key} has steps twice: {sorted(steps)}"
    return {metric.step: metric.value for metric in found}


def log(logger: RunLogger, steps: range, factor: float = 1.0) -> None:
    """As Lightning does: it counts from 0, and asks to save whenever it has logged."""
    for step in steps:
        logger.log_metrics({"loss": factor * step, "epoch": 0}, step)
        logger.save()


interrupted = functools.partial(pytest.raises, KeyboardInterrupt)


def status(store: Store, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


def test_metrics_go_in_batches_and_before_a_checkpoint_counts(store: Store, tmp_path: Path) -> None:
    clock = Clock()
    logger = RunLogger(store, "a", clock=clock)
    run_id = logger.open(tmp_path)
    log(logger, range(5))
    assert history(store, run_id, "loss") == {}
    clock.now += 10
    log(logger, range(5, 6))
    assert list(history(store, run_id, "loss")) == [1, 2, 3, 4, 5, 6]
    log(logger, range(6, 8))
    assert len(history(store, run_id, "loss")) == 6
    logger.before_checkpoint()
    assert len(history(store, run_id, "loss")) == 8
    log(logger, range(8, 10))  # the checkpoint's own step at once, the next one later
    assert len(history(store, run_id, "loss")) == 9
    log(logger, range(10, 410))
    assert len(history(store, run_id, "loss")) == 409
    assert set(store.client.get_run(run_id).data.metrics) == {"loss"}


def test_a_continued_run_has_each_step_once(store: Store, tmp_path: Path) -> None:
    with interrupted(), RunLogger(store, "mug", {"subject": "mug"}).running(tmp_path) as first:
        torn = RunLogger(store, "mug", run_id=first)  # as another process has it
        log(torn, range(8))
        torn.finalize("failed")
        raise KeyboardInterrupt
    assert status(store, first) == "KILLED"
    logger = RunLogger(store, "mug", {"subject": "mug", "again": "yes"})
    with logger.running(tmp_path) as again:
        assert again == first and status(store, first) == "RUNNING"
        log(logger, range(5, 12), factor=10.0)
    assert status(store, first) == "FINISHED"
    values = [*(float(step) for step in range(8)), *(10.0 * step for step in range(8, 12))]
    assert history(store, first, "loss") == dict(enumerate(values, start=1))
    assert store.client.get_run(first).data.tags["again"] == "yes"
    with pytest.raises(ValueError, match="a fault"), logger.running(tmp_path):
        raise ValueError("a fault")
    assert status(store, first) == "FAILED"


def test_subjects_runs_stand_under_one_parent(store: Store, tmp_path: Path) -> None:
    tags = {"stage": "adapters", "setup": "s" * 64}
    parents, children = [], []
    for name in ("mug", "cat"):
        (tmp_path / name).mkdir()
        with parent_run(store, "adapters", tags) as parent:
            parents.append(parent)
            assert status(store, parent) == "RUNNING"
            children.append(RunLogger(store, name, parent=parent).open(tmp_path / name))
        assert status(store, parent) == "FINISHED"
    assert parents[0] == parents[1]
    with parent_run(store, "adapters", tags | {"setup": "t" * 64}) as other:
        assert other != parent
    experiment = store.client.get_experiment_by_name("insitu")
    assert experiment is not None
    # The query by which MLflow's page nests runs.
    query = f"tags.mlflow.parentRunId = '{parent}'"
    found = store.client.search_runs([experiment.experiment_id], query)
    assert {run.info.run_id for run in found} == set(children)


def watchers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "SystemMetricsMonitor"]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_machine_is_watched_while_it_runs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    key = "system/cpu_utilization_percentage"
    seen: list[dict[int, float]] = []
    for _ in range(2):  # continued, it goes on where it was
        try:
            with RunLogger(store, "watched").running(tmp_path) as run_id:
                assert len(watchers()) == 1
                deadline = time.monotonic() + 20
                before = len(seen[-1]) if seen else 0
                while len(history(store, run_id, key)) < before + 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        assert watchers() == []
        seen.append(history(store, run_id, key))
    assert sorted(seen[1]) == list(range(len(seen[1]))) and len(seen[1]) > len(seen[0])
    assert "system/system_memory_usage_percentage" in store.client.get_run(run_id).data.metrics


class Driver:
    """libnvidia-ml.so.1 of a machine with one GPU, in what is asked of it; 0 is success."""

    def __init__(self, load: int = pynvml.NVML_SUCCESS) -> None:
        self.load = load

    def nvmlInitWithFlags(self, flags: int) -> int:
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        return self._set(count, "value", 1)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        return pynvml.NVML_SUCCESS if index.value == 0 else pynvml.NVML_ERROR_INVALID_ARGUMENT

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        self._set(memory, "total", 80 * 10**9)
        return self._set(memory, "used", 20 * 10**9)

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        self._set(rates, "gpu", 75)
        return self.load

    def nvmlDeviceGetPowerUsage(self, handle: Any, milliwatts: Any) -> int:
        return self._set(milliwatts, "value", 350_000)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, milliwatts: Any) -> int:
        return self._set(milliwatts, "value", 700_000)

    def _set(self, reference: Any, name: str, value: int) -> int:
        setattr(reference._obj, name, value)
        return pynvml.NVML_SUCCESS


def install(driver: Driver | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system looks for the driver's library; None = there is none."""

    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(pynvml, "CDLL", load)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def watch(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the server knows of GPUs after three looks at the machine."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with RunLogger(store, "watched").running(folder) as run_id:
        deadline = time.monotonic() + 20
        while len(history(store, run_id, "system/cpu_utilization_percentage")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    known = store.client.get_run(run_id).data.metrics
    return {key.removeprefix("system/"): v for key, v in known.items() if "gpu" in key}


def test_gpus_are_watched_where_a_driver_tells(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Driver(), monkeypatch)
    assert watch(store, tmp_path, monkeypatch) == {
        "gpu_0_memory_usage_percentage": 25.0, "gpu_0_memory_usage_megabytes": 20_000.0,
        "gpu_0_utilization_percentage": 75.0, "gpu_0_power_usage_watts": 350.0,
        "gpu_0_power_usage_percentage": 50.0,
    }  # fmt: skip


def test_a_machine_without_a_gpu_is_not_warned_of(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    install(None, monkeypatch)
    assert watch(store, tmp_path, monkeypatch) == {}
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_what_a_gpu_cannot_tell_is_said_once(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A GPU in MIG mode, which has no load of its own."""
    install(Driver(pynvml.NVML_ERROR_NOT_SUPPORTED), monkeypatch)
    found = watch(store, tmp_path, monkeypatch)
    assert "gpu_0_power_usage_watts" in found and "gpu_0_utilization_percentage" not in found
    assert capfd.readouterr().err.count("collect GPU utilization") == 1


@pytest.mark.gpu
def test_a_gpu_here_is_watched(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch(store, tmp_path, monkeypatch)["gpu_0_memory_usage_megabytes"] > 0


def test_a_server_that_goes_away_gets_everything_later(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    logger = RunLogger(store, "a", clock=clock)
    run_id = logger.open(tmp_path)

    def gone(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "log_batch", gone)
        patch.setattr(store.client, "log_artifact", gone)
        clock.now += 10
        with pytest.warns(UserWarning, match="did not take the metrics.*refused"):
            log(logger, range(3))
        with pytest.warns(UserWarning, match=r"did not take the p\.png"):
            logger.keep_picture(tmp_path / "p.png")
    clock.now += 10
    log(logger, range(3, 4))
    assert list(history(store, run_id, "loss")) == [1, 2, 3, 4]


class Torn(DreamMix):
    """Stops when it paints for the nth time."""

    left = 10**9

    def paint(self, backbone: Any, requests: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("stopped")
        return super().paint(backbone, requests)


def test_a_torn_training_is_one_history(
    base: str,
    encoded: Path,
    store: Store,
    tmp_path: Path,
) -> None:
    """Stopped in the validation of step 10, and again in that of step 20."""

    def run(left: int, logger: Logger) -> None:
        method = Torn(find("dreammix", SETTINGS).settings)
        method.left = left
        requests: list[Request] = [asked()]
        fit(
            method, load(base), Encoded.open(encoded, FACTS), requests, recipe=RECIPE,
            devices=Devices(), watch=Watch(validate=10, save=4, log=1), work=tmp_path,
            logger=logger, score=lambda requests, painted: {"dino": 0.5},
        )  # fmt: skip

    for left in (0, 1, 100):
        logger = RunLogger(store, "torn")
        try:
            with logger.running(tmp_path) as run_id:
                run(left, logger)
        except RuntimeError:
            assert status(store, run_id) == "FAILED"
    assert status(store, run_id) == "FINISHED"
    for key in ("loss", "norm/gradient", "norm/adapter", "norm/update", "lr"):
        assert sorted(history(store, run_id, key)) == list(range(1, 21)), key
    for key in ("validation_loss", "validation_loss/t0.5", "benchmark/dino"):
        assert sorted(history(store, run_id, key)) == [10, 20], key
    pictures = store.client.list_artifacts(run_id, "pictures")
    assert [Path(p.path).name for p in pictures] == ["step-000010.png", "step-000020.png"]
