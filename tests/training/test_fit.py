"""Proves that training is a function of its inputs: killed anywhere it ends with the same weights.
And that what goes wrong is said: a loss that is not finite, an adapter without effect, a stage that
matches nothing.

Needs no trained checkpoint.
"""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from insitu.errors import UserError
from insitu.training.callbacks import curve
from insitu.training.data import Minibatches
from insitu.training.encoding import Encoded
from insitu.training.fit import ADAPTER, CURVE, LAST, fit
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices, Stage
from tests.training.runs import (
    FACTS,
    METHOD,
    RECIPE,
    WATCH,
    Losses,
    alone,
    base,
    encoded,
    forked,
    load,
    request,
    same_weights,
    train,
)

__all__ = ["base", "encoded"]


def test_killed_at_random_moments_it_ends_with_the_same_weights(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    """Ten times, at any moment after the first checkpoint; one is saved at each step."""
    recipe = replace(RECIPE, average=0.9, steps=40)
    whole = forked(alone, base, encoded, tmp_path / "whole", recipe)
    whole.join()
    assert whole.exitcode == 0
    torn, rng, kills, moments = tmp_path / "torn", random.Random(0), 0, set()
    last = torn / LAST
    while kills < 10:
        process = forked(alone, base, encoded, torn, recipe)
        before = last.stat().st_mtime_ns if last.exists() else 0
        while process.is_alive() and not (last.exists() and last.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.08)
        assert process.is_alive(), "it was over before it was killed ten times"
        process.kill()
        process.join()
        kills += 1
        moments.add(last.stat().st_mtime_ns)
    process = forked(alone, base, encoded, torn, recipe)
    process.join()
    assert process.exitcode == 0 and len(moments) > 5
    same_weights(torn, tmp_path / "whole")
    assert (torn / CURVE).read_text() == (tmp_path / "whole" / CURVE).read_text()


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    base: str, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Minibatches.__getitem__

    def spoilt(self: Minibatches, index: int) -> object:
        batch = draw(self, index)
        if index == 6:
            batch.told["z_0"][2] = float("nan")
        return batch

    monkeypatch.setattr(Minibatches, "__getitem__", spoilt)
    with pytest.raises(UserError, match=r"Step 6 .* not finite for e\d at t=0\.\d+;"):
        train(base, encoded, tmp_path)
    assert not (tmp_path / ADAPTER).exists()
    monkeypatch.undo()
    # The last good state is there, and the run can go on from it.
    losses = train(base, encoded, tmp_path)
    assert len(losses) == 14
    same_weights(tmp_path, whole(base, encoded, tmp_path / "whole"))


def whole(base: str, encoded: Path, work: Path) -> Path:
    train(base, encoded, work)
    return work


def test_an_adapter_without_effect_is_told_of(base: str, encoded: Path, tmp_path: Path) -> None:
    idle = replace(RECIPE, optimizer=Optimization(name="adamw", lr=1e-12, weight_decay=0.0))
    with pytest.warns(UserWarning, match="it has no effect"):
        train(base, encoded, tmp_path, idle)
    assert [line["step"] for line in curve(tmp_path / CURVE)] == [0, 10, 20]


def test_in_a_stage_only_its_parameters_learn(base: str, encoded: Path, tmp_path: Path) -> None:
    stages = (Stage(until=0.5, learning=("*to_k*",)), Stage(until=1.0, learning=("*to_v*",)))
    train(base, encoded, tmp_path / "half", replace(RECIPE, stages=stages[:1]))
    train(base, encoded, tmp_path / "both", replace(RECIPE, stages=stages))
    half, both = (load_file(tmp_path / name / ADAPTER) for name in ("half", "both"))
    for name, value in half.items():
        if name.endswith("lora_B.weight"):
            assert bool(value.any()) == ("to_k" in name)
            assert both[name].any()
    idle = replace(RECIPE, stages=(Stage(until=1.0, learning=("*to_nothing*",)),))
    with pytest.raises(UserError, match="to_nothing"):
        train(base, encoded, tmp_path / "none", idle)


def test_every_step_and_band_is_logged(base: str, encoded: Path, tmp_path: Path) -> None:
    logger = Losses()
    fit(
        METHOD, load(base), Encoded.open(encoded, FACTS), [request()],
        recipe=replace(RECIPE, min_snr=5.0), devices=Devices(), watch=WATCH, work=tmp_path,
        logger=logger,
    )  # fmt: skip
    names = set().union(*logger.rows.values())
    assert {"loss", "loss/subject", "loss/regular", "norm/gradient", "norm/adapter", "lr"} <= names
    first = next(row["epochs"] for _, row in sorted(logger.rows.items()) if "epochs" in row)
    assert first == pytest.approx(8 * 0.7 / 5)  # of five examples of the subject
    assert {"examples_per_second", "memory_mib", "validation_loss"} <= names
    assert {f"validation_loss/t{t}" for t in (0.1, 0.3, 0.5, 0.7, 0.9)} <= names
    rates = [row["lr"] for _, row in sorted(logger.rows.items()) if "lr" in row]
    assert rates[0] == pytest.approx(1e-2) and rates[-1] < 2e-3
    assert len(list((tmp_path / "pictures").iterdir())) == 2
