"""Proves that requests of strangers are bounded before they cost anything: bytes, pixels, time,
keys, pages of others; and that a client that leaves, or an API described as it is, breaks nothing.

A real server on loopback, with tiny random bases.
"""

import asyncio
import base64
import io
import json
import pickle
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image as Pillow

from insitu.client import Client, Refused
from insitu.errors import UserError
from insitu.registry.store import Store
from insitu.serving.app import make_app
from insitu.serving.keys import Keys, add
from insitu.serving.pictures import decode, encode
from insitu.serving.service import Service
from tests.serving import served
from tests.serving.served import MUG, PHOTO

BOX = [0.2, 0.3, 0.7, 0.9]


def body(**changed: Any) -> dict[str, Any]:
    return {
        "adapter": MUG, "image": encode(PHOTO), "placements": [{"box": BOX}], "seed": 4,
    } | changed  # fmt: skip


class Running:
    """uvicorn around an application, in a thread."""

    def __init__(self, service: Service) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        config = uvicorn.Config(
            make_app(service), host="127.0.0.1", port=self.port, log_level="error"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Running":
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def running(
    store: Store, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    params = served.make_params(
        tmp_path_factory.mktemp("guarded"), checkpoints, upload_s=5.0, body_mib=1, queue=2, batch=1
    )
    service = served.make_service(params, store, served.load_bases(checkpoints))
    with Running(service) as running:
        yield running


def send(running: Running, data: bytes) -> tuple[int, Any]:
    """Raw bytes to the server; status and the refusal."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as line:
        line.sendall(data)
        answer = b""
        while chunk := line.recv(65536):
            answer += chunk
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)["error"]


def head(running: Running, *more: str) -> bytes:
    lines = ["POST /v1/place HTTP/1.1", f"Host: 127.0.0.1:{running.port}", *more, "", ""]
    return "\r\n".join(lines).encode()


def good(running: Running) -> None:
    with Client(running.url) as client:
        assert client.place(MUG, PHOTO, [{"box": BOX}]).image.size == PHOTO.shape[1::-1]


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header names a size that it does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def saved(image: Pillow.Image, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def hostile() -> dict[str, bytes]:
    frames = [Pillow.new("P", (8, 8), n % 255) for n in range(1000)]
    jpeg = saved(Pillow.fromarray(PHOTO), "JPEG")
    flipped = bytearray(saved(Pillow.fromarray(PHOTO), "PNG"))
    flipped[len(flipped) // 2] ^= 0xFF
    return {
        "image bomb": png_of(60_000, 60_000),
        "10k x 10k PNG": saved(Pillow.new("L", (10_000, 10_000)), "PNG"),
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "flipped byte": bytes(flipped),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "GIF of 1,000 frames": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "pickle": pickle.dumps({"a": 1}),
        "nothing": b"",
    }


@pytest.mark.parametrize("what", hostile())
def test_hostile_pictures_are_refused_and_the_next_request_succeeds(
    running: Running, what: str
) -> None:
    data = hostile()[what]
    places: list[dict[str, Any]] = [{"image": data}, {"placements": [{"mask": data}]}]
    for changed in places:
        image, given = changed.get("image", PHOTO), changed.get("placements", [{"box": BOX}])
        with Client(running.url) as client, pytest.raises(Refused) as refused:
            client.place(MUG, image, given)
        assert refused.value.status == 422 and refused.value.todo
    good(running)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(body(placements=[{"box": [float("nan")] * 4}])),
        json.dumps(body(adapter="../../etc/passwd")),
        json.dumps(body(adapter="dreammix.mug-1/../../x")),
        json.dumps(body(prompt="x" * 600_000)),
        json.dumps(body(seed=1e400)),
        "[" * 100_000,
        "{" + '"a":{' * 5000,
        '{"adapter": "\ud800"}',
        "null",
        "",
        "\0",
    ],
)
def test_hostile_bodies_are_refused(running: Running, text: str) -> None:
    data = text.encode(errors="surrogatepass")
    length = f"Content-Length: {len(data)}"
    kind = "Content-Type: application/json"
    status, error = send(running, head(running, length, kind, "Connection: close") + data)
    assert status in (413, 422) and error["why"] and error["to do"]


def test_what_is_too_large_is_not_read(running: Running) -> None:
    status, error = send(running, head(running, "Content-Length: 99999999999"))
    assert status == 413 and "99999999999 bytes" in error["given"]
    chunked = head(running, "Transfer-Encoding: chunked", "Content-Type: application/json")
    piece = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as line:
        line.sendall(chunked)
        try:
            for _ in range(20):
                line.sendall(piece)
        except OSError:
            pass  # it has hung up already
        answer = line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    good(running)


def test_a_slow_upload_is_ended(running: Running) -> None:
    status, error = send(running, head(running, "Content-Length: 1000") + b"{")
    assert status == 408 and "did not arrive within 5 s" in error["why"]
    good(running)


def test_a_client_that_leaves_is_no_longer_painted_for(running: Running) -> None:
    data = json.dumps(body(steps=100)).encode()
    kind = "Content-Type: application/json"
    line = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    line.sendall(head(running, f"Content-Length: {len(data)}", kind) + data)
    time.sleep(0.3)
    line.close()
    deadline = time.monotonic() + 20
    with Client(running.url) as client:
        while 'route="/v1/place",status="499"' not in client._http.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    good(running)


def test_more_than_may_wait_are_told_when_to_come_again_and_all_recovers(
    running: Running,
) -> None:
    async def crowd() -> list[Any]:
        import httpx

        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            asked = [client.post("/v1/place", json=body(seed=n, steps=20)) for n in range(12)]
            return list(await asyncio.gather(*asked))

    answers = asyncio.run(crowd())
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429} and statuses.count(429) >= 2
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1 and answer.json()["error"]["to do"]
    good(running)


def test_jobs_tell_their_progress_and_can_be_cancelled(running: Running) -> None:
    with Client(running.url) as client:
        job = client.start(MUG, PHOTO, [{"box": BOX}], seed=4, steps=10)
        told: list[float] = []
        placed = job.wait(told.append, every_s=0.01)
        assert told[-1] == 1.0 and placed.seed == 4
        same = client.place(MUG, PHOTO, [{"box": BOX}], seed=4, steps=10)
        assert placed.png == same.png
        with client._http.stream("GET", f"/v1/jobs/{job.id}/events") as events:
            text = "".join(events.iter_text())
        assert text.startswith("event: done") and f'"id":"{job.id}"' in text

        long = client.start(MUG, PHOTO, [{"box": BOX}], steps=100)
        long.cancel()
        with pytest.raises(Refused, match="cancelled"):
            long.wait()
        assert client._http.get(f"/v1/jobs/{long.id}/image").status_code == 404
        assert client._http.get("/v1/jobs/" + "0" * 32).status_code == 404
        with pytest.raises(Refused, match="nothing can be painted"):
            client.start(MUG, PHOTO, [{"box": [0.5, 0.5, 0.51, 0.51]}]).wait()


def test_the_client_lists_what_there_is_and_says_what_is_refused(running: Running) -> None:
    with Client(running.url) as client:
        assert [one["name"] for one in client.adapters()] == [
            served.CUP, MUG, served.ELIGEN, served.TWO,
        ]  # fmt: skip
        assert [one["name"] for one in client.adapters("eligen")] == [served.ELIGEN]
        methods = {one["name"]: one["takes"] for one in client.methods()}
        assert methods["eligen"]["needs"] == ["prompt"] and methods["dreammix"]["subject"]
        with pytest.raises(UserError, match="cannot be read"):
            client.place(MUG, "nowhere.png", [{"box": BOX}])
    with pytest.raises(UserError, match="does not answer"):
        Client("http://127.0.0.1:9", patience_s=0).methods()


def test_other_pages_and_other_names_are_refused_without_keys(running: Running) -> None:
    with Client(running.url) as client:
        for name, value in (("Origin", "http://evil.example"), ("Host", "evil.example")):
            answer = client._http.get("/v1/adapters", headers={name: value})
            assert answer.status_code == 403
        own = client._http.get("/v1/adapters", headers={"Origin": running.url})
        assert own.status_code == 200


def test_keys_open_what_they_are_for(
    store: Store, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    reader, painter = add(file, "reader", ["read"]), add(file, "painter", ["read", "place"])
    with pytest.raises(UserError, match="one already"):
        add(file, "reader", ["read"])
    assert reader not in file.read_text() and file.stat().st_mode & 0o077 == 0
    params = served.make_params(tmp_path, checkpoints)
    bases = served.load_bases(checkpoints)  # the other server's adapters sit in its own
    service = served.make_service(params, store, bases, keys=Keys(file))

    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    with TestClient(make_app(service), base_url="http://insitu.example") as client:
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        assert client.get("/v1/adapters").status_code == 401
        assert client.get("/v1/adapters", headers=bearer("x")).status_code == 401
        assert client.get("/v1/adapters", headers=bearer(reader)).status_code == 200
        assert client.get("/metrics", headers=bearer(painter)).status_code == 403
        assert client.post("/v1/place", json=body(), headers=bearer(reader)).status_code == 403
        done = client.post("/v1/place", json=body(), headers=bearer(painter))
        assert done.status_code == 200 and decode(done.json()["image"]).shape == PHOTO.shape
        job = client.post("/v1/jobs", json=body(), headers=bearer(painter)).json()["id"]
        assert client.get(f"/v1/jobs/{job}", headers=bearer(reader)).status_code == 404  # not its
        assert client.get(f"/v1/jobs/{job}", headers=bearer(painter)).status_code == 200
        # A key that is taken out is refused at once.
        kept = [one for one in json.loads(file.read_text())["keys"] if one["name"] != "reader"]
        file.write_text(json.dumps({"keys": kept}))
        assert client.get("/v1/adapters", headers=bearer(reader)).status_code == 401
    file.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Keys(file)


def test_a_request_has_an_id_and_is_counted(client: TestClient) -> None:
    answer = client.get("/healthz", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert client.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"
    assert client.post("/v1/place", json=body()).status_code == 200
    text = client.get("/metrics").text
    assert 'insitu_requests_total{route="/v1/place",status="200"}' in text
    assert 'insitu_pictures_total{method="dreammix"} 1.0' in text
    ready = client.get("/readyz").json()
    assert ready["ready"] and ready["problems"] == {} and ready["bases"] == ["flux", "inpaint"]
    unknown = client.get("/v1/nothing")
    assert unknown.status_code == 404 and unknown.json()["error"]["to do"]


def test_transparent_and_turned_pictures_are_read_as_they_are_seen() -> None:
    from insitu.serving.pictures import read_photo

    clear = np.zeros((4, 6, 4), np.uint8)
    assert (read_photo(saved(Pillow.fromarray(clear), "PNG")) == 255).all()
    turned = Pillow.fromarray(PHOTO[:, :40])
    exif = Pillow.Exif()
    exif[0x0112] = 6
    assert read_photo(saved(turned, "JPEG", exif=exif)).shape == (40, 80, 3)
    assert decode("data:image/png;base64," + base64.b64encode(saved(turned, "PNG")).decode()).any()
