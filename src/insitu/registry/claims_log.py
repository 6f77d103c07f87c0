"""What came of the papers' claims, in MLflow: a run for all, and within it one for each arm."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from insitu.registry.store import Store

DIGEST, ARM = "claims.digest", "claims.arm"
_SETTINGS = ("set", "data", "start")
Plain = Mapping[str, Any]


def log(store: Store, found: Plain) -> dict[str, Any]:
    """Log results, once: the same results again are the runs that are there already.

    The whole's run has each claim's first difference and its verdict; an arm's has its settings,
    its adapters' digests and its means on each benchmark.

    Args:
        found: as `docs/claims.json` holds it.

    Returns:
        Addresses of the pages that show the runs: `all`, and `arms` by method and arm.
    """
    results = {key: value for key, value in found.items() if key != "made"}
    digest = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
    # An unfinished one was interrupted, and goes on.
    known = store.find_run({DIGEST: digest, ARM: "all"}, finished=False)
    parent = known or _whole(store, found, digest)
    arms: dict[str, dict[str, str]] = {}
    for method, arm, own in _arms(found):
        tags = {DIGEST: digest, ARM: f"{method}/{arm}"}
        run = store.find_run(tags) or _arm(
            store, tags | {"mlflow.parentRunId": parent}, own, _means(found, method, arm)
        )
        arms.setdefault(method, {})[arm] = store.address(run)
    store.client.set_terminated(parent)
    return {"all": store.address(parent), "arms": arms}


def keep(store: Store, address: str, file: str) -> None:
    """Keep a file, such as the report, with the run at an address that `log` told."""
    store.client.log_artifact(address.rpartition("/")[2], file)


def _whole(store: Store, found: Plain, digest: str) -> str:
    made = found["made"]
    commit = (made["claims_commit"] or "").partition(" ")[0]
    run = store.start_run(f"claims {commit[:7]}".strip(), {DIGEST: digest, ARM: "all"})
    values = {claim["id"]: claim["tests"][0]["difference"] for claim in found["claims"]}
    tags = {claim["id"]: claim["verdict"] for claim in found["claims"]}
    told = {key: str(value) for key, value in made.items() if value is not None}
    _fill(store, run, values, told, tags)
    return run


def _arm(store: Store, tags: Mapping[str, str], own: Plain, means: Mapping[str, float]) -> str:
    run = store.start_run(tags[ARM], tags)
    settings = {
        key: own[key] if isinstance(own[key], str) else json.dumps(own[key])
        for key in _SETTINGS
        if own.get(key)
    }
    digests = {f"adapter {n}": text for n, text in own.get("adapters", {}).items()}
    if own.get("data_digest"):
        digests["data"] = own["data_digest"]
    _fill(store, run, means, settings, digests)
    store.client.set_terminated(run)
    return run


def _fill(
    store: Store,
    run: str,
    values: Mapping[str, float],
    told: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    now = int(time.time() * 1000)
    store.client.log_batch(
        run,
        metrics=[Metric(_name(key), value, now, 0) for key, value in values.items()],
        params=[Param(key, value) for key, value in told.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


def _arms(found: Plain) -> Iterator[tuple[str, str, Plain]]:
    """Arms that were trained, and those that only paint."""
    trained = [(method, arm) for method, own in found["arms"].items() for arm in own]
    painted = [
        (table["method"], row["arm"]) for table in found["benchmarks"] for row in table["rows"]
    ]
    for method, arm in dict.fromkeys(trained + painted):
        yield method, arm, found["arms"].get(method, {}).get(arm, {})


def _means(found: Plain, method: str, arm: str) -> dict[str, float]:
    return {
        f"{table['name']}/{metric}": value["mean"]
        for table in found["benchmarks"]
        for row in table["rows"]
        for metric, value in row["means"].items()
        if table["method"] == method and (row["arm"], row["group"]) == (arm, "")
    }


def _name(text: str) -> str:
    """What MLflow takes as a metric's name."""
    return re.sub(r"[^\w\-./ ]", "_", text)
