"""Training arrays drawn once and memory-mapped: `.npy` files, a manifest last.

Drawing is slower than a training step, so each recipe draws its samples beforehand, in several
processes, and reads them back in any order.
"""

import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from insitu.world import WORLD_VERSION

Sample = Mapping[str, np.ndarray]
ROOT = Path(__file__).resolve().parents[1] / ".work"
CHUNK = 64  # samples a worker draws per task


def build(
    folder: Path | str,
    count: int,
    make: Callable[[int], Sample],
    *,
    workers: int = 2,
    fingerprint: str = "",
) -> dict[str, np.memmap]:
    """Return `count` samples as read-only arrays [count, ...] by key, drawing them if needed.

    Args:
        folder: where the arrays live; a relative one is under `models/nano/.work/`.
        make: draws sample `index`; the same keys, shapes and dtypes for every index. It must be
            picklable (a module-level function or a partial of one).
        workers: processes; 1 draws in this one.
        fingerprint: whatever else the samples depend on. Arrays drawn for another fingerprint,
            count or world version are replaced.
    """
    folder = ROOT / folder
    first = {key: np.asarray(value) for key, value in make(0).items()}
    manifest = {
        "count": count,
        "world_version": WORLD_VERSION,
        "fingerprint": fingerprint,
        "arrays": {k: {"shape": list(v.shape), "dtype": v.dtype.str} for k, v in first.items()},
    }
    if _read_manifest(folder) != manifest:
        _draw(folder, manifest, first, make, workers)
    return {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in first}


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else None


def _draw(
    folder: Path,
    manifest: dict[str, Any],
    first: Sample,
    make: Callable[[int], Sample],
    workers: int,
) -> None:
    """Fill the arrays in a sibling folder, then put it in `folder`'s place."""
    count = manifest["count"]
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for key, value in first.items():
            shape = (count, *value.shape)
            np.lib.format.open_memmap(partial / f"{key}.npy", "w+", value.dtype, shape)
        fill = functools.partial(_fill, partial, make, count)
        starts = range(0, count, CHUNK)
        if workers <= 1:
            for start in starts:
                fill(start)
        else:
            # spawn: forking a process in which torch's threads already ran can deadlock.
            context = multiprocessing.get_context("spawn")
            with context.Pool(workers, initializer=_single_threaded) as pool:
                for _ in pool.imap_unordered(fill, starts):
                    pass
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, make: Callable[[int], Sample], count: int, start: int) -> None:
    stop = min(start + CHUNK, count)
    samples = [make(index) for index in range(start, stop)]
    for key in samples[0]:
        array = np.load(folder / f"{key}.npy", mmap_mode="r+")
        array[start:stop] = np.stack([sample[key] for sample in samples])
        array.flush()


def _single_threaded() -> None:
    """Keep each worker to one core: the pool is the parallelism."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import cv2

    cv2.setNumThreads(0)
