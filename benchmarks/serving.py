"""What a server adds to its sampler, what batches gain, and what a crowd does to it.

    python -m benchmarks.serving                  # 4 minutes of two cores
    python -m benchmarks.serving --seconds 10     # a shorter crowd

A server in a process of its own, on the checkpoints of params.yaml, with an adapter of random
weights of the real shape (`tune.dreammix`). The sampler alone and the server take turns.
"""

import argparse
import hashlib
import json
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from mlflow import MlflowClient
from safetensors.torch import save_file

from insitu import world
from insitu.client import Client, Refused
from insitu.evaluation.comparison import nested_mean
from insitu.methods import Placement, find
from insitu.params import Params, load
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package
from insitu.registry.store import CHAMPION, Store
from insitu.serving.app import make_app
from insitu.serving.engine import Wish
from insitu.serving.guards import configure_logs
from insitu.serving.service import Service, make

NAME, BOX = "dreammix.mug-1", (0.3, 0.3, 0.7, 0.8)
PHOTO = world.render(world.sample_scene(world.rng_for("serving")), 128).image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="of sampler and server, in turn")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="that the crowd asks for")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        params = settings(folder)
        service = made(folder, params)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(params, folder, port)
        )
        process.start()
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url)
            overhead(service, url, asked.rounds)
            batches(url, asked.clients)
            crowd(url, params, int(process.pid or 0), asked.seconds)
        finally:
            process.terminate()
            process.join()


def settings(folder: Path) -> Params:
    """The shipped ones, with a short line."""
    params = load()
    own = params.serving.model_copy(
        update={"methods": ("dreammix",), "folder": str(folder / "served"), "queue": 16}
    )
    return params.model_copy(update={"serving": own})


def made(folder: Path, params: Params) -> Service:
    """A registry with one champion, and the same parts that the server has."""
    uri = store_uri(folder)
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "kept").as_uri())
    store = Store.connect(uri)
    service = with_store(params, store)
    backbone = service.engine.bases["inpaint"]
    method_settings = params.tune.dreammix.model_dump()
    package = folder / "package"
    package.mkdir()

    def save() -> None:
        method = find("dreammix", method_settings)
        method.attach(backbone)
        shapes = method.state(backbone)
        method.detach(backbone)
        generator = torch.Generator().manual_seed(0)
        weights = {n: 0.02 * torch.randn(v.shape, generator=generator) for n, v in shapes.items()}
        save_file(weights, package / WEIGHTS)

    # Where the engine works: in another thread the processor's cores would have two teams.
    service.engine.alone.submit(save).result()
    card = Card(
        method="dreammix", subject="mug-1", class_word="mug", identifier="same",
        base=Base(path="nano", revision=None, weights_digest=backbone.digest),
        data_digest="b" * 64, settings={"method": method_settings}, seed=0,
        weights_sha256=hashlib.sha256((package / WEIGHTS).read_bytes()).hexdigest(),
    )  # fmt: skip
    (package / CARD).write_text(card.text())
    store.register(Package.open(package), {})
    store.client.set_registered_model_alias(NAME, CHAMPION, "1")
    return service


def store_uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def with_store(params: Params, store: Store) -> Service:
    """As `make`, on a registry in a file."""
    service = make(params)
    service.engine.catalog._connect = lambda: store
    return service


def serve(params: Params, folder: Path, port: int) -> None:
    configure_logs("warning")
    service = with_store(params, Store.connect(store_uri(folder)))
    uvicorn.run(make_app(service), host="127.0.0.1", port=port, log_level="warning")


def wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with Client(url) as client:
                ask(client)
            return
        except ValueError:  # not there yet
            time.sleep(0.2)
    raise SystemExit("the server did not begin")


def ask(client: Client, seed: int = 0) -> None:
    client.place(NAME, PHOTO, [{"box": BOX}], seed=seed)


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def overhead(service: Service, url: str, rounds: int) -> None:
    """One request at a time: the server against its sampler."""
    place = (Placement(box_xyxy01=BOX),)
    wish = service.engine.ask(Wish(adapter=NAME, image=PHOTO, placements=place))
    service.engine.paint([wish])
    bare, whole = [], []
    with Client(url) as client:
        for seed in range(rounds):
            bare.append(seconds(lambda: service.engine.paint([wish])))
            whole.append(seconds(lambda seed=seed: ask(client, seed)))
    ratio = statistics.median(whole) / statistics.median(bare)
    found = nested_mean((np.array(whole) / np.array(bare) - 1)[:, None, None])
    print(
        f"sampler alone p50 {1000 * statistics.median(bare):.0f} ms, server p50"
        f" {1000 * statistics.median(whole):.0f} ms: {100 * (ratio - 1):.1f}% more"
        f" (mean of pairs {100 * found.value:.1f}%, {100 * found.low:.1f} to"
        f" {100 * found.high:.1f}%; asked: under 10%)"
    )


def batches(url: str, clients: int) -> None:
    """Requests a second of one client, and of several at once, in turn."""
    each = 6
    ratios = []
    with Client(url) as client:
        for turn in range(4):
            alone = each / seconds(lambda: [ask(client, n) for n in range(each)])
            together = clients * each / seconds(lambda: at_once(url, clients, each))
            ratios.append(together / alone)
            print(f"turn {turn + 1}: 1 client {alone:.2f}/s, {clients} clients {together:.2f}/s")
    found = nested_mean(np.array(ratios)[:, None, None])
    print(f"{clients} clients at once: {found} times the throughput of one (asked: 1.5)")


def at_once(url: str, clients: int, each: int) -> None:
    def one() -> None:
        with Client(url) as client:
            for seed in range(each):
                ask(client, seed)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crowd(url: str, params: Params, pid: int, seconds_: float) -> None:
    """More clients than the line has places, none of which waits."""
    own = params.serving
    count = 2 * (own.queue + own.batch)
    answers: Counter[int] = Counter()
    before, peak = memory_mib(pid), 0.0
    until = time.monotonic() + seconds_

    def one() -> None:
        with Client(url, patience_s=0) as client:
            while time.monotonic() < until:
                try:
                    ask(client)
                    answers[200] += 1
                except Refused as error:
                    answers[error.status] += 1
                    time.sleep(0.2)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, memory_mib(pid))
        time.sleep(0.5)
    with Client(url) as client:
        after = statistics.median(seconds(lambda: ask(client)) for _ in range(5))
        state = json.loads(client._http.get("/readyz").text)
    print(
        f"{count} clients for {seconds_:.0f} s on a line of {own.queue}: answers {dict(answers)};"
        f" memory {before:.0f} MiB before, {peak:.0f} at most, {memory_mib(pid):.0f} after; then a"
        f" request takes {1000 * after:.0f} ms, waiting {state['waiting']}, ready {state['ready']}"
    )


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
