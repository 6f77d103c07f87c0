"""Proves that a study's folder is checked, that nothing served tells one way from another, and
that voters keep their order.

Needs no model: the world draws the pictures.
"""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from insitu.errors import UserError
from insitu.serving.study import VOTES, Study, read, write
from insitu.serving.study.app import ASSETS, PAGE, VOTER
from insitu.serving.study.blinding import Blinding, key_beside
from tests.serving import studies

WAYS = studies.WAYS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    studies.written(tmp_path / "study")
    return tmp_path / "study"


# The folder


def test_what_is_written_is_read(folder: Path) -> None:
    study, pictures = studies.drawn()
    assert read(folder) == study
    for file, image in pictures.items():
        assert np.array_equal(np.asarray(Image.open(folder / file)), image)


def test_a_study_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    study, pictures = studies.drawn()
    lacking = dict(list(pictures.items())[1:])
    with pytest.raises(UserError, match="not given"):
        write(tmp_path / "study", study, lacking)
    assert not list(tmp_path.iterdir())


def test_only_a_study_without_votes_is_replaced(folder: Path) -> None:
    study, pictures = studies.drawn(2)
    write(folder, study, pictures)
    assert read(folder) == study
    (folder / VOTES).touch()
    with pytest.raises(UserError, match="votes in it"):
        write(folder, study, pictures)
    with pytest.raises(UserError, match="would be lost"):
        write(folder.parent, study, pictures)


