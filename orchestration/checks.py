"""Checks beside the data: is what a step made good enough to go on with."""

import json
from datetime import datetime
from pathlib import Path

import dagster as dg


def tuned_beats_untuned(root: Path) -> dg.AssetChecksDefinition:
    """Blocking: nothing is registered while tuning adds nothing."""

    @dg.asset_check(
        asset="evaluate",
        blocking=True,
        description="DINO of the tuned adapters is above the untuned base's, with the whole 95%"
        " interval of the difference.",
    )
    def tuned_beats_untuned() -> dg.AssetCheckResult:
        figures = json.loads((root / "reports" / "metrics.json").read_text())["dino"]
        gain = figures["difference"]
        return dg.AssetCheckResult(
            passed=gain["low"] > 0,
            metadata={
                "tuned": figures["tuned"]["value"],
                "untuned": figures["untuned"]["value"],
                "difference": gain["value"],
                "interval": f"{gain['low']:.3f} to {gain['high']:.3f}",
            },
        )

    return tuned_beats_untuned


def claims_were_registered_before(root: Path) -> dg.AssetChecksDefinition:
    """What is registered after the results proves nothing."""

    @dg.asset_check(
        asset="claims",
        description="claims.yaml was committed as it was used, before its results were made.",
    )
    def claims_were_registered_before() -> dg.AssetCheckResult:
        made = json.loads((root / "docs" / "claims.json").read_text())["made"]
        commit, _, committed = (made["claims_commit"] or "").partition(" ")
        before = bool(committed) and datetime.fromisoformat(committed) < datetime.fromisoformat(
            made["date"]
        )
        return dg.AssetCheckResult(
            passed=before,
            metadata={"commit": commit or "none", "committed": committed, "made": made["date"]},
        )

    return claims_were_registered_before
