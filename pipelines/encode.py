"""Stage `encode`: latents and text embeddings of what is trained on, encoded once.

Finished ones whose facts are unchanged are kept. Run from the repository's root:

    python -m pipelines.encode subjects                  # all subjects
    python -m pipelines.encode subjects --subject NAME   # one of them, and nothing else
"""

import argparse
import shutil
import sys
from typing import Any

from insitu.params import Params
from insitu.training.encoding import Encoded, encode, facts_of
from pipelines import _step, _tuning
from pipelines._paths import ENCODED


def main(params: Params, report: _step.Report, subject: str | None = None) -> None:
    folder = ENCODED / "subjects"
    names = _tuning.subjects()
    method, backbone = _tuning.method(params), None
    examples = 0
    for name in _tuning.require([subject] if subject else [], names):
        rows = _tuning.rows(name)
        facts = _tuning.facts(params, rows)
        if facts_of(folder / name) == facts:
            print(f"{name}: unchanged")
        else:
            backbone = backbone or _backbone(params)
            found = _tuning.examples(params, rows, backbone.size)
            encode(method, backbone, found, folder / name, facts=facts)
        count = len(Encoded.open(folder / name, facts))
        print(f"{name}: {count} examples")
        examples += count
    if subject is None:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path)
                print(f"{path.name}: removed, it is no longer a subject")
        report({"subjects": len(names), "examples": examples})


def _backbone(params: Params) -> Any:
    from insitu.backbones.loading import choose_device
    from insitu.backbones.precision import Precision
    from insitu.backbones.unet import InpaintBackbone

    _step.quiet()
    # Encoders as they are: what is said once may be said in full.
    return InpaintBackbone.load(
        params.models.inpaint,
        device=choose_device(params.device),
        precision=Precision.of({"dtype": params.dtype}),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Encode what is trained on.")
    parser.add_argument("dataset", choices=["subjects"])
    parser.add_argument("--subject", help="only this one; nothing is pruned")
    chosen = parser.parse_args().subject
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
