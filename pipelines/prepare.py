"""Stage `prepare`: a method's rows as its frozen encoders say them, latents and embeddings, once.

Finished ones whose facts are unchanged are kept. Run from the repository's root:

    python -m pipelines.prepare eligen
"""

import argparse
import sys

from insitu.params import Params
from insitu.training.encoding import Encoded, encode, facts_of
from pipelines import _methods, _step
from pipelines._paths import ENCODED


def main(params: Params, report: _step.Report, name: str) -> None:
    target, facts = ENCODED / name, _methods.facts(params, name)
    if facts_of(target) == facts:
        print(f"{name}: unchanged")
    else:
        from insitu.backbones import bases
        from insitu.backbones.loading import choose_device
        from insitu.backbones.precision import Precision

        _step.quiet()
        method = _methods.method(params, name)
        # Encoders as they are: what is said once may be said in full.
        backbone = bases.load(
            method.base,
            getattr(params.models, method.base),
            device=choose_device(params.device),
            precision=Precision.of({"dtype": params.dtype}),
        )
        encode(method, backbone, _methods.examples(params, name), target, facts=facts)
    count = len(Encoded.open(target, facts))
    print(f"{name}: {count} examples")
    report({"examples": count})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Encode what a method is trained on.")
    parser.add_argument("method")
    chosen = parser.parse_args().method
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
