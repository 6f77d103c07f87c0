"""The gallery page is complete, stands alone, repeats itself, and is published whole or not at all.

Needs no trained weights: the checkpoints are tiny random ones of the real classes.
"""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from insitu.digest import weights_digest
from insitu.errors import UserError
from insitu.evaluation.gallery import build, builder
from insitu.evaluation.gallery.builder import SECTIONS
from insitu.evaluation.gallery.overlays import face_crop, hidden, tinted
from insitu.files import replacing
from insitu.params import Params, load
from pipelines import _step, gallery

SHIPPED = Path(__file__).parents[2] / "params.yaml"
COUNT = 2  # cases of each kind, instead of the shipped counts
PSNR = {"value": 31.25, "low": 30.5, "high": 32.0, "n": 256}
MAP = {"value": 0.875, "low": 0.85, "high": 0.9, "n": 300}


def settings(checkpoints: dict[str, Path]) -> dict[str, Any]:
    """The shipped settings on tiny checkpoints, with few small cases."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(SHIPPED.read_text())
    for name, path in checkpoints.items():
        content["models"][name]["path"] = str(path)
    content["device"] = "cpu"
    page = content["gallery"]
    counted = ("scenes", "examples", "reconstructions", "readings", "quality_pairs", "detections")
    page |= dict.fromkeys((*counted, "retrievals", "face_pairs"), COUNT)
    page |= {"scene_size": 64}
    page["flux"] |= {"samples": COUNT, "steps": 1}
    page["inpaint"] |= {"samples": COUNT, "steps": 1}
    return content


@pytest.fixture(scope="module")
def params(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Params:
    file = tmp_path_factory.mktemp("settings") / "params.yaml"
    YAML().dump(settings(checkpoints), file)
    return load(file)


@pytest.fixture(scope="module")
def few_portraits() -> Any:
    """A gallery of ten portraits instead of a hundred: drawing them is what takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("insitu.evaluation.gallery.sections.identity.GALLERY", 10)
        patch.setattr("insitu.evaluation.gallery.sections.faces.CALIBRATION", 3)
        yield


