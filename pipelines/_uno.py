"""UNO as a generator of BoundID's candidates: it sees the references of each pair."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from insitu.backbones import bases
from insitu.backbones.loading import base_digest, choose_device
from insitu.backbones.precision import Precision
from insitu.backbones.zoom import closer
from insitu.digest import file_digest
from insitu.methods import Placement, Request, find
from insitu.methods.uno.data import CONTEXT
from insitu.params import Params
from insitu.records.engines import Pair
from insitu.registry.package import Package
from insitu.requests import EVERYWHERE
from insitu.synthesis.generators import Drawn
from pipelines import _step


def name(params: Params) -> str:
    """What pins the generator, for lineages. Raises UserError for an adapter that is not there."""
    adapter = Path(params.candidates.uno.adapter)
    digest = file_digest(adapter) if adapter.is_file() else Package.open(adapter).digest
    base = params.models.flux
    return f"uno {adapter}@{digest[:12]} on {base.path}@{base_digest(base)[:12]}"


class UnoGenerator:
    """A trained package's adapter, or the published file with the settings of params.yaml."""

    def __init__(self, params: Params) -> None:
        _step.quiet()
        self.name, self.size = name(params), params.candidates.size
        adapter, checkpoint = Path(params.candidates.uno.adapter), params.models.flux
        if adapter.is_file():
            settings, weights = params.uno.model_dump(exclude={"train"}), adapter
        else:
            package = Package.open(adapter)
            package.require_base(base_digest(checkpoint))
            settings, weights = package.card.settings["method"], package.weights
        self.method = find("uno", settings)
        self.backbone = bases.load(
            self.method.base,
            checkpoint,
            device=choose_device(params.device),
            precision=Precision.of(params.painting_base()),
        )
        self.method.load(self.backbone, load_file(weights))

    def draw(self, pairs: Sequence[Pair]) -> list[Drawn]:
        """A picture of each pair; what is wrong with it, it cannot know."""
        pictures = self.method.paint(self.backbone, [self._request(pair) for pair in pairs])
        return [Drawn(image=picture, faults=None) for picture in pictures]

    def _request(self, pair: Pair) -> Request:
        return Request(
            image=np.zeros((self.size, self.size, 3), np.uint8),
            placements=tuple(
                Placement(
                    box_xyxy01=EVERYWHERE,
                    reference=closer(r.image.array(), r.box.xyxy01, context=CONTEXT),
                    prompt=r.category,
                )
                for r in pair.references
            ),
            prompt=pair.prompt,
            seed=pair.seed,
            background="free",
        )
