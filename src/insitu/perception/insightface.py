"""Faces with a pair of ONNX files as InsightFace publishes them (buffalo_l, antelopev2).

- detector: SCRFD (Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face
  Detection") with landmarks, e.g. `det_10g.onnx`. Its nine outputs are scores, distances and
  landmarks, each at strides 8, 16, 32; a cell has two anchors, and every anchor's centre is the
  cell's number times its stride. Distances (left, top, right, bottom) and landmark offsets are
  counted from there, in strides. Input: RGB, (x - 127.5) / 128, the picture shrunk or enlarged to
  fit the top left of a black square.
- embedder: ArcFace (Deng et al. 2019), e.g. `w600k_r50.onnx` or `glintr100.onnx`. Input: RGB,
  (x - 127.5) / 127.5, 112 x 112, aligned by the five landmarks.

InsightFace itself reads BGR pictures and swaps the channels on the way into both networks
(`swapRB=True`), so that the networks see RGB, which is what comes in here.

Two details differ from the published pipeline: boxes are compared by plain IoU, without a pixel
added to their sides, and where a crop leaves the picture its border is repeated instead of black.

The published weights are for non-commercial research only; whoever gives the paths answers for it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from insitu.errors import UserError
from insitu.perception.detector import Box, Image, iou
from insitu.perception.face_finder import FoundFace
from insitu.perception.faces import sample_similarity, similarity, to_tensor, turn

STRIDES: Final = (8, 16, 32)
ANCHORS: Final = 2
SIDE: Final = 640
"""Side of the detector's input where its file leaves it open."""
CROP: Final = 112
TEMPLATE_PX: Final = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where ArcFace's crops have the five landmarks, counted from the first pixel's centre."""
BATCH = 8  # faces per forward pass, each with a copy of its picture


class InsightFace:
    """Finds, aligns and embeds faces with two ONNX models."""

    def __init__(
        self,
        *,
        detector: onnxruntime.InferenceSession,
        embedder: onnxruntime.InferenceSession,
        threshold: float = 0.5,
        overlap: float = 0.4,
        name: str = "insightface",
    ) -> None:
        """Wrap two open models.

        Args:
            threshold: lowest score kept, 0..1.
            overlap: of two boxes with a larger IoU, the weaker is dropped.

        Raises:
            UserError: the models do not have the inputs and outputs described above.
        """
        self.detector, self.embedder, self.name = detector, embedder, name
        self.threshold, self.overlap = threshold, overlap
        self.side = _fixed(detector.get_inputs()[0].shape[2]) or SIDE
        outputs = len(detector.get_outputs())
        if outputs != 3 * len(STRIDES):
            raise UserError(
                f"The face detector has {outputs} outputs.",
                "SCRFD with landmarks has nine: scores, boxes and landmarks at three strides.",
                "Give such a file, e.g. det_10g.onnx.",
            )
        shape = embedder.get_inputs()[0].shape
        wanted = (1, 3, CROP, CROP)
        if len(shape) != 4 or any(
            _fixed(s) not in (None, w) for s, w in zip(shape, wanted, strict=True)
        ):
            raise UserError(
                f"The face embedder's input has shape {shape}.",
                f"ArcFace reads aligned crops of {CROP} x {CROP} pixels, channels first.",
                "Give such a file, e.g. w600k_r50.onnx.",
            )
        self.batch = _fixed(shape[0]) or BATCH

    @classmethod
    def from_files(
        cls,
        *,
        detector: Path,
        detector_sha256: str,
        embedder: Path,
        embedder_sha256: str,
        threshold: float = 0.5,
        overlap: float = 0.4,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> Self:
        """Open two ONNX files whose contents have the given SHA-256 digests (64 hex digits).

        Raises:
            UserError: a file is missing, is no ONNX file, or has another digest.
        """
        return cls(
            detector=_session(detector, detector_sha256, providers),
            embedder=_session(embedder, embedder_sha256, providers),
            threshold=threshold,
            overlap=overlap,
            name=f"insightface {detector_sha256[:16].lower()} {embedder_sha256[:16].lower()}"
            f" from {threshold:g}, overlap {overlap:g}",
        )

    def find(self, images: Sequence[Image]) -> list[list[FoundFace]]:
        """See `FaceFinder`."""
        return [self._find_one(image) for image in images]

    def _find_one(self, image_HWC: Image) -> list[FoundFace]:
        image_13HW = to_tensor(image_HWC)
        scores, boxes, landmarks = self._detect(image_HWC)
        size = torch.tensor(image_HWC.shape[1::-1])
        vectors = self._embed(image_13HW, landmarks * size)
        return [
            FoundFace(
                score=float(score),
                box_xyxy01=_box(box),
                landmarks_xy01=five.numpy(),
                embedding=vector.numpy(),
            )
            for score, box, five, vector in zip(scores, boxes, landmarks, vectors, strict=True)
        ]

    def _detect(self, image_HWC: Image) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [K], boxes [K, 4] and landmarks [K, 5, 2] in shares of the image, best first."""
        pixels, (width, height) = letterbox(image_HWC, self.side)
        outputs = _run(self.detector, (pixels - 127.5) / 128)
        scores, boxes, landmarks = decode(outputs, self.side)
        sure = scores >= self.threshold
        scores, boxes, landmarks = scores[sure], boxes[sure], landmarks[sure]
        # The picture's own part of the square is its 0..1.
        boxes = (boxes / torch.tensor([width, height] * 2)).clamp(0, 1)
        landmarks = landmarks / torch.tensor([width, height])
        kept = suppress(scores, boxes, self.overlap)
        return scores[kept], boxes[kept], landmarks[kept]

    def _embed(self, image_13HW: Tensor, landmarks_px_N52: Tensor) -> Tensor:
        """Unit embeddings [N, D]."""
        if not len(landmarks_px_N52):
            return torch.zeros(0, 0)
        vectors = []
        for points in landmarks_px_N52.split(self.batch):
            crops = aligned(image_13HW.expand(len(points), -1, -1, -1), points)
            # 0..1 -> -1..1, which is (x - 127.5) / 127.5.
            (found,) = _run(self.embedder, (2 * crops - 1).numpy())
            vectors.append(normalize(torch.from_numpy(found), dim=-1))
        return torch.cat(vectors)


