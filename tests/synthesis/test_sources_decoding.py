"""Proves that what decodes becomes upright RGB, and that pictures of no use, duplicates and broken
samples are set aside with a reason, never lost. Needs no model and no network.
"""

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from insitu.records import Rejected
from insitu.records.pictures import Picture, placeholder
from insitu.synthesis import sources
from tests.synthesis.picture_sources import (
    alone,
    encoded,
    painted,
    parquet,
    put,
    rows,
    tar,
    turned,
    verdicts,
)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(3 * side + 1)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "filter", "score", "reason"),
    [
        (b"", "unreadable", 0, "no picture"),
        (b"not a picture", "unreadable", 13, "no picture"),
        (encoded(painted(0), "JPEG")[:900], "unreadable", 900, "truncated"),
        (encoded(painted(0))[:-900], "unreadable", None, ""),
        (encoded(Pillow.new("F", (40, 40)), "TIFF"), "unreadable", None, "without a known range"),
        (bomb(9000), "too large", 9000**2, "9000 x 9000 pixels"),
        (bomb(20000), "too large", None, "over 178956970 pixels"),
        (encoded(painted(0, 15, 80)), "too small", 15, "has 15 pixels, under 16"),
    ],
)
def test_what_is_of_no_use_is_set_aside(
    data: bytes, filter: str, score: float | None, reason: str, tmp_path: Path
) -> None:
    row = alone(data, tmp_path)
    assert isinstance(row, Rejected) and row.filter == filter and reason in row.reason
    assert score is None or row.score == score
    assert row.record.sha256 == hashlib.sha256(data).hexdigest()
    assert " at 0x" not in row.reason
    if filter != "too small":
        assert row.record.image == placeholder()
    if filter == "unreadable":
        assert (row.record.width, row.record.height) == (0, 0)


def test_a_file_that_no_photo_has_the_size_of_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    row = alone(encoded(painted(0)), tmp_path)
    assert isinstance(row, Rejected) and row.filter == "file too large" and row.record.sha256 == ""


def sixteen_bit() -> bytes:
    grey = np.asarray(painted(3).convert("L")).astype(np.uint16)
    return encoded(Pillow.fromarray(grey * 257))


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (turned(), 0),
        (encoded(painted(3), "WEBP", lossless=True), 0),
        (encoded(painted(3), "BMP"), 0),
        (encoded(painted(3), "GIF"), 64),
        (encoded(painted(3).quantize(255)), 64),
        (encoded(painted(3).convert("CMYK"), "JPEG", quality=95), 60),
    ],
)
def test_other_kinds_become_upright_rgb(data: bytes, tolerance: int, tmp_path: Path) -> None:
    row = alone(data, tmp_path)
    assert isinstance(row, Picture) and (row.width, row.height) == (48, 40)
    assert row.image.data != data and row.image.data.startswith(b"\x89PNG")
    off = np.abs(row.image.array().astype(int) - np.asarray(painted(3)))
    assert off.max() <= tolerance
    assert row.sha256 == hashlib.sha256(data).hexdigest()


def test_grey_sixteen_bits_and_transparency(tmp_path: Path) -> None:
    grey = alone(sixteen_bit(), tmp_path)
    assert isinstance(grey, Picture)
    assert np.array_equal(grey.image.array()[..., 0], np.asarray(painted(3).convert("L")))
    clear = painted(4).convert("RGBA")
    clear.putalpha(0)
    row = alone(encoded(clear), tmp_path)
    assert isinstance(row, Picture) and (row.image.array() == 255).all()


def test_phone_jpegs_and_damaged_exif_keep_their_bytes(tmp_path: Path) -> None:
    several = encoded(painted(5), "MPO", save_all=True, append_images=[painted(6)])
    row = alone(several, tmp_path)
    assert isinstance(row, Picture) and row.image.data == several
    damaged = encoded(painted(5), "JPEG", exif=b"Exif\0\0nonsense")
    row = alone(damaged, tmp_path)
    assert isinstance(row, Picture) and row.image.data == damaged


