"""Where stages write; what they hand to one another."""

from pathlib import Path

SUBJECTS = Path("data/subjects")
ADAPTERS = Path("data/adapters")
MANIFEST = ADAPTERS / "manifest.json"
TUNED_PAGE = Path("reports/tuned")
METRICS = Path("reports/metrics.json")
OVERVIEW = Path("reports/overview.png")
PLOTS = Path("reports/plots")
FIGURES = Path("reports/subjects.json")
REGISTERED = Path("data/registered.json")
