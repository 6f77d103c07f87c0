"""Proves that what a step reports can be looked at in Dagster: pictures as pictures."""

import base64
import io
from pathlib import Path

import dagster as dg
from PIL import Image

from orchestration.showing import WIDEST, shown


def test_a_png_becomes_a_picture_of_bounded_size(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 1000), (200, 30, 30)).save(tmp_path / "wide.png")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<p>")
    facts = {"wide": str(tmp_path / "wide.png"), "page": "page/index.html", "gain": 0.25}
    found = shown(facts, tmp_path)
    text = found["wide"].value
    data = base64.b64decode(text[text.index("base64,") + 7 : -1])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (WIDEST, WIDEST // 4)
        red, green, blue = picture.convert("RGB").getpixel((10, 10))
    assert abs(red - 200) < 8 and abs(green - 30) < 8 and abs(blue - 30) < 8
    assert found["page"] == dg.MetadataValue.path(tmp_path / "page" / "index.html")
    assert found["gain"] == 0.25


def test_text_with_a_slash_stays_text(tmp_path: Path) -> None:
    assert shown({"note": "3/4 kept", "gone": "reports/gone.png"}, tmp_path) == {
        "note": "3/4 kept", "gone": "reports/gone.png"
    }  # fmt: skip
