"""Proves what `insitu doctor` finds out about settings, device and checkpoints, and that one
problem does not hide another. Needs no model: checkpoints are folders of JSON and bytes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from rich.console import Console
from ruamel.yaml import YAML

from insitu.digest import weights_digest
from insitu.doctor import Report, examine, render

SHIPPED = Path(__file__).parents[1] / "params.yaml"
MODELS = ("flux", "inpaint", "clip", "dino", "detector", "face")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEADLINE = {"name": "accuracy", "value": 0.95, "interval": [0.93, 0.97], "n": 400}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_weights(folder: Path, content: bytes = b"weights") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)


def models(names: Sequence[str] = MODELS) -> dict[str, dict[str, Any]]:
    """As params.yaml names them; FLUX with the sizes that it is used at."""
    found: dict[str, dict[str, Any]] = {name: {"path": f"checkpoints/{name}"} for name in names}
    if "flux" in found:
        found["flux"] |= {"size": 64, "max_sequence_length": 48}
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with valid settings and six checkpoints, each with a class and a card."""
    monkeypatch.chdir(tmp_path)
    content = YAML(typ="safe", pure=True).load(SHIPPED.read_text())
    content["models"] = models()
    YAML().dump(content, tmp_path / "params.yaml")
    for name in MODELS:
        folder = tmp_path / "checkpoints" / name
        write_weights(folder, name.encode())
        write_json(folder / "config.json", {"architectures": ["CLIPModel"]})
        write_json(folder / "card.json", {"headline": HEADLINE})
    return tmp_path


def change(home: Path, **changes: Any) -> None:
    file = home / "params.yaml"
    content = YAML(typ="safe", pure=True).load(file.read_text())
    content.update(changes)
    YAML().dump(content, file)


def look() -> Report:
    return examine(Path("params.yaml"))


def shown(report: Report) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        render(report, console)
    return captured.get()


def test_all_is_well(home: Path) -> None:
    report = look()
    assert report.ok
    assert report.problems == ()
    assert report.libraries["pydantic"]
    assert report.device.cores >= 1
    assert [found.name for found in report.checkpoints] == list(MODELS)
    clip = report.checkpoints[2]
    assert clip.exists
    assert clip.model_class == "CLIPModel"
    assert clip.weights_bytes == len(b"clip")
    assert clip.weights_digest == weights_digest(home / "checkpoints" / "clip")
    assert clip.headline is not None
    assert clip.headline.interval == (0.93, 0.97)
    text = shown(report)
    assert "accuracy 0.95 (0.93, 0.97)" in text
    assert "params.yaml: ok" in text


def test_the_report_is_the_same_each_time_and_reads_back(home: Path) -> None:
    report = look()
    text = report.model_dump_json()
    assert text == look().model_dump_json()
    assert Report.model_validate_json(text) == report


def test_invalid_settings_are_shown_in_three_parts(home: Path) -> None:
    change(home, stps=3)
    report = look()
    assert not report.ok
    assert report.checkpoints == ()
    (problem,) = report.problems
    assert problem.given == "`stps` is set in params.yaml."
    assert problem.why in shown(report)
    assert problem.todo in shown(report)


def test_each_broken_checkpoint_is_a_problem_of_its_own(home: Path) -> None:
    checkpoints = home / "checkpoints"
    change(home, models=models(MODELS[:-1]))
    assert "`models.face` is missing" in look().problems[0].given

    change(home, models={**models(), "face": {"path": "./absent"}})
    (checkpoints / "flux" / "model.safetensors").unlink()
    (checkpoints / "inpaint" / "config.json").write_text("{")
    (checkpoints / "clip" / "config.json").unlink()
    write_json(checkpoints / "dino" / "card.json", {"headline": {"name": "x", "value": "high"}})
    write_json(checkpoints / "detector" / "card.json", [1])
    report = look()
    assert len(report.problems) == 6
    whys = [problem.why for problem in report.problems]
    expected = ("no .safetensors", "not JSON", "names a class", "interval", "object", "no such")
    for why, part in zip(whys, expected, strict=True):
        assert part in why
    # What could be found out is still there.
    assert report.checkpoints[0].model_class == "CLIPModel"
    assert report.checkpoints[1].weights_digest is not None
    assert not report.checkpoints[5].exists
    assert "missing" in shown(report)


