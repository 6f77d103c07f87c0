"""Checks beside the data: is what a step made good enough to go on with."""

import json
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
