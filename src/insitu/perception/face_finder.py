"""Everything about the faces in a picture at once: box, landmarks, identity.

One calling convention for two families: here the zero-shot detector with a `FaceAnalyser`, in
`insitu.perception.insightface` the usual pair of ONNX files.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from insitu.perception.detector import Box, Image, ZeroShotDetector
from insitu.perception.faces import FaceAnalyser, to_tensor
from insitu.perception.segmenter import checkpoint_name

BATCH = 8  # faces per forward pass, each with a copy of its picture


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundFace:
    """One face.

    Attributes:
        score: 0..1, comparable within one finder only.
        box_xyxy01: within the picture.
        landmarks_xy01: float32 [5, 2], left eye, right eye, nose, left and right mouth corner as
            seen in the picture; outside 0..1 where the face is cut by its edge.
        embedding: float32 [D], unit; its dot product with another one's is their likeness.
    """

    score: float
    box_xyxy01: Box
    landmarks_xy01: NDArray[np.float32]
    embedding: NDArray[np.float32]


class FaceFinder(Protocol):
    """Anything that finds faces and tells whose they are."""

    name: str
    """Method and weights: what a face's lineage records."""

    def find(self, images: Sequence[Image]) -> list[list[FoundFace]]:
        """Return the faces of each uint8 RGB image [H, W, 3], best first.

        Raises:
            UserError: an image is no uint8 RGB.
        """
        ...


class ZeroShotFaceFinder:
    """The detector's answers to "a face", each with landmarks and an embedding."""

    def __init__(
        self,
        detector: ZeroShotDetector,
        analyser: FaceAnalyser,
        query: str = "a face",
        *,
        threshold: float = 0.3,
        name: str = "zero-shot faces",
    ) -> None:
        """Set what to look for; a box counts as a face from a score of `threshold` on, 0..1."""
        self.detector, self.analyser, self.query = detector, analyser, query
        self.threshold, self.name = threshold, name

    @classmethod
    def from_pretrained(
        cls,
        detector: str | Path,
        faces: str | Path,
        *,
        detector_revision: str | None = None,
        faces_revision: str | None = None,
        query: str = "a face",
        threshold: float = 0.3,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a zero-shot detector and a face checkpoint from folders or hub ids."""
        weights = [
            checkpoint_name(detector, detector_revision),
            checkpoint_name(faces, faces_revision),
        ]
        return cls(
            ZeroShotDetector.from_pretrained(
                detector, revision=detector_revision, device=device, dtype=dtype
            ),
            FaceAnalyser.from_pretrained(
                str(faces), revision=faces_revision, device=device, dtype=dtype
            ),
            query,
            threshold=threshold,
            name=f"{query!r} from {threshold:g} by {' and '.join(weights)}",
        )

    @torch.no_grad()
    def find(self, images: Sequence[Image]) -> list[list[FoundFace]]:
        """See `FaceFinder`."""
        tensors = [to_tensor(image) for image in images]
        detected = self.detector.detect(images, [self.query], threshold=self.threshold)
        # At the picture's edge a clamped box can be left without a width.
        wanted = [
            (n, d.score, d.box_xyxy01)
            for n, detections in enumerate(detected)
            for d in detections
            if d.box_xyxy01[0] < d.box_xyxy01[2] and d.box_xyxy01[1] < d.box_xyxy01[3]
        ]
        found: dict[int, FoundFace] = {}
        for part in _batches([images[n].shape for n, _, _ in wanted]):
            numbers, scores, boxes = zip(*(wanted[k] for k in part), strict=True)
            batch = torch.cat([tensors[n] for n in numbers]).to(self.analyser.mean)
            points = self.analyser.landmarks_tensor(batch, torch.tensor(boxes).to(batch))
            vectors = self.analyser.embed_tensor(self.analyser.align(batch, points))
            rows = zip(part, scores, boxes, _plain(points), _plain(vectors), strict=True)
            for k, score, box, five, vector in rows:
                found[k] = FoundFace(
                    score=score, box_xyxy01=box, landmarks_xy01=five, embedding=vector
                )
        faces: list[list[FoundFace]] = [[] for _ in images]
        for k, (n, _, _) in enumerate(wanted):  # the detector's order: best first
            faces[n].append(found[k])
        return faces


def _batches(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Indices of equal shapes, at most `BATCH` together."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for k, shape in enumerate(shapes):
        alike[shape].append(k)
    for indices in alike.values():
        for start in range(0, len(indices), BATCH):
            yield indices[start : start + BATCH]


def _plain(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.float().cpu().numpy(), np.float32)
