"""Debian's Chromium, for tests of pages."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = os.environ.get("INSITU_CHROMIUM") or shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium, or set INSITU_CHROMIUM"
)
# Chromium looks up addresses of its maker at every start unless told not to.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
PHONE = {"viewport": {"width": 375, "height": 667}, "device_scale_factor": 2,
         "is_mobile": True, "has_touch": True}  # fmt: skip
DESK = {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    # As root, as in a container, Chromium has no sandbox.
    sandbox = () if os.geteuid() else ("--no-sandbox",)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *sandbox])
        yield browser
        browser.close()
