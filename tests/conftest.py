"""What every test shares: no model hub, repeatable hypothesis runs, GPU tests only where one is,
tiny random checkpoints of the real classes."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.object_store"]

# Set before any test module imports a library that reads it: a test never waits for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

# Other work on the machine must not fail a property by making it slow, and a run repeats itself.
settings.register_profile("insitu", deadline=None, derandomize=True)
settings.load_profile("insitu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where torch finds no CUDA device."""
    gpu_tests = [item for item in items if "gpu" in item.keywords]
    if not gpu_tests:
        return
    import torch  # here, so that a run without such tests does not load it

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model of params.yaml, by its name there; none has a card."""
    from tests import tiny  # here, so that a run without it loads no model library

    return tiny.save(tmp_path_factory.mktemp("checkpoints"))
