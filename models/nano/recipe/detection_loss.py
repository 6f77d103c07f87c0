"""DETR's set loss for open-vocabulary boxes (Carion et al. 2020; OWL-ViT, Minderer et al. 2022).

Each object is matched to one patch token; the token learns the object's box and its queries, the
others learn that nobody asked for them. That is one lesson per object about what it is called, too
few for a short training, so all patches that show nothing but the object learn its name as well,
among the batch's other queries.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

L1_WEIGHT, GIOU_WEIGHT, CLASS_WEIGHT = 5.0, 2.0, 2.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # Lin et al. 2017


def corners(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size -> left, top, right, bottom."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes given by corners, broadcasting."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=-1)

    shared = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - shared
    return shared / union.clamp(min=1e-7) - (hull - union) / hull.clamp(min=1e-7)


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sigmoid focal loss, element by element."""
    p = logits.sigmoid()
    missed = torch.where(truth > 0, 1 - p, p)
    alpha = torch.where(truth > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    plain = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return alpha * missed**FOCAL_GAMMA * plain


@torch.no_grad()
def match(
    logits_NPQ: Tensor,
    boxes_NP4: Tensor,
    targets_NO4: Tensor,
    learned_NO: Tensor,
    truth_NOQ: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign each learned object its own token at the least total cost (Hungarian algorithm).

    Returns:
        Indices [M] of the image, the token and the object of every pair.
    """
    share = truth_NOQ.float() / truth_NOQ.sum(dim=-1, keepdim=True).clamp(min=1)
    named = logits_NPQ.sigmoid() @ share.mT
    predicted, wanted = corners(boxes_NP4)[:, :, None], targets_NO4[:, None]
    distance = (predicted - wanted).abs().sum(dim=-1)
    cost = L1_WEIGHT * distance - GIOU_WEIGHT * giou(predicted, wanted) - CLASS_WEIGHT * named
    pairs = []
    for image, (own, valid) in enumerate(zip(cost, learned_NO, strict=True)):
        objects = valid.nonzero().squeeze(1)
        if len(objects):
            tokens, columns = linear_sum_assignment(own[:, objects].numpy())
            pairs += [(image, t, int(objects[c])) for t, c in zip(tokens, columns, strict=True)]
    found = torch.tensor(pairs, dtype=torch.long).reshape(-1, 3)
    return found[:, 0], found[:, 1], found[:, 2]


def set_loss(
    logits_NPQ: Tensor,
    boxes_NP4: Tensor,
    targets_NO4: Tensor,
    learned_NO: Tensor,
    ignored_NO: Tensor,
    truth_NOQ: Tensor,
) -> dict[str, Tensor]:
    """Return the terms "queries", "distance", "giou" (per object) and "names" (per patch).

    Args:
        logits_NPQ: each token's answer to each query.
        boxes_NP4: each token's box, centre and size as shares of the image.
        targets_NO4: objects' corners; rows neither learned nor ignored are padding.
        truth_NOQ: which queries name which object.
    """
    image, token, item = match(logits_NPQ, boxes_NP4, targets_NO4, learned_NO, truth_NOQ)
    truth = torch.zeros_like(logits_NPQ)
    truth[image, token] = truth_NOQ[image, item].float()
    # A query that names a hidden object has no wrong answer in its image.
    hidden = (truth_NOQ & ignored_NO[..., None]).any(dim=1)
    counted = (~hidden[:, None] | (truth > 0)).float()
    count = max(len(item), 1)
    predicted, wanted = corners(boxes_NP4[image, token]), targets_NO4[image, item]
    return {
        "queries": (focal_loss(logits_NPQ, truth) * counted).sum() / count,
        "distance": L1_WEIGHT * (predicted - wanted).abs().sum() / count,
        "giou": GIOU_WEIGHT * (1 - giou(predicted, wanted)).sum() / count,
        "names": name_loss(logits_NPQ, targets_NO4, learned_NO, truth_NOQ),
    }


def name_loss(
    logits_NPQ: Tensor, targets_NO4: Tensor, learned_NO: Tensor, truth_NOQ: Tensor
) -> Tensor:
    """Cross-entropy of each right query against all wrong ones, over the patches of one object.

    A patch counts if its centre lies in the box of one object only, and that one is learned.
    """
    side = round(logits_NPQ.shape[1] ** 0.5)
    along = (torch.arange(side) + 0.5) / side
    centres_P2 = torch.cartesian_prod(along, along).flip(-1)  # x, y, row by row
    low, high = targets_NO4[:, None, :, :2], targets_NO4[:, None, :, 2:]
    inside = ((low < centres_P2[:, None]) & (centres_P2[:, None] < high)).all(dim=-1)
    image, patch, item = (inside & (inside.sum(dim=-1, keepdim=True) == 1)).nonzero(as_tuple=True)
    known = learned_NO[image, item]
    logits = logits_NPQ[image[known], patch[known]]
    right = truth_NOQ[image[known], item[known]]
    wrong = logits.masked_fill(right, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return softplus(wrong - logits)[right].sum() / right.sum().clamp(min=1)
