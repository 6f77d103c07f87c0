"""The studio in a real browser: boxes and references by mouse, masks, keys, a phone, a refusal.

Proves that what is drawn is what is asked, and that the picture comes back and can be kept. Needs
Chromium; the server runs in this process on tiny random bases.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from insitu.client import Client
from tests.e2e.chromium import DESK, NEEDS_CHROMIUM, PHONE, browser
from tests.serving import served
from tests.serving.served import MUG, PHOTO, TWO
from tests.serving.test_guards import Running

__all__ = ["browser"]
pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def running(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("studio")
    bases = served.load_bases(checkpoints)
    store = served.make_store(folder, bases)
    params = served.make_params(tmp_path_factory.mktemp("params"), checkpoints)
    service = served.make_service(params, store, bases, language=served.Designer())
    with Running(service) as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    """Files as a user has them."""
    files = {"room": PHOTO, "mug": PHOTO[:40, :40], "cat": PHOTO[40:, 40:]}
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return {name: str(tmp_path / f"{name}.png") for name in files}


class Page:
    """The studio, opened; errors of its scripts fail the test."""

    def __init__(self, browser: Any, running: Running, **look: Any) -> None:
        self.context = browser.new_context(**look, accept_downloads=True)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=running.url)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)
        self.page.goto(running.url)
        self.page.wait_for_selector("#generate:not([disabled])")

    def _said(self, said: Any) -> None:
        # A refusal is told as an error of loading, too.
        if said.type == "error" and not said.text.startswith("Failed to load resource"):
            self.errors.append(said.text)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.errors == []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)


def choose(page: Any, adapter: str) -> None:
    page.select_option("#adapter", adapter)
    page.locator("#about", has_text=adapter.partition(".")[0]).wait_for()


def draw(page: Any, *points: tuple[float, float]) -> None:
    """Drag over the photo, points in shares of its sides."""
    canvas = page.locator("#canvas canvas").first
    canvas.scroll_into_view_if_needed()
    area = canvas.bounding_box()
    at = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def generate(page: Any) -> np.ndarray:
    page.click("#generate")
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("#running", state="hidden")
    with page.expect_download() as kept:
        page.click("#download")
    return np.array(Image.open(kept.value.path()).convert("RGB"))


def test_two_boxes_two_references_a_picture(
    browser: Any, running: Running, pictures: dict[str, str]
) -> None:
    with Page(browser, running, **DESK) as page:
        choose(page, TWO)
        assert page.is_hidden('[data-tool="mask"]') and page.is_hidden("#negative-label")
        page.set_input_files("#photo", pictures["room"])
        draw(page, (0.01, 0.01), (0.6, 0.99))
        draw(page, (0.99, 0.99), (0.4, 0.01))  # the box before lies below: drawn from outside of it
        for number, name in ((1, "mug"), (2, "cat")):
            page.set_input_files(f'[aria-label="Reference for place {number}"]', pictures[name])
            page.fill(f'[aria-label="What goes into place {number}"]', name)
        page.fill("#seed", "7")
        painted = generate(page)
        places = page.evaluate("studio.places.map(place => place.box)")
        assert np.allclose(places, [[0.01, 0.01, 0.6, 0.99], [0.4, 0.01, 0.99, 0.99]], atol=0.02)
        with Client(running.url) as client:
            asked = [
                {"box": box, "reference": pictures[name], "prompt": name}
                for box, name in zip(places, ("mug", "cat"), strict=True)
            ]
            same = client.place(TWO, pictures["room"], asked, prompt="[V1] and [V2]", seed=7)
        assert np.array_equal(painted, np.array(same.image))
        assert f"{TWO}, version 1" in page.text_content("#by")

        # Before and after; the same as curl; another seed goes into the history.
        page.fill("#slide", "100")
        assert "0%" in page.evaluate("document.querySelector('#before').style.clipPath")
        page.click("#curl")
        text = page.evaluate("navigator.clipboard.readText()")
        assert text.startswith(f"curl {running.url}/v1/place") and "reference-2=@" in text
        page.click("#dice")
        assert not np.array_equal(generate(page), painted)
        assert page.locator("#past li").count() == 2
        page.click('[aria-label="Picture 1, seed 7"]')
        assert "seed 7" in page.text_content("#by")


def test_a_mask_is_painted_by_hand_and_kept_to(
    browser: Any, running: Running, pictures: dict[str, str]
) -> None:
    with Page(browser, running, **DESK) as page:
        choose(page, MUG)
        page.set_input_files("#photo", pictures["room"])
        page.keyboard.press("m")
        page.fill("#brush", "25")
        draw(page, (0.3, 0.3), (0.6, 0.3), (0.6, 0.6), (0.3, 0.6), (0.45, 0.45))
        assert page.locator(".place").count() == 1
        painted = generate(page)
        changed = (painted != PHOTO).any(-1)
        assert changed.any() and not changed[:8].any() and not changed[:, 72:].any()
        draw(page, (0.7, 0.7), (0.8, 0.7))  # goes on in the same mask: the adapter takes one
        assert page.locator(".place").count() == 1
        page.keyboard.press("e")
        draw(page, (0.02, 0.5), (0.98, 0.5))
        pixels = page.evaluate(
            "(() => { const m = studio.places[0].mask; return m.getContext('2d')"
            ".getImageData(0, m.height / 2, m.width, 1).data.filter((v, k) => k % 4 == 3)"
            ".reduce((a, b) => a + b, 0); })()"
        )
        assert pixels == 0


def test_all_of_it_by_keyboard(browser: Any, running: Running, pictures: dict[str, str]) -> None:
    with Page(browser, running, **DESK) as page:
        choose(page, MUG)
        page.set_input_files("#photo", pictures["room"])
        page.focus("#add")
        page.keyboard.press("Enter")
        page.focus(".place")
        before = page.evaluate("studio.places[0].box")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
        after = page.evaluate("studio.places[0].box")
        assert np.allclose(np.subtract(after, before), [0.01, 0, 0.01, 0.01], atol=1e-6)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#result:not([hidden])")
        page.focus(".place")
        page.keyboard.press("Delete")
        assert page.locator(".place").count() == 0


def test_a_refusal_says_what_to_do_and_nothing_is_lost(
    browser: Any, running: Running, pictures: dict[str, str]
) -> None:
    with Page(browser, running, **DESK) as page:
        choose(page, MUG)
        page.click("#generate")
        assert "Drop one" in page.text_content("#alert")
        page.set_input_files("#photo", pictures["room"])
        draw(page, (0.2, 0.2), (0.7, 0.8))
        page.fill("#prompt", "a red mug")
        page.click("#generate")
        page.wait_for_selector("#alert:not([hidden])")
        assert "Write {subject}" in page.text_content("#alert")
        page.fill("#prompt", "a {subject}")
        generate(page)
        assert page.is_hidden("#alert") and page.locator(".place").count() == 1


def test_a_scene_in_words_becomes_boxes_and_a_picture(browser: Any, running: Running) -> None:
    with Page(browser, running, **DESK) as page:
        choose(page, "eligen")
        page.fill("#width", "32")
        page.fill("#height", "32")
        page.fill("#described", "a red mug left of a blue cat")
        page.click("#lay-out")
        page.locator(".place").nth(1).wait_for()
        words = page.locator('[aria-label="What goes into place 2"]')
        assert words.input_value() == "a blue cat"
        assert page.input_value("#prompt") == "a red mug and a blue cat"
        assert generate(page).shape == (32, 32, 3)
        assert page.is_hidden("#slide-label")  # there is no photo before


def test_a_phone_has_all_of_it_in_one_column(
    browser: Any, running: Running, pictures: dict[str, str], tmp_path: Path
) -> None:
    with Page(browser, running, **PHONE) as page:
        choose(page, "eligen")
        assert page.is_visible("#free-size")
        choose(page, MUG)
        assert page.is_hidden("#free-size")
        page.set_input_files("#photo", pictures["room"])
        page.tap("#add")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.tap("#generate")
        page.wait_for_selector("#result:not([hidden])")
        shown = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        assert shown.width == 750


def test_a_key_is_asked_for_once(
    browser: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from insitu.serving.keys import Keys, add

    key = add(tmp_path / "keys.json", "studio", ["read", "place"])
    bases = served.load_bases(checkpoints)
    service = served.make_service(
        served.make_params(tmp_path, checkpoints), served.make_store(tmp_path, bases), bases,
        keys=Keys(tmp_path / "keys.json"),
    )  # fmt: skip
    with Running(service) as running:
        page = browser.new_context(**DESK).new_page()
        page.goto(running.url)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", key)
        page.click("#key-form button")
        page.wait_for_selector("#generate:not([disabled])")
        assert page.is_hidden("#key-form")
        assert json.loads(page.evaluate("JSON.stringify(studio.adapters)"))
        page.context.close()
