"""Proves that a corpus is drawn once, identically by any number of workers, and never half.

Needs two spawned processes; no world drawing.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from recipe import corpus


def make(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    return {"image": rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), "label": np.int64(index)}


def refuse(index: int) -> dict[str, np.ndarray]:
    if index:
        raise RuntimeError("drawn again")
    return make(index)


def test_workers_agree_and_arrays_are_reused(tmp_path: Path) -> None:
    one = corpus.build(tmp_path / "one", 150, make, workers=1)
    two = corpus.build(tmp_path / "two", 150, make, workers=2)
    assert np.array_equal(one["image"], two["image"])
    assert one["label"].tolist() == list(range(150))
    again = corpus.build(tmp_path / "one", 150, refuse, workers=1)
    assert np.array_equal(again["image"], one["image"])


def test_other_fingerprint_draws_again(tmp_path: Path) -> None:
    corpus.build(tmp_path / "c", 8, make, workers=1, fingerprint="a")
    with pytest.raises(RuntimeError, match="drawn again"):
        corpus.build(tmp_path / "c", 8, refuse, workers=1, fingerprint="b")
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["fingerprint"] == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
