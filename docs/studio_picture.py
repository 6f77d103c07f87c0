"""Draws docs/pictures/serving/studio.png: the studio at work, in Chromium.

    python docs/studio_picture.py data/trained/inpaint_anywhere    # or any of two places

A registry and a server of its own, for the time that it takes, on the checkpoints of params.yaml.
"""

import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import uvicorn
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from insitu import world
from insitu.params import load
from insitu.registry.package import Package
from insitu.registry.store import CHAMPION, Store
from insitu.serving.app import make_app
from insitu.serving.guards import configure_logs
from insitu.serving.service import make

OUT = Path(__file__).parent / "pictures" / "serving" / "studio.png"
BOXES = ((0.03, 0.22, 0.49, 0.94), (0.51, 0.22, 0.97, 0.94))
THINGS = ("clock", "backpack")
SIZE = {"width": 1280, "height": 900}


def main(adapter: Path) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        package = Package.open(adapter)
        url = serve(folder, package)
        drawn = world.sample_scene(world.rng_for("studio", 1), style="photo")
        # A scene has a thing; this one is a speck, and a box covers it.
        speck = world.Frame(0.25, 0.6, 0.004, 0.0, False)
        scene = replace(drawn, things=drawn.things[:1], frames=(speck,))
        room = world.render(scene, 128).image
        Image.fromarray(room).save(folder / "room.png")
        for name in THINGS:
            rng = world.rng_for("studio", name)
            thing = world.sample_subject(rng, category=name, accessory=False)
            picture = world.portrait(thing, rng, 128).image
            Image.fromarray(picture).save(folder / f"{name}.png")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport=SIZE)
            page.goto(url)
            use(page, folder, package.name)
            OUT.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=OUT, full_page=True)
            browser.close()
    print(OUT)


def use(page: Page, folder: Path, adapter: str) -> None:
    """Two boxes, two references, a picture."""
    page.wait_for_selector("#generate:not([disabled])")
    page.select_option("#adapter", adapter)
    page.set_input_files("#photo", folder / "room.png")
    area = page.locator("#canvas canvas").first.bounding_box()
    assert area is not None
    for number, (box, name) in enumerate(zip(BOXES, THINGS, strict=True), start=1):
        x0, y0, x1, y1 = box
        page.mouse.move(area["x"] + x0 * area["width"], area["y"] + y0 * area["height"])
        page.mouse.down()
        page.mouse.move(area["x"] + x1 * area["width"], area["y"] + y1 * area["height"], steps=5)
        page.mouse.up()
        page.set_input_files(f'[aria-label="Reference for place {number}"]', folder / f"{name}.png")
        page.fill(f'[aria-label="What goes into place {number}"]', name)
    page.click("#generate")
    page.wait_for_selector("#result:not([hidden])", timeout=120_000)
    page.wait_for_selector("#running", state="hidden")
    page.wait_for_timeout(300)
    page.evaluate("scrollTo(0, 0)")


def serve(folder: Path, package: Package) -> str:
    """A server with this adapter as champion; its address."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "kept").as_uri())
    store = Store.connect(uri)
    store.register(package, {})
    store.client.set_registered_model_alias(package.name, CHAMPION, "1")
    params = load()
    methods = (package.card.method,)
    own = params.serving.model_copy(update={"methods": methods, "folder": str(folder / "served")})
    service = make(params.model_copy(update={"serving": own}))
    service.engine.catalog._connect = lambda: store
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configure_logs("warning")
    server = uvicorn.Server(
        uvicorn.Config(make_app(service), host="127.0.0.1", port=port, log_level="warning")
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