def changed(study: dict[str, Any], name: str) -> None:
    item, ways = study["items"][0], study["ways"]
    match name:
        case "one way":
            study["ways"], item["outputs"] = ways[:1], {}
        case "ten ways":
            study["ways"] = [*ways, *"abcdefg"]
        case "lacks":
            del item["outputs"]["ours"]
        case "strange":
            item["outputs"]["other"] = item["outputs"]["ours"]
        case "same items":
            study["items"][1]["id"] = item["id"]
        case "same questions":
            study["questions"] = [study["questions"][0]] * 2
        case "same ways":
            study["ways"] = [*ways, "ours"]
        case "outside":
            item["outputs"]["ours"] = "../ours.png"
        case "absolute":
            item["outputs"]["ours"] = "/etc/hostname"
        case "link":
            item["outputs"]["ours"] = "pictures/link.png"
        case "not there":
            item["context"][0]["file"] = "pictures/none.png"
        case "jpeg":
            item["context"][0]["file"] = "pictures/photo.png"
        case "half":
            item["context"][0]["file"] = "pictures/half.png"
        case "named":
            item["prompt"] = "A mug as OURS paints it"
        case "unknown key":
            item["surprise"] = 1
        case "no items":
            study["items"] = []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("one way", "has 1 ways"), ("ten ways", "has 10 ways"), ("lacks", "no output of 'ours'"),
        ("strange", "'other'"), ("same items", "item 'scene-0' comes twice"),
        ("same questions", "question 'identity' comes twice"), ("same ways", "way 'ours' comes"),
        ("outside", "leaves the folder"), ("absolute", "leaves the folder"),
        ("link", "leaves the folder"), ("not there", "is not there"), ("jpeg", "no whole PNG"),
        ("half", "no whole PNG"), ("named", "name of a way"), ("unknown key", "surprise"),
        ("no items", "items"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_shown_is_refused_in_three_parts(
    folder: Path, name: str, told: str
) -> None:
    pictures = folder / "pictures"
    whole = (pictures / "0-ours.png").read_bytes()
    (folder.parent / "outside.png").write_bytes(whole)
    (pictures / "link.png").symlink_to(folder.parent / "outside.png")
    (pictures / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(pictures / "photo.png", format="JPEG")
    study = json.loads((folder / "study.json").read_text())
    changed(study, name)
    (folder / "study.json").write_text(json.dumps(study))
    with pytest.raises(UserError) as refused:
        read(folder)
    assert told in refused.value.why and refused.value.given and refused.value.todo


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)


# Blinding


def test_nothing_that_is_served_tells_which_way_painted_it(folder: Path) -> None:
    for way in WAYS:  # what other programs write into a PNG
        for file in folder.glob(f"pictures/*-{way}.png"):
            notes = PngImagePlugin.PngInfo()
            notes.add_text("parameters", f"painted by {way}")
            Image.open(file).save(file, pnginfo=notes, dpi=(len(way), 72))
    with studies.browser(folder) as client:
        shown = client.get("/study")
        pictures = re.findall(r"/picture/[\w-]+", shown.text)
        assert len(pictures) == len(set(pictures)) == 3 * (2 + 3)
        answers = [shown, studies.choose(client, shown.json()), client.post("/vote", json={})]
        answers += [client.get(address) for address in [*pictures, "/picture/none"]]
        for answer in answers:
            served = answer.content + json.dumps([*answer.headers.multi_items()]).encode()
            for name in (*WAYS, "scene-0", "identity", "pictures", "painted", str(folder)):
                assert not re.search(rb"\b%s\b" % name.encode(), served), (name, answer.url)
        assert {answer.headers["content-type"] for answer in answers[3:-1]} == {"image/png"}
        for address, (file, _) in ASSETS.items():  # the same for every study
            assert client.get(address).text == (PAGE / file).read_text()
        for address in pictures:
            with Image.open(io.BytesIO(client.get(address).content)) as picture:
                assert picture.info == {}


def test_positions_and_addresses_say_nothing_without_the_key() -> None:
    blinding, other = Blinding(b"1" * 32), Blinding(b"2" * 32)
    assert blinding.token("picture", "a", "b") != blinding.token("picture", "ab", "")
    assert blinding.token("picture", "a") != other.token("picture", "a")
    orders = [blinding.order(WAYS, f"voter-{n}", "item") for n in range(3000)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    # Six orders, 500 each; beyond 5 standard deviations is no chance.
    assert len(counts) == 6 and abs(counts - 500).max() < 5 * (500 * 5 / 6) ** 0.5
    # What a voter sees of one item says nothing of the next.
    both = [(order[0], blinding.order(WAYS, f"voter-{n}", "next")[0])
            for n, order in enumerate(orders)]  # fmt: skip
    assert abs(sum(a == b for a, b in both) - 1000) < 5 * (3000 * 2 / 9) ** 0.5


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    votes = tmp_path / "votes.jsonl"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(key_beside, [votes] * 32))
    file = tmp_path / "votes.jsonl.key"
    assert len(keys) == 1 and file.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    file.write_text("not a key")
    with pytest.raises(UserError, match="holds no key"):
        key_beside(votes)


def test_a_voter_sees_the_same_order_again_and_others_another(folder: Path) -> None:
    with studies.browser(folder) as client:
        first, cookie = client.get("/study").json(), client.cookies[VOTER]
        assert client.get("/study").json() == first
        assert cookie not in json.dumps(first)
    with studies.browser(folder) as later:  # a server that was started again
        later.cookies.set(VOTER, cookie)
        assert later.get("/study").json() == first
    seen = set()
    for _ in range(12):
        with studies.browser(folder) as stranger:
            seen.add(json.dumps(stranger.get("/study").json()["items"]))
    assert len(seen) > 6


def test_the_page_asks_no_other_address_and_its_colours_are_readable() -> None:
    for path in PAGE.iterdir():
        assert not re.search(r"https?:|//[a-z]+\.|@import|innerHTML", path.read_text()), path
    css = (PAGE / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    light, dark = ({**dict(re.findall(r"--([\w-]+): (#\w+)", block))} for block in blocks)
    for colours in (light, light | dark):
        for ink in ("ink", "quiet", "wrong", "accent"):
            for ground in ("ground", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
        assert contrast(colours["edge"], colours["ground"]) >= 3


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        srgb = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_study_reads_as_its_json(folder: Path) -> None:
    """Anything may write the folder: these keys, and no others."""
    text = json.loads((folder / "study.json").read_text())
    assert set(text) == set(Study.model_fields) == {"title", "questions", "ways", "items"}
    assert set(text["items"][0]) == {"id", "prompt", "context", "outputs"}


def test_the_docs_studies_are_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    (shown,) = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert Study.model_validate_json(shown).items
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/study.md", "exec"), {})
    (folder,) = set(re.findall(r"^insitu study \w+ (\S+)", text, re.MULTILINE))
    assert len(read(Path(folder)).items) == 4
