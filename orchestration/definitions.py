"""What Dagster loads: only merges."""

import os
from pathlib import Path

import dagster as dg

from orchestration import dvc_assets, subjects
from orchestration.checks import claims_were_registered_before, tuned_beats_untuned
from orchestration.promotion import candidates_sensor, champions_sensor, promotion_job
from pipelines import _targets

ROOT = Path(os.environ.get("INSITU_ROOT", Path.cwd())).resolve()
PROMOTION = promotion_job(ROOT)

defs = dg.Definitions(
    assets=[
        *dvc_assets.assets(
            ROOT,
            after={"subjects": subjects.update_partitions},
            upstream={"adapters": ["tune"]},
        ),
        subjects.tune_asset(ROOT),
    ],
    asset_checks=[tuned_beats_untuned(ROOT), claims_were_registered_before(ROOT)],
    jobs=[
        dvc_assets.everything_job(),
        dvc_assets.targets_job(_targets.JOB, _targets.TARGETS),
        PROMOTION,
    ],
    sensors=[candidates_sensor(ROOT, PROMOTION), champions_sensor(ROOT)],
    resources={"pipes": dg.PipesSubprocessClient()},
)