@pytest.fixture(scope="module")
def report(
    params: Params, few_portraits: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A page built over an older one, and what was said on the way."""
    folder = tmp_path_factory.mktemp("reports") / "nano"
    folder.mkdir()
    (folder / "stale.txt").write_text("of the last run")
    said: list[str] = []
    build(params, folder, said.append)
    return folder, said


class Elements(HTMLParser):
    """Every element's name and attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [a[attribute] or "" for name, a in self.found if name == tag and attribute in a]


@pytest.fixture(scope="module")
def page(report: tuple[Path, list[str]]) -> Elements:
    return Elements((report[0] / "index.html").read_text())


def test_every_section_stands_on_the_page_and_is_linked(page: Elements) -> None:
    keys = page.values("section", "id")
    assert keys == [
        "world", "flux", "sdxl-inpaint", "autoencoders", "clip", "detector", "dino", "face",
    ]  # fmt: skip
    assert page.values("a", "href") == [f"#{key}" for key in keys]


def test_every_picture_exists_opens_and_is_used(
    page: Elements, report: tuple[Path, list[str]]
) -> None:
    folder, _ = report
    sources = page.values("img", "src")
    on_disk = {f"pictures/{file.name}" for file in (folder / "pictures").iterdir()}
    assert set(sources) == on_disk and len(sources) == len(on_disk) > 60
    for tag, attributes in page.found:
        if tag == "img":
            with Image.open(folder / str(attributes["src"])) as image:
                image.load()
                assert image.mode == "RGB"
                shape = (str(image.width), str(image.height))
            assert shape == (attributes["width"], attributes["height"])
            assert attributes["alt"]


def test_each_kind_of_case_is_shown_as_often_as_asked(page: Elements) -> None:
    sections = [str(a["src"]).split("/")[1].rsplit("-", 1)[0] for t, a in page.found if t == "img"]
    assert sections.count("opening") == COUNT
    assert sections.count("flux") == 4 * COUNT  # one, two, person, style
    assert sections.count("sdxl-inpaint") == 4 * COUNT  # source, given, filled, truth
    assert sections.count("autoencoders") == 3 * COUNT  # original, and through both
    assert sections.count("clip") == COUNT + 2 * COUNT  # answers; clean and degraded
    assert sections.count("detector") == COUNT
    assert 2 * 6 * COUNT <= sections.count("dino") <= 2 * 7 * COUNT
    assert sections.count("face") == (2 + 2 + 1) * COUNT  # same, different, landmarks


def test_the_page_needs_nothing_from_outside(report: tuple[Path, list[str]]) -> None:
    html = (report[0] / "index.html").read_text()
    assert "://" not in html
    assert not re.search(r"@import|url\(|<script", html)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(a.startswith(("pictures/", "#", "data:,")) for a in addresses)


def test_it_reads_on_a_phone_and_in_the_dark(report: tuple[Path, list[str]]) -> None:
    html = (report[0] / "index.html").read_text()
    assert '<meta name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html
    assert "image-rendering: pixelated" in html


def test_progress_is_said_and_the_old_page_is_gone(report: tuple[Path, list[str]]) -> None:
    folder, said = report
    assert len(said) == len(SECTIONS) + 1
    assert all(re.match(rf"\d/{len(SECTIONS)} \S+: \d+ s$", line) for line in said[:-1])
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "pictures"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_checkpoint_without_card_says_so(page: Elements) -> None:
    # flux, sdxl-inpaint, both autoencoders, clip, detector, dino, face
    assert page.text.count("no card") == 8
    assert "FluxPipeline" in page.text and "million parameters" in page.text


def test_verdicts_are_marked_in_words_too(page: Elements) -> None:
    signs = [a for tag, a in page.found if tag == "span" and "sign" in (a.get("class") or "")]
    assert signs
    assert {sign["aria-label"] for sign in signs} == {"right", "wrong"}


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    chosen = tuple(pair for pair in SECTIONS if pair[0] in names)
    monkeypatch.setattr(builder, "SECTIONS", chosen)


def test_a_seed_gives_the_same_page_and_another_seed_another(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "flux", "clip")
    other = params.model_copy(update={"seed": 2**63 - 1})
    for name, chosen in (("one", params), ("two", params), ("other", other)):
        build(chosen, tmp_path / name, lambda line: None)
    one, two, third = (
        {f.relative_to(tmp_path / n): f.read_bytes() for f in (tmp_path / n).rglob("*.*")}
        for n in ("one", "two", "other")
    )
    assert one == two
    assert one.keys() == third.keys()
    assert not any(one[path] == third[path] for path in one if path.suffix == ".png")


def write_card(folder: Path, name: str, measured: dict[str, float], **other: object) -> None:
    card = {
        "headline": {"name": name},
        "figures": {name: measured},
        "weights_digest": weights_digest(folder),
        "settings": {"threshold": 0.42},
    }
    (folder / "card.json").write_text(json.dumps(card | other))


@pytest.fixture
def carded(checkpoints: dict[str, Path]) -> Any:
    """The flux and detector checkpoints with a card each, removed afterwards."""
    write_card(checkpoints["flux"], "VAE: PSNR (dB)", PSNR)
    write_card(checkpoints["detector"], "map50", MAP)
    yield checkpoints
    for name in ("flux", "detector"):
        (checkpoints[name] / "card.json").unlink()


def test_a_card_is_quoted_with_its_interval(
    params: Params, carded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "autoencoders", "detector")
    build(params, tmp_path / "nano", lambda line: None)
    text = " ".join(Elements((tmp_path / "nano/index.html").read_text()).text.split())
    assert "31.2 PSNR in dB over held-out scenes95% interval 30.5 to 32.0, 256" in text
    assert "0.88 mean average precision" in text
    assert "above the score 0.42" in text  # the card's threshold
    assert text.count("no card") == 1  # sdxl-inpaint's


def test_a_card_of_other_weights_is_not_quoted(
    params: Params, carded: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "detector")
    write_card(carded["detector"], "map50", MAP, weights_digest="0" * 64)
    build(params, tmp_path / "nano", lambda line: None)
    html = (tmp_path / "nano/index.html").read_text()
    assert "the card is of other weights" in html
    assert "mean average precision" not in html
    assert "above the score 0.30" in html


@pytest.mark.parametrize("content", ["{", "[]", '{"weights_digest": null, "headline": {}}'])
def test_an_unreadable_card_is_refused(
    params: Params,
    carded: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    only(monkeypatch, "detector")
    digest = json.dumps(weights_digest(carded["detector"]))
    (carded["detector"] / "card.json").write_text(content.replace("null", digest))
    with pytest.raises(UserError, match=r"card\.json was read"):
        build(params, tmp_path / "nano", lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_midway_leaves_the_old_page(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "nano" / "index.html"
    old.parent.mkdir()
    old.write_text("old")

    def fail(bench: object) -> Any:
        raise RuntimeError("no more memory")

    only(monkeypatch, "clip")
    monkeypatch.setattr(builder, "SECTIONS", (*builder.SECTIONS, ("broken", fail)))
    with pytest.raises(RuntimeError, match="memory"):
        build(params, tmp_path / "nano", lambda line: None)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old.parent]


def test_a_failing_swap_puts_the_old_page_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "nano"
    target.mkdir()
    (target / "index.html").write_text("old")
    replace = os.replace

    def fail_for_the_fresh(source: Path, destination: Path) -> None:
        if source.name == "fresh":
            raise OSError("disk full")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail_for_the_fresh)
    with pytest.raises(OSError, match="full"), replacing(target):
        pass
    assert (target / "index.html").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_checkpoint_is_refused_before_any_work(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content = settings(checkpoints)
    content["models"]["face"] = {"path": "./absent"}
    YAML().dump(content, tmp_path / "params.yaml")
    assert _step.run(gallery.main) == _step.REFUSED
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("given: `models.face` is the folder ./absent.", "why:", "to do:"):
        assert part in captured.err
    assert not (tmp_path / "reports").exists()


def test_the_stage_writes_where_dvc_looks(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(monkeypatch, "clip")
    monkeypatch.chdir(tmp_path)
    YAML().dump(settings(checkpoints), tmp_path / "params.yaml")
    assert _step.run(gallery.main) == 0
    stage = YAML(typ="safe", pure=True).load((SHIPPED.parent / "dvc.yaml").read_text())
    assert stage["stages"]["gallery"]["outs"] == [str(gallery.PAGE)]
    assert (tmp_path / gallery.PAGE / "index.html").is_file()
    assert "1/1 clip" in capsys.readouterr().out


def test_masks_tint_and_hide_only_their_own_pixels() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    for drawn in (tinted(image, [mask]), hidden(image, mask)):
        outside = drawn[~mask]
        assert (outside == outside[0]).all()
        assert not (drawn[mask] == outside[0]).all()
    assert (hidden(image, mask)[~mask] == 200).all()


def test_points_keep_their_place_in_a_face_crop() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    y, x = 33, 47
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    box = (30 / 80, 20 / 60, 60 / 80, 50 / 60)
    point = np.array([[(x + 0.5) / 80, (y + 0.5) / 60]])
    crop, ((moved,),) = face_crop(image, box, [point], 120, 0.25)
    rows, columns = np.nonzero(crop[..., 0] > 200)
    assert moved == pytest.approx(
        ((columns.mean() + 0.5) / 120, (rows.mean() + 0.5) / 120), abs=0.01
    )
