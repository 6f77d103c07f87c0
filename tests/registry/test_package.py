"""Proves that a package is what its card says, or is refused in three parts.

Needs no checkpoint: any bytes stand for weights.
"""

import hashlib
import json
from pathlib import Path

import pytest

from insitu.errors import UserError
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package, write_run

BASE = "a" * 64
CONTENT = b"weights" * 100


def make_card(**changed: object) -> Card:
    values: dict[str, object] = {
        "method": "dreammix", "subject": "mug-1", "class_word": "mug", "identifier": "sks",
        "base": Base(path="models/x", revision=None, weights_digest=BASE),
        "data_digest": "b" * 64, "settings": {"rank": 4}, "seed": 0,
        "weights_sha256": hashlib.sha256(CONTENT).hexdigest(),
    }  # fmt: skip
    return Card(**(values | changed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS).write_bytes(CONTENT)
    (tmp_path / CARD).write_text(make_card().text())
    return tmp_path


def test_a_package_opens_and_is_named_by_its_digest(folder: Path) -> None:
    package = Package.open(folder)
    assert package.digest == make_card().digest
    package.require_base(BASE)


def test_the_digest_covers_what_decides_behaviour_and_nothing_else(folder: Path) -> None:
    other = [
        make_card(seed=1),
        make_card(settings={"rank": 8}),
        make_card(weights_sha256="c" * 64),
        make_card(base=Base(path="models/x", revision=None, weights_digest="d" * 64)),
    ]
    digests = {card.digest for card in (make_card(), *other)}
    assert len(digests) == 1 + len(other)
    elsewhere = make_card(base=Base(path="models/y", revision="f" * 40, weights_digest=BASE))
    assert elsewhere.digest == make_card().digest
    before = Package.open(folder).digest
    write_run(folder, {"host": "a", "dino": 0.5})
    after = Package.open(folder)
    assert after.digest == before and after.run() == {"host": "a", "dino": 0.5}


def test_one_flipped_bit_is_refused(folder: Path) -> None:
    content = bytearray(CONTENT)
    content[321] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match="damaged or exchanged"):
        Package.open(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        Package.open(folder)


@pytest.mark.parametrize("change", [{"format": 2}, {"surprise": 1}, {"data_digest": "short"}])
def test_a_card_of_another_version_is_refused(folder: Path, change: dict[str, object]) -> None:
    card = json.loads((folder / CARD).read_text()) | change
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match="is not one of this version"):
        Package.open(folder)


def test_another_base_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="on other weights it means nothing"):
        Package.open(folder).require_base("e" * 64)
