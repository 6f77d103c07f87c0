"""A voter in a real browser: by keyboard, by touch on a phone, going back, losing the server.

Proves that what the voter sees and does is what the votes file says. Needs Chromium (Debian's
package `chromium`, or INSITU_CHROMIUM with its path); skipped where there is none. Starts
`insitu study serve` on loopback.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from insitu.serving.study import BEST_OVERALL, VOTES
from insitu.serving.study import votes as stored
from tests.e2e.chromium import DESK, NEEDS_CHROMIUM, PHONE, browser
from tests.serving import studies

__all__ = ["browser"]

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = NEEDS_CHROMIUM


class Server:
    """`insitu study serve` on a folder; `stop` and `start` keep its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "insitu.cli", "study", "serve", str(self.folder), "--port",
             str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.address).close()
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def votes(self, count: int) -> list[tuple[str, str, str | None]]:
        """What is chosen in the file, once it has so many votes."""
        until = time.monotonic() + 20
        while len(found := stored.read(self.folder / VOTES)) < count and time.monotonic() < until:
            time.sleep(0.05)
        return [(vote.item, vote.question, vote.way) for vote in found]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Three items, three ways, two questions; or what the test says."""
    studies.written(tmp_path / "study", **getattr(request, "param", {}))
    server = Server(tmp_path / "study")
    yield server
    server.stop()


class Voter:
    """A page, with everything that it asked for and complained of."""

    def __init__(self, browser: Any, server: Server, **device: Any) -> None:
        self.context = browser.new_context(**device)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(server.address)
        self.page.wait_for_selector("#start:not([hidden])")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def sees(self, text: str) -> None:
        self.page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)

    def chosen(self) -> list[str]:
        """What is marked as chosen, question by question."""
        return self.page.locator("[aria-pressed=true]").all_inner_texts()

    def pixels(self, position: int) -> np.ndarray:
        """What an output's picture holds, at its own size."""
        data = self.page.evaluate(
            """place => {
              const image = document.querySelectorAll("#outputs img")[place];
              const canvas = document.createElement("canvas");
              [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0);
              return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
            }""",
            position,
        )
        side = int((len(data) // 4) ** 0.5)
        return np.array(data, np.uint8).reshape(side, side, 4)[..., :3]

    def way(self, server: Server, position: int) -> tuple[str, str]:
        """The item and way that an output's pixels are those of."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('#outputs img')].every(i => i.complete)"
        )
        seen = self.pixels(position)
        for item in json.loads((server.folder / "study.json").read_text())["items"]:
            for way, file in item["outputs"].items():
                if np.array_equal(np.asarray(Image.open(server.folder / file)), seen):
                    return item["id"], way
        raise AssertionError("no output has these pixels")

    def leave(self, server: Server) -> None:
        self.context.close()
        assert all(url.startswith((server.address, "data:")) for url in self.asked)


def test_a_voter_with_a_keyboard(browser: Any, server: Server) -> None:
    voter = Voter(browser, server, **DESK)
    page = voter.page
    page.get_by_label("Your name").fill("Ada")
    voter.press("Enter")
    voter.sees("Comparison 1 of 3")
    first, second = voter.way(server, 1), voter.way(server, 2)
    assert first[0] == second[0]
    voter.press("2", "3")  # the second is about the next question
    voter.sees("Comparison 2 of 3")
    expected: list[tuple[str, str, str | None]]
    expected = [(first[0], "identity", first[1]), (first[0], "prompt", second[1])]
    assert server.votes(2) == expected

    # No difference; a question by its letter; back, and another choice.
    item = voter.way(server, 0)[0]
    voter.press("b", "0", "ArrowLeft")
    voter.sees("Comparison 1 of 3")
    assert voter.chosen() == ["2", "3"]
    mended = voter.way(server, 0)
    voter.press("1")
    assert voter.chosen() == ["1", "3"]
    expected += [(item, "prompt", None), (mended[0], "identity", mended[1])]
    assert server.votes(4) == expected

    # Loaded again, all is as it was.
    order = [voter.way(server, position) for position in range(3)]
    page.reload()
    voter.sees("Comparison 1 of 3")
    assert [voter.way(server, position) for position in range(3)] == order
    assert voter.chosen() == ["1", "3"]

    voter.press("ArrowRight", "ArrowRight", "ArrowRight")
    voter.sees("You answered 3 of 6 questions. 3 are still open.")
    page.get_by_role("button", name="Answer the open ones").press("Enter")
    voter.sees("Comparison 2 of 3")
    voter.press("1")
    voter.sees("Comparison 3 of 3")
    voter.press("1", "1")
    voter.sees("You answered all 6 questions.")
    assert len(server.votes(7)) == 7
    votes = stored.read(server.folder / VOTES)
    assert len(stored.latest(votes)) == 6
    assert len({vote.voter for vote in votes}) == 1 and {vote.name for vote in votes} == {"Ada"}
    assert votes[0].voter not in page.content() and not voter.complaints
    assert page.evaluate("document.cookie") == ""
    voter.leave(server)


def test_a_voter_with_a_phone(browser: Any, server: Server) -> None:
    voter = Voter(browser, server, **PHONE)
    page = voter.page
    page.get_by_role("button", name="Start").tap()
    expected = []
    for number in range(3):
        voter.sees(f"Comparison {number + 1} of 3")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        for button in page.locator("#vote button:visible").all():
            box = button.bounding_box()
            assert box["height"] >= 44 and box["width"] >= 44, button.inner_text()
        item, way = voter.way(server, number)
        questions = page.locator("fieldset")
        questions.nth(0).get_by_role("button", name=f"Picture {number + 1}").tap()
        questions.nth(1).get_by_role("button", name="No difference").tap()
        expected += [(item, "identity", way), (item, "prompt", None)]
    voter.sees("You answered all 6 questions.")
    assert server.votes(6) == expected and not voter.complaints
    voter.leave(server)


def test_pictures_are_enlarged_in_whole_pixels(browser: Any, server: Server) -> None:
    voter = Voter(browser, server, **PHONE)
    page = voter.page
    page.get_by_role("button", name="Start").tap()
    page.get_by_role("button", name="Enlarge: Picture 2").tap()
    image, caption = page.locator("#stage img"), page.locator("#caption")
    sync_api.expect(image).to_be_visible()
    box = image.bounding_box()
    assert box["width"] > 300 and box["width"] * 2 % 64 == 0
    assert image.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    sync_api.expect(caption).to_have_text("Picture 2")
    voter.press("1")
    sync_api.expect(caption).to_have_text("Picture 1")
    voter.press("ArrowLeft")
    sync_api.expect(caption).to_have_text("reference 2")
    image.tap()
    sync_api.expect(image).not_to_be_visible()
    voter.press("z")
    sync_api.expect(caption).to_have_text("Picture 2")  # whose button has the focus
    voter.press("Escape")
    sync_api.expect(image).not_to_be_visible()
    assert server.votes(0) == []
    voter.leave(server)


def test_focus_is_seen(browser: Any, server: Server) -> None:
    voter = Voter(browser, server, **DESK)
    voter.page.get_by_label("Your name").press("Enter")
    voter.sees("Comparison 1 of 3")
    seen = set()
    for _ in range(5 + 2 * 4 + 1):  # pictures, choices, next
        voter.press("Tab")
        focused = voter.page.evaluate(
            "(e => [e.getAttribute('aria-label') || e.innerText,"
            " getComputedStyle(e).outlineWidth])(document.activeElement)"
        )
        assert focused[1] == "3px", focused
        seen.add(focused[0])
    assert {"Enlarge: Picture 1", "Picture 3", "No difference", "Next →"} <= seen
    voter.leave(server)


@pytest.mark.parametrize("server", [{"questions": BEST_OVERALL}], indirect=True)
def test_a_vote_that_is_not_stored_is_said_and_not_shown(browser: Any, server: Server) -> None:
    voter = Voter(browser, server, **DESK)
    voter.page.get_by_role("button", name="Start").click()
    voter.sees("Comparison 1 of 3")
    server.stop()
    voter.press("1")
    voter.sees("Your answer was not stored. The server does not answer.")
    assert voter.chosen() == [] and "0 of 3 answered" in voter.page.content()
    server.start()
    voter.press("1")
    voter.sees("Comparison 2 of 3")
    assert "not stored" not in voter.page.inner_text("body")
    assert [question for _, question, _ in server.votes(1)] == ["best"]
    voter.leave(server)
