"""Stage `claims`: the papers' claims, checked by the comparisons that `claims.yaml` registers.

Adapters are trained, pictures painted and measured, each arm in pieces that are done side by side
and kept under `.insitu/claims`: an interrupted run continues. Run from the repository's root:

    python -m pipelines.claims                      # all, then docs/claims.json and the report
    python -m pipelines.claims --only ID --only ID  # some, printed
    python -m pipelines.claims --quick              # one of each method, printed
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.evaluation.claims import page, results
from insitu.evaluation.claims import registered as registry
from insitu.evaluation.claims.registered import Registered
from insitu.evaluation.claims.rule import Verdict
from insitu.files import replace_text
from insitu.params import Params
from insitu.registry.package import Package
from pipelines import _fleet, _step, _subject_data
from pipelines._wanted import ASKED, FACTS, SUBJECTS, Place, Wanted, asked_in, replicates

if TYPE_CHECKING:
    from insitu.registry.store import Store

QUICK_SEEDS = 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be checked.

    Attributes:
        ids: of claims; empty = all.
        quick: one claim of each method, with fewer trainings.
        to: where results go besides; None = nowhere, but for all claims to `results.FILE`.
        workers: pieces at once; None = one for each core.
        log: results are logged to MLflow, and the report links their runs.
        report: nothing is checked, the report on the results that are there is written again.
    """

    ids: Sequence[str] = ()
    quick: bool = False
    to: Path | None = None
    workers: int | None = None
    log: bool = False
    report: bool = False
    file: Path = registry.FILE


def main(params: Params, report: _step.Report, asked: Asked) -> None:
    if (asked.ids or asked.quick) and (asked.log or asked.report):
        raise UserError(
            "The report or MLflow's runs were asked for, and only some of the claims.",
            "Both tell of all claims.",
            "Leave out --only and --quick, or --log and --report.",
        )
    registered = registry.load(asked.file)
    store = _store(params) if asked.log else None
    found = _read() if asked.report else _check(params, registered, asked)
    said = [claim["verdict"] for claim in found["claims"]]
    counts = {verdict: said.count(verdict) for verdict in get_args(Verdict)}
    shown: dict[str, str] = {}
    if asked.report or len(said) == len(registered.ids()):
        shown = _report(registered, found, store)
    report(counts | shown)


def _check(params: Params, registered: Registered, asked: Asked) -> dict[str, Any]:
    """Do what is not done yet, judge, print verdicts, write results; what was found."""
    ids = [registered.claim(id).id for id in asked.ids] or registered.ids(quick=asked.quick)
    if asked.quick:
        registered = registered.model_copy(update={"seeds": registered.seeds[:QUICK_SEEDS]})
    whole = set(ids) == set(registered.ids())
    wanted = Wanted.of(registered, ids, curves=whole)
    from pipelines import _arm_settings

    _arm_settings.require(params, registered, wanted)
    _arm_settings.require_data(registered, wanted)
    began = time.monotonic()
    _make(params, registered, wanted, asked.workers or _fleet.cores())
    scores = functools.partial(_scores, registered)
    before = results.read() or {}
    others = {claim["id"]: claim["p_alone"] for claim in before.get("claims", ())}
    claims = results.judged(registered, ids, scores, {} if whole else others)
    for claim in claims:
        print(results.line(claim))
    said = [claim["verdict"] for claim in claims]
    print(", ".join(f"{said.count(verdict)} {verdict}" for verdict in get_args(Verdict)))
    found = {
        "made": _made(params, asked, time.monotonic() - began),
        "rule": registered.rule.model_dump(),
        "seeds": list(registered.seeds),
        "arms": _adapters(registered, wanted),
        "claims": claims,
        "curves": results.curves(registered, scores) if whole else [],
        "benchmarks": results.benchmarks(
            registered, wanted.benchmarks, scores, functools.partial(_groups, registered)
        ),
    }
    kept = results.FILE if whole and asked.file == registry.FILE else None
    for path in filter(None, (asked.to, kept)):
        replace_text(path, json.dumps(found, indent=1) + "\n")
        print(f"wrote {path}")
    return found


def _read() -> dict[str, Any]:
    """The results that are there.

    Raises:
        UserError: there are none.
    """
    found = results.read()
    if found is None:
        raise UserError(
            "The report on the claims was to be written again.",
            f"There are no results in {results.FILE}.",
            "Check the claims: insitu claims.",
        )
    return found


def _report(registered: Registered, found: dict[str, Any], store: "Store | None") -> dict[str, str]:
    """Write the report on all claims; where it is."""
    from pipelines import _claims_report

    if store is None:
        _claims_report.write(registered, found)
    else:
        from insitu.registry import claims_log

        runs = claims_log.log(store, found)
        _claims_report.write(registered, found, runs)
        claims_log.keep(store, runs["all"], str(page.FILE))
        print(f"logged as {runs['all']}")
    print(f"wrote {page.FILE}")
    return {"page": str(page.FILE), "overview": str(_claims_report.OVERVIEW)}