def test_a_card_of_other_weights_is_a_problem(home: Path) -> None:
    folder = home / "checkpoints" / "clip"
    card = {"headline": HEADLINE, "weights_digest": weights_digest(folder)}
    write_json(folder / "card.json", card)
    assert look().ok
    write_weights(folder, b"other weights")
    (problem,) = look().problems
    assert "figures are not theirs" in problem.why


def test_a_checkpoint_without_card_says_so(home: Path) -> None:
    (home / "checkpoints" / "clip" / "card.json").unlink()
    write_json(home / "checkpoints" / "dino" / "card.json", {})
    report = look()
    assert report.ok
    assert [report.checkpoints[i].has_card for i in (2, 3)] == [False, True]
    assert "no card" in shown(report)
    assert "no headline in its card" in shown(report)


def test_the_class_of_pipelines_and_of_folders_of_models(home: Path) -> None:
    flux, face = home / "checkpoints" / "flux", home / "checkpoints" / "face"
    write_json(flux / "model_index.json", {"_class_name": "FluxPipeline"})
    (face / "config.json").unlink()
    for part in ("embedder", "landmarks"):
        write_json(face / part / "config.json", {"architectures": ["ViTForImageClassification"]})
    report = look()
    assert report.ok
    assert report.checkpoints[0].model_class == "FluxPipeline"
    assert report.checkpoints[5].model_class == (
        "embedder: ViTForImageClassification, landmarks: ViTForImageClassification"
    )


def test_a_hub_id_is_looked_up_in_the_cache_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    change(home, models={**models(), "clip": {"path": "owner/clip", "revision": COMMIT}})
    (problem,) = look().problems
    assert "not in the hub's cache" in problem.why
    assert f"hf download owner/clip --revision {COMMIT}" in problem.todo

    snapshot = home / "hub" / "models--owner--clip" / "snapshots" / COMMIT
    write_weights(snapshot)
    write_json(snapshot / "config.json", {"architectures": ["CLIPModel"]})
    report = look()
    assert report.ok
    assert report.checkpoints[2].weights_digest == weights_digest(snapshot)


def fake_torch(monkeypatch: pytest.MonkeyPatch, *, cuda: bool) -> None:
    names = SimpleNamespace(is_available=lambda: cuda, get_device_name=lambda index: "H200")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=names))
    monkeypatch.setattr("insitu.doctor.installation._version", lambda library: "2.13.0+cu130")


@pytest.mark.parametrize(
    ("device", "dtype", "cuda", "why"),
    [
        ("auto", "float32", False, ""),
        ("auto", "float16", True, ""),
        ("auto", "float16", False, "float16 arithmetic"),
        ("cuda", "float32", True, ""),
        ("cuda", "float32", False, "finds no CUDA device"),
        ("cpu", "float32", True, ""),
    ],
)
def test_the_device_asked_for_is_there(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: str,
    cuda: bool,
    why: str,
) -> None:
    fake_torch(monkeypatch, cuda=cuda)
    change(home, device=device, dtype=dtype)
    report = look()
    assert report.device.requested == device
    assert report.device.type == ("cuda" if cuda and device != "cpu" else "cpu")
    assert (report.device.name == "H200") == (report.device.type == "cuda")
    assert [why in problem.why for problem in report.problems] == ([True] if why else [])


@pytest.mark.parametrize("cuda", [True, False])
def test_offload_is_a_problem_without_a_gpu(
    home: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool
) -> None:
    fake_torch(monkeypatch, cuda=cuda)
    change(home, painting={"offload": "leaf", "text": False})
    report = look()
    assert report.ok == cuda
    assert cuda or "would save nothing" in str(report.problems[0])


def test_no_model_library_is_imported(home: Path) -> None:
    change(home, device="cpu")
    code = (
        "import sys, pathlib; from insitu.doctor import examine;"
        "assert examine(pathlib.Path('params.yaml')).ok;"
        "print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
