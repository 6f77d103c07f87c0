"""Stage `detections`: what models say of each candidate; the filters read nothing else.

Run from the repository's root: `python -m pipelines.detections`.
"""

import sys
from functools import partial

from insitu.params import Params
from insitu.records.engines import Candidate, Detections
from insitu.synthesis import boundid
from insitu.synthesis.generators import pinned
from pipelines import _engines, _models, _step
from pipelines._paths import CANDIDATES, DETECTIONS


def main(params: Params, report: _step.Report) -> None:
    models = [params.models.detector, params.models.dino, params.models.clip]
    manifest = _engines.make(
        params,
        DETECTIONS,
        Detections,
        worker=_worker,
        rows=partial(_engines.rows_of, CANDIDATES, Candidate),
        shards=_engines.shards_of(CANDIDATES),
        settings={
            "floor": params.detections.floor,
            "judge": params.perception.judge,
            "endpoint": params.perception.model_dump(include={"endpoint", "local"}),
            "models": [pinned("", model) for model in models],
        },
        inputs=[CANDIDATES],
    )
    print(f"{manifest.rows} candidates looked at, {len(manifest.set_aside)} set aside")
    report(_engines.counts(manifest))


def _worker(params: Params) -> boundid.Detector:
    judge, names = _models.judge(params)
    return boundid.Detector(
        detector=_models.detector(params),
        judge=judge,
        names=(pinned("detector", params.models.detector), *names),
        floor=params.detections.floor,
    )


if __name__ == "__main__":
    sys.exit(_step.run(main))
