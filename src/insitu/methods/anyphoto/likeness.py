"""The face loss: how far the faces of the one-step estimate are from the references' (section 3.5).

Everything from the velocity to the cosine is differentiable: decoder, aligned crop, embedder.
"""

from torch import Tensor

from insitu.backbones.flux import FluxBackbone
from insitu.perception.faces import FaceAnalyser


def estimate(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """x_0 = x_t - t v (eq. 22)."""
    return x_t - t[:, None, None, None] * v


def face_loss(
    backbone: FluxBackbone,
    faces: FaceAnalyser,
    x_0: Tensor,
    landmarks_BF52: Tensor,
    present_BF: Tensor,
    references_BFE: Tensor,
) -> Tensor:
    """mean_k (1 - cos(e_k, ArcFace(crop_k(decode(x_0))))), [B] (eq. 23, 24).

    Args:
        x_0: estimated clean latents.
        landmarks_BF52: where each face is, in shares of the picture.
        present_BF: which faces there are; of each example at least one.
        references_BFE: e_k, unit.
    """
    pixels = (backbone.decode(x_0).float() + 1) / 2
    most = landmarks_BF52.shape[1]
    crops = faces.align(pixels.repeat_interleave(most, 0), landmarks_BF52.flatten(0, 1))
    cosines = (faces.embed_tensor(crops).unflatten(0, (-1, most)) * references_BFE).sum(-1)
    counted = present_BF.to(cosines.dtype)
    return ((1 - cosines) * counted).sum(1) / counted.sum(1)