def test_duplicates_are_set_aside_and_both_identities_named(tmp_path: Path) -> None:
    picture = painted(1, 96, 80)
    put(
        tmp_path,
        {
            "anna/0.png": encoded(picture),
            "anna/1.png": encoded(picture),
            "ben/2.jpg": encoded(picture.resize((60, 50)), "JPEG", quality=60),
            "ben/3.png": encoded(painted(2)),
            "carla/4.png": encoded(picture),
        },
    )
    found = {row.id: row for row in rows(tmp_path)}
    assert {name for name, row in found.items() if isinstance(row, Picture)} == {
        "anna/0.png",
        "ben/3.png",
    }
    equal, near, other = (found[n] for n in ("anna/1.png", "ben/2.jpg", "carla/4.png"))
    assert isinstance(equal, Rejected) and (equal.filter, equal.score) == ("duplicate", 0)
    assert equal.reason == "its file is equal to that of anna/0.png"
    assert isinstance(near, Rejected) and near.filter == "near-duplicate" and near.score <= 4
    assert "that of anna/0.png; that one shows anna, this one ben" in near.reason
    assert isinstance(other, Rejected) and "that one shows anna, this one carla" in other.reason
    assert verdicts(tmp_path, near_duplicate_bits=None)["ben/2.jpg"] == "kept"


def test_the_nearest_is_found_as_a_plain_loop_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from insitu.synthesis.sources import duplicates

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**63, 40, dtype=np.uint64)
    drawn = [int(rng.choice(codes)) ^ (1 << int(rng.integers(64))) for _ in range(600)]
    monkeypatch.setattr(duplicates, "_FIRST_CAPACITY", 2)
    monkeypatch.setattr(duplicates, "perceptual_hash", np.uint64)
    seen, kept = duplicates.Seen(1), []
    for i, code in enumerate(drawn):
        near = [(bin(code ^ other).count("1"), k) for k, other in enumerate(kept)]
        best = min(near, default=(64, 0))
        match = seen.repeats(f"{i}", None, sha256=f"{i:064x}", pixels=code)  # type: ignore[arg-type]
        assert (match is not None) == (best[0] <= 1)
        if match is None:
            kept.append(code)
        else:
            assert (match.bits, drawn[int(match.id)]) == (best[0], kept[best[1]])
    assert 40 < len(kept) < 600


def test_one_broken_sample_stops_no_other(tmp_path: Path) -> None:
    good = [encoded(painted(i)) for i in range(5)]
    members = {
        "0.png": good[0],
        "0.json": b"{broken",
        "1.png": good[1],
        "1.txt": b"\xff\xfe",
        "2.png": b"bad",
        "3.json": b'{"caption": ["a", "b"]}',
        "3.png": good[2],
        "d/4.v1.PNG": good[3],
        "d/4.cls": b"7",
        "5.txt": b"no picture",
    }
    put(tmp_path, {"a.tar": tar(members)})
    found = {row.id: row for row in rows(tmp_path)}
    reasons = {n.partition("#")[2]: getattr(row, "reason", "kept") for n, row in found.items()}
    assert reasons == {
        "0.png": "its .json is not JSON",
        "1.png": "its 1.txt is not in UTF-8",
        "2.png": "it is no picture, or of an unknown format",
        "3.png": "in its .json, `caption` is neither text nor a number",
        "d/4.v1.PNG": "kept",
    }
    assert found["a.tar#d/4.v1.PNG"].identity == "7"


def test_a_member_is_never_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {"0.png": encoded(painted(1)), "t/a.tar": tar({"0.png": encoded(painted(2))})})
    put(tmp_path, {"t/b.tar": tar({"0.png": b"x"})})
    monkeypatch.chdir(tmp_path)
    kept, bad = rows("t")
    assert isinstance(kept, Picture) and kept.image.data == encoded(painted(2))
    assert isinstance(bad, Rejected) and kept.source == "t/a.tar#0.png"


def test_rows_without_bytes_are_set_aside(tmp_path: Path) -> None:
    outside = put(tmp_path, {"secret.png": encoded(painted(1))}) / "secret.png"
    image = [{"bytes": None, "path": str(outside)}, None, {"bytes": b"bad", "path": "x"}]
    put(tmp_path / "t", {"a.parquet": parquet({"image": image})})
    found = rows(tmp_path / "t")
    assert [row.filter for row in found] == ["unreadable"] * 3
    assert found[0].reason == found[1].reason == "there are no bytes of a picture"
    assert found[0].record.sha256 == ""