def _make(params: Params, registered: Registered, wanted: Wanted, workers: int) -> None:
    """Everything that the claims need, in phases of independent pieces."""
    from pipelines import _arm_settings

    for method in sorted({method for method, _ in wanted.adapters}):
        count = registered.methods[method].subjects
        if count is not None:
            _subject_data.make(params, SUBJECTS, count)
    starts = {
        f"start {method}/{start}"
        for method, arm in wanted.adapters
        if (start := registered.methods[method].start(arm)) is not None
    }  # fmt: skip
    pieces = [
        f"arm {method}/{arm}/{replicate}"
        for (method, arm), numbers in wanted.adapters.items()
        for replicate in numbers
    ]
    bench = functools.partial(_bench, params, registered, wanted)
    failed: dict[str, UserError] = {}
    for phase in (_arm_settings.encodings(params, registered, wanted), sorted(starts), pieces):
        ended = _fleet.run(
            phase, bench, workers=workers, threads=max(1, _fleet.cores() // workers)
        )  # fmt: skip
        for done, (piece, why) in enumerate(ended, start=1):
            if why is not None:
                failed[piece] = why
            print(f"[{done} of {len(phase)}] {piece}" + (" failed" if why else ""), flush=True)
        if failed:
            break
    if failed:
        raise UserError(
            f"{len(failed)} pieces failed: {', '.join(failed)}.",
            " ".join(f"{name}: {why.given} {why.why}" for name, why in failed.items()),
            "Mend them and run again: what is finished is kept.",
        )


def _bench(params: Params, registered: Registered, wanted: Wanted) -> _fleet.Do:
    """What a process of the fleet begins with."""
    _step.calm()
    from pipelines import _arms

    return _arms.Bench(params, registered, wanted).do


def _scores(
    registered: Registered, method: str, arm: str, benchmark: str, metric: str
) -> NDArray[np.float64]:
    from insitu.evaluation import tables

    rows = []
    for replicate in replicates(registered, method, arm):
        folder = Place(method=method, arm=arm, replicate=replicate).table(benchmark)
        rows.append(tables.read(folder / tables.NAME)[metric].ravel())
    return np.stack(rows)


def _groups(registered: Registered, method: str, arm: str, benchmark: str) -> list[str]:
    """The group of each request, alike for all trainings."""
    first = replicates(registered, method, arm)[0]
    folder = Place(method=method, arm=arm, replicate=first).table(benchmark)
    digest = json.loads((folder / FACTS).read_text())["items"]
    return [item["group"] for item in json.loads((asked_in(digest) / ASKED).read_text())]


def _adapters(registered: Registered, wanted: Wanted) -> dict[str, Any]:
    """By method and arm: settings, adapters by replicate, by their digests."""
    found: dict[str, Any] = {}
    for (method, arm), numbers in wanted.adapters.items():
        own = registered.methods[method].arms[arm]
        places = [Place(method=method, arm=arm, replicate=r) for r in numbers]
        packages = [Package.open(p.adapter) for p in places if own.trained]
        found.setdefault(method, {})[arm] = {
            "set": own.set, "data": own.data, "start": registered.methods[method].start(arm),
            "adapters": {r: p.digest for r, p in zip(numbers, packages, strict=False)},
            "data_digest": packages[0].card.data_digest if packages else None,
            "seconds": [p.run()["seconds"] for p in packages],
        }  # fmt: skip
    return found


def _store(params: Params) -> "Store":
    from insitu.registry.store import Store  # MLflow takes seconds, and workers import this, too

    return Store.connect(params.registry.tracking_uri)


def _made(params: Params, asked: Asked, seconds: float) -> dict[str, Any]:
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "claims_file": str(asked.file),
        "claims_sha256": file_digest(asked.file),
        "claims_commit": _commit(asked.file),
        "seconds": round(seconds),
        "machine": f"{_fleet.cores()} cores, {platform.machine()}, {_processor()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": params.device,
        "threads_a_worker": os.environ.get("OMP_NUM_THREADS"),
    }


def _commit(path: Path) -> str | None:
    """The last commit of a file, with its time; None where it was changed since or is in none."""
    command = ["git", "log", "-1", "--format=%H %cI", "--", str(path)]
    dirty = subprocess.run(["git", "status", "--porcelain", "--", str(path)], capture_output=True)
    told = subprocess.run(command, capture_output=True, text=True)
    return None if dirty.stdout or told.returncode else told.stdout.strip() or None


def _processor() -> str:
    """Its name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check the papers' claims.")
    parser.add_argument("--only", action="append", default=[], metavar="ID")
    parser.add_argument("--quick", action="store_true", help="one claim of each method")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--workers", type=int, help="pieces at once; by default one a core")
    parser.add_argument("--log", action="store_true", help="log all claims to MLflow, too")
    parser.add_argument("--report", action="store_true", help="only write the report again")
    parser.add_argument("--file", type=Path, default=registry.FILE, help="the registered claims")
    given = parser.parse_args()
    chosen = Asked(
        ids=given.only, quick=given.quick, to=given.json, workers=given.workers,
        log=given.log, report=given.report, file=given.file,
    )  # fmt: skip
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
