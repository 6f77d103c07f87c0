"""Proves that both generators load in plain diffusers, paint, and are as good as their cards say.

Needs models/nano/{flux,sdxl-inpaint,clip,detector} and the world; about a minute of sampling.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionXLInpaintPipeline

from insitu import world
from insitu.digest import weights_digest
from insitu.evaluation.checkpoints import Figure, flux, inpaint, vae
from insitu.evaluation.checkpoints.judging import Judges

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"


def card(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((NANO / name / "card.json").read_text())
    return loaded


def agrees(measured: dict[str, Figure], stated: dict[str, Any]) -> None:
    """The 95% intervals of a small sample and of the card's overlap, figure by figure."""
    for name, figure in measured.items():
        assert figure.low <= stated[name]["high"], name
        assert stated[name]["low"] <= figure.high, name


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.from_pretrained(NANO / "clip", NANO / "detector")


@pytest.fixture(scope="module")
def painter() -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(NANO / "flux", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("name", "kind"),
    [("flux", FluxPipeline), ("sdxl-inpaint", StableDiffusionXLInpaintPipeline)],
)
def test_plain_class_loads_and_card_names_these_weights(name: str, kind: type) -> None:
    assert isinstance(kind.from_pretrained(NANO / name), kind)
    assert card(name)["weights_digest"] == weights_digest(NANO / name)
    assert card(name)["world_version"] == world.WORLD_VERSION
    assert card(name)["model_class"] == kind.__name__


def test_no_configuration_tells_where_it_was_made() -> None:
    """`save_pretrained` notes the folder that a model came from, whosever machine it is on."""
    configs = [path for path in NANO.glob("*/**/*.json") if ".work" not in path.parts]
    assert len(configs) > 10
    told = [
        str(path.relative_to(NANO))
        for path in configs
        if str(json.loads(path.read_text()).get("_name_or_path", "")).startswith("/")
    ]
    assert told == []


@pytest.fixture(scope="module")
def _drawn_once() -> Iterator[None]:
    """Both autoencoders are measured on the same scenes, and drawing these takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "_scenes", functools.cache(vae._scenes))
        yield


@pytest.mark.usefixtures("_drawn_once")
@pytest.mark.parametrize("name", ["flux", "sdxl-inpaint"])
def test_autoencoder_beats_the_pca_of_its_shape_as_its_card_says(name: str) -> None:
    measured = vae.figures(NANO / name / "vae", count=64, seed=1)
    own, pca = measured.values()
    assert own.low > pca.high
    agrees({f"VAE: {key}": figure for key, figure in measured.items()}, card(name)["figures"])


def test_flux_card_is_reproduced_on_a_small_sample(judges: Judges) -> None:
    stated = card("flux")
    sampling = flux.Sampling(**stated["settings"])
    agrees(
        flux.figures(NANO / "flux", judges, sampling=sampling, count=24, seed=1),
        stated["figures"],
    )


def test_inpaint_card_is_reproduced_on_a_small_sample(judges: Judges) -> None:
    stated = card("sdxl-inpaint")
    sampling = inpaint.Sampling(**stated["settings"])
    agrees(
        inpaint.figures(NANO / "sdxl-inpaint", judges, sampling=sampling, count=32, seed=1),
        stated["figures"],
    )


def test_a_picture_depends_on_its_caption_and_seed_only(painter: FluxPipeline) -> None:
    sampling = flux.Sampling(steps=2)
    captions = ["a red mug", "a blue cat on the beach"]
    together = flux.sample(painter, captions, sampling, seed=3)
    again = flux.sample(painter, captions, sampling, seed=3)
    other = flux.sample(painter, ["a red mug", "a green car"], sampling, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))
    # Another batch may round differently in the last digit, not more.
    assert np.abs(together[0].astype(int) - other[0]).max() <= 1
    assert np.abs(together[1].astype(int) - other[1]).max() > 1


def test_checkpoints_stay_under_40_megabytes() -> None:
    # What is in training, DVC's own, code, and what only tells of a checkpoint.
    apart = {".work", ".dvc", "recipe", "grid.png", "README.md", "card.json"}
    tracked = [path for path in NANO.rglob("*") if path.is_file() and not apart & {*path.parts}]
    # A link is its target's bytes, which are counted already.
    assert sum(path.lstat().st_size for path in tracked) < 40e6