def letterbox(image_HWC: Image, side: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The picture in the top left of a black square, [1, 3, side, side] in 0..255.

    Also returns the width and height it has there.
    """
    height, width = image_HWC.shape[:2]
    scale = side / max(height, width)
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image_HWC, size, interpolation=cv2.INTER_LINEAR)
    return square.transpose(2, 0, 1)[None].astype(np.float32), size


def decode(outputs: Sequence[NDArray[np.float32]], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """SCRFD's nine outputs as scores [A], boxes [A, 4] and landmarks [A, 5, 2] in pixels.

    Raises:
        UserError: an output has not two anchors for each cell.
    """
    levels: list[tuple[Tensor, Tensor, Tensor]] = []
    for k, stride in enumerate(STRIDES):
        cells = side // stride
        here = [torch.from_numpy(outputs[k + len(STRIDES) * kind]) for kind in range(3)]
        anchors = cells * cells * ANCHORS
        if [each.numel() for each in here] != [anchors, anchors * 4, anchors * 10]:
            raise UserError(
                f"At stride {stride} the face detector answered {[tuple(e.shape) for e in here]}.",
                f"An input of {side} pixels has {anchors} anchors there, each with a score, four"
                " distances and five landmarks.",
                "Give an SCRFD file with landmarks, e.g. det_10g.onnx.",
            )
        steps = torch.arange(cells) * float(stride)
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        centres = torch.stack([columns, rows], -1).reshape(-1, 2).repeat_interleave(ANCHORS, 0)
        distances = here[1].reshape(-1, 4) * stride
        boxes = torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], -1)
        points = centres[:, None] + here[2].reshape(-1, 5, 2) * stride
        levels.append((here[0].reshape(-1), boxes, points))
    scores, boxes, points = (torch.cat(each) for each in zip(*levels, strict=True))
    return scores, boxes, points


def suppress(scores_N: Tensor, boxes_N4: Tensor, overlap: float) -> list[int]:
    """Greedy non-maximum suppression: indices of the boxes kept, best first."""
    kept: list[int] = []
    for index in scores_N.argsort(descending=True, stable=True).tolist():
        if not kept or bool((iou(boxes_N4[[index]], boxes_N4[kept]) <= overlap).all()):
            kept.append(index)
    return kept


def aligned(images_N3HW: Tensor, landmarks_px_N52: Tensor) -> Tensor:
    """Crops [N, 3, 112, 112] in which the five landmarks lie near ArcFace's places.

    ArcFace counts pixels from the first one's centre, in the crop and in the picture; so half a
    pixel is added to both. The similarity is fitted towards the template, as for the crops the
    networks were trained on, and then inverted.
    """
    template = (torch.tensor(TEMPLATE_PX) + 0.5) / CROP
    landmarks = landmarks_px_N52 + 0.5
    a, b = similarity(landmarks, template.expand(len(landmarks), -1, -1))
    back = a * torch.tensor([1.0, -1.0]) / a.square().sum(-1, keepdim=True).clamp_min(1e-12)
    return sample_similarity(images_N3HW, back, -turn(b[:, None], back)[:, 0], CROP)


def _session(path: Path, sha256: str, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    if path.suffix != ".onnx" or not path.is_file():
        raise UserError(
            f"The face model {path} was given.",
            "There is no such file, or its name does not end in .onnx, the only format read.",
            "Check the path.",
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        raise UserError(
            f"The face model {path} was given with the SHA-256 {sha256}.",
            f"Its content has {found}, so it is another model or was changed on its way.",
            "Get the file again, or correct the digest if this is the model that is meant.",
        )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        # From the bytes that were digested: data beside the file would be beside the digest, too.
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime's own classes share no base but this
        raise UserError(
            f"The face model {path} was given.",
            f"onnxruntime cannot open it: {error}",
            "Give a complete ONNX file that keeps its weights in itself.",
        ) from error


def _run(session: onnxruntime.InferenceSession, values: NDArray[Any]) -> list[NDArray[np.float32]]:
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: values})
    return outputs


def _fixed(size: Any) -> int | None:
    """A dimension's size; None where the model leaves it open, under a name or none."""
    return size if isinstance(size, int) else None


def _box(box: Tensor) -> Box:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom
