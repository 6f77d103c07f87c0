"""Proves that a vote is stored for the way whose picture was chosen, that votes are stored whole,
whoever else votes and whatever crashes, and that what is no vote is refused in three parts.

Needs no model: the world draws the pictures.
"""

import io
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from insitu.errors import UserError
from insitu.serving.study import VOTES
from insitu.serving.study import votes as stored
from insitu.serving.study.app import VOTER, make_app
from tests.serving import studies

WAYS = studies.WAYS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    studies.written(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with studies.browser(folder) as client:
        yield client


def test_a_vote_is_for_the_way_whose_picture_was_there(client: TestClient, folder: Path) -> None:
    shown = client.get("/study").json()
    for item in range(3):
        for position in range(3):
            assert studies.choose(client, shown, item, position=position).status_code == 200
            (*_, vote) = stored.read(folder / VOTES)
            assert vote.way is not None and vote.shown[position] == vote.way
            served = client.get(shown["items"][item]["outputs"][position]["address"]).content
            number = vote.item.removeprefix("scene-")
            kept = np.asarray(Image.open(folder / "pictures" / f"{number}-{vote.way}.png"))
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(served))), kept)


def test_the_last_vote_counts_and_all_are_kept(client: TestClient, folder: Path) -> None:
    shown = client.get("/study").json()
    for position in (2, None, 1):
        studies.choose(client, shown, position=position, name="  Ada ")
    votes = stored.read(folder / VOTES)
    assert [vote.name for vote in votes] == ["Ada"] * 3 and votes[1].way is None
    (counted,) = stored.latest(votes).values()
    assert counted == votes[2] and sorted(counted.shown) == sorted(WAYS)
    token = shown["items"][0]["token"]
    answers = client.get("/study").json()["answers"]
    assert answers == {token: {shown["questions"][0]["token"]: 1}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"item": "none"}, "no such item"), ({"question": "none"}, "no such question"),
        ({"position": 3}, "0 to 2"), ({"position": -1}, "0 to 2"), ({"position": "1"}, "position"),
        ({"position": True}, "position"), ({"page": "other"}, "cookie was changed"),
        ({"name": "x" * 81}, "name"), ({"surprise": 1}, "surprise"),
    ],
)  # fmt: skip
def test_what_is_no_vote_is_refused_in_three_parts(
    client: TestClient, folder: Path, change: dict[str, Any], told: str
) -> None:
    shown = client.get("/study").json()
    answer = studies.choose(client, shown, **change)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert set(error) == {"given", "why", "to do"} and told in error["why"]
    assert not (folder / VOTES).exists()


def test_a_vote_needs_a_voter_and_a_small_body(client: TestClient) -> None:
    shown = client.get("/study").json()
    client.cookies.clear()
    assert "cookie" in studies.choose(client, shown).json()["error"]["why"]
    client.cookies.set(VOTER, "../../../etc/passwd000")
    assert studies.choose(client, shown).status_code == 422
    answer = client.post("/vote", content=b"x" * 5000)
    assert answer.status_code == 413 and "declared" in answer.json()["error"]["why"]


def test_voters_at_once_lose_no_vote(folder: Path) -> None:
    def vote(_: int) -> None:
        with studies.browser(folder) as client:
            shown = client.get("/study").json()
            for item in range(3):
                assert studies.choose(client, shown, item).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vote, range(16)))
    votes = stored.read(folder / VOTES)
    assert len(votes) == len(stored.latest(votes)) == 48


def test_processes_at_once_lose_no_vote(tmp_path: Path) -> None:
    path = tmp_path / VOTES
    code = (
        "import sys; from pathlib import Path; from tests.serving.studies import some_vote\n"
        "from insitu.serving.study.votes import append\n"
        "for n in range(40): append(Path(sys.argv[1]), some_vote(sys.argv[2], n))"
    )
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], cwd=root) for name in "abc"
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    votes = stored.read(path)
    assert len(stored.latest(votes)) == len(votes) == 120


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_line_that_a_crash_cut_off_is_no_vote(tmp_path: Path, kept: int) -> None:
    path = tmp_path / VOTES
    stored.append(path, studies.some_vote())
    line = path.read_bytes()
    path.write_bytes(line + line[:kept])
    with pytest.warns(UserWarning, match="cut off"):
        assert stored.read(path) == (studies.some_vote(),)
    with pytest.warns(UserWarning, match="cut off"):
        stored.append(path, studies.some_vote(item=1))
    assert stored.read(path) == (studies.some_vote(), studies.some_vote(item=1))


def test_a_whole_last_line_counts_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / VOTES
    path.write_text(studies.some_vote().model_dump_json())
    with warnings.catch_warnings(action="error"):
        stored.append(path, studies.some_vote(item=1))
        assert stored.read(path) == (studies.some_vote(), studies.some_vote(item=1))


def test_other_broken_lines_are_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / VOTES
    for broken in (
        "{}",
        "",
        '{"voter": 1}',
        studies.some_vote().model_dump_json().replace("ours", "x", 1),
    ):
        path.write_text(f"{broken}\n{studies.some_vote().model_dump_json()}\n")
        with pytest.raises(UserError, match="Line 1 is no vote"):
            stored.read(path)
    assert stored.read(tmp_path / "none") == ()
    for other in ({"item": "x"}, {"question": "x"}, {"shown": ["ours", "x"]}):
        path.write_text(studies.some_vote(**({"item": 0} | other)).model_dump_json() + "\n")
        with pytest.raises(UserError, match="which the study has not"):
            make_app(folder, path)


def test_a_vote_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        stored.append(tmp_path, studies.some_vote())
