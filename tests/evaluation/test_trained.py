"""Proves that a trained method is compared with its untrained self on the very same requests, and
that page and overview show each of them.

The base is a tiny random one of the real class; the judges are the nano checkpoints.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from insitu import world
from insitu.backbones.flux import FluxBackbone
from insitu.evaluation import trained_page
from insitu.evaluation.gallery.writing import write
from insitu.evaluation.trained import MEASURES, WAYS, Eyes, Trial, summarize, trial
from insitu.methods import NAMES, Placement, Request, find
from insitu.params import FluxCheckpoint, load
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import IdentityEncoder
from insitu.perception.face_finder import ZeroShotFaceFinder
from insitu.perception.faces import FaceAnalyser

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "models" / "nano"
SIZE, SEEDS = 64, 2


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> FluxBackbone:
    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=SIZE, max_sequence_length=16)
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    detector = ZeroShotDetector.from_pretrained(NANO / "detector")
    return Eyes(
        clip=ClipScorer.from_pretrained(NANO / "clip"),
        dino=IdentityEncoder.from_pretrained(str(NANO / "dino")),
        detector=detector,
        faces=ZeroShotFaceFinder(detector, FaceAnalyser.from_pretrained(str(NANO / "face"))),
        present=0.1,
    )


def requests() -> list[Request]:
    """Two photos, each to be filled with two subjects."""
    found = []
    for n in range(2):
        rng = world.rng_for("test", "trained", n)
        things = [world.sample_subject(rng, category=kind) for kind in ("mug", "cat")]
        placements = tuple(
            Placement(
                box_xyxy01=(k / 2, 0.25, (k + 1) / 2, 1.0), prompt=thing.category,
                reference=world.portrait(thing, rng, SIZE).image,
            )
            for k, thing in enumerate(things)
        )  # fmt: skip
        photo = world.render(world.sample_scene(rng, things=things, style="photo"), SIZE).image
        prompt = "[V1] mug and [V2] cat on the grass"
        found.append(Request(image=photo, placements=placements, prompt=prompt, seed=n))
    return found


def compared(base: FluxBackbone, eyes: Eyes, *, effect: float) -> Trial:
    settings = load(ROOT / "params.yaml").inpaint_anywhere.model_dump(exclude={"train"})
    method = find("inpaint_anywhere", settings | {"steps": 2, "reference_size": 16})
    torch.manual_seed(0)
    method.attach(base)
    weights = method.state(base)
    method.detach(base)
    for name, weight in weights.items():
        if "lora_B" in name:
            weight += effect * torch.randn(weight.shape)
    metrics = eyes.metrics("inpaint_anywhere")
    return trial(method, base, weights, requests(), metrics, seeds=SEEDS, seed=0)


def test_an_adapter_that_has_learned_nothing_makes_no_difference(
    base: FluxBackbone, eyes: Eyes
) -> None:
    done = compared(base, eyes, effect=0)
    for found in summarize(done, seed=0).values():
        assert found.comparison.difference.value == 0
        assert found.comparison.first.n == len(requests()) * SEEDS
    first, second = done.pictures[WAYS[0]][0]
    assert (first != second).any()  # seeds differ
    assert not hasattr(base.transformer, "peft_config")


def test_page_and_overview_show_every_request(
    base: FluxBackbone, eyes: Eyes, tmp_path: Path
) -> None:
    done = compared(base, eyes, effect=0.3)
    summary = summarize(done, seed=0)
    assert tuple(summary) == MEASURES["inpaint_anywhere"]
    assert summary["background_mean"].comparison.first.value < 10  # outside of the boxes it stays
    write(trained_page.make(done, summary, title="Trained"), tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert html.count("reference 1") >= len(done.requests)
    shown = trained_page.overview(done)
    assert shown.shape == (24 + 2 * 136 - 8, 5 * 136 - 8, 3)
    cell = shown[24 : 24 + 128, 4 * 136 : 4 * 136 + 128]
    scaled = np.kron(done.pictures["trained"][0][0], np.ones((2, 2, 1), np.uint8))
    assert (cell == scaled).all()


def test_each_method_that_is_trained_on_data_sets_has_a_measure() -> None:
    assert {*MEASURES, "dreammix"} == set(NAMES)
    for names in MEASURES.values():
        assert set(names) <= trained_page.NAMES.keys()
