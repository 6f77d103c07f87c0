"""Frechet distances of two sets of pictures: FID with any feature extractor.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule ..." (2017), equation 6:

    d^2 = |m_1 - m_2|^2 + Tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

It is biased upwards, by an amount that falls about as 1/n and depends on the model, so that only
distances of equal n compare (Chong and Forsyth, "Effectively Unbiased FID and Inception Score and
where to find them", 2020). Their FID_infinity is the value at 1/n = 0 of a line fitted over 1/n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from insitu.errors import UserError
from insitu.evaluation.metrics.cases import Case, Image

Features = NDArray[np.float64]
POINTS = 15
"""Sample sizes of the fitted line, as in the paper; from n/2 to n."""


@dataclass(frozen=True, kw_only=True)
class Frechet:
    """The distance of n generated pictures to a reference set, and what its size is worth.

    Attributes:
        value: with all n, at least 0; lower is better.
        half: with n/2 of them, drawn at random; how far it is above `value` shows the bias.
        infinity: extrapolated to endless n; may come out below 0. The reference set's own bias
            stays in it. None under four pictures.
        n, n_reference, dimension: sizes of both sets and of the features.
        failed: samples without a picture. A distance has no worst value: they are in no mean, and
            stand beside it.
        warnings: what makes the value doubtful, a sentence each.
    """

    value: float
    half: float | None
    infinity: float | None
    n: int
    n_reference: int
    dimension: int
    failed: int = 0
    warnings: tuple[str, ...] = ()


class FrechetDistance:
    """Called with cases as other metrics are; the answer is of the set."""

    higher_is_better = False

    def __init__(
        self,
        extractor: Callable[[Sequence[Image]], Any],
        reference: Sequence[Image],
        *,
        name: str = "fid",
        seed: int = 0,
    ) -> None:
        """`extractor` gives features [N, D] of N pictures, e.g. `IdentityEncoder.embed_images`."""
        self.extractor, self.name, self.seed = extractor, name, seed
        self.reference = as_features(extractor(reference))

    def __call__(self, cases: Sequence[Case]) -> Frechet:
        """Raises UserError for fewer than two pictures."""
        painted = [case.picture for case in cases if case.image is not None]
        failed = len(cases) - len(painted)
        features = self.extractor(painted) if painted else np.zeros((0, self.reference.shape[1]))
        return frechet(features, self.reference, failed=failed, seed=self.seed)


def frechet(
    features_ND: ArrayLike, reference_MD: ArrayLike, *, failed: int = 0, seed: int = 0
) -> Frechet:
    """Compare features of generated pictures with a reference set's.

    Raises:
        UserError: a set has fewer than two rows, the widths differ, or a number is not finite.
    """
    features, reference = as_features(features_ND), as_features(reference_MD)
    if features.shape[1] != reference.shape[1]:
        raise UserError(
            f"Features of width {features.shape[1]} and {reference.shape[1]} were given.",
            "Only features of one extractor compare.",
            "Extract both sets with the same model.",
        )
    mean, covariance = moments(reference)
    # The reference's part of the root is the same for every subset.
    root = _root(covariance)

    def to_reference(subset: Features) -> float:
        own_mean, own = moments(subset)
        return _distance(own_mean, own, mean, covariance, root)

    n, dimension = features.shape
    value, half, infinity = to_reference(features), None, None
    if n >= 4:
        rng = np.random.default_rng(seed)
        sizes = np.unique(np.linspace(n // 2, n, POINTS).astype(int))
        distances = [
            value if size == n else to_reference(features[rng.permutation(n)[:size]])
            for size in sizes
        ]
        half, infinity = distances[0], float(np.polyfit(1 / sizes, distances, 1)[1])
    warnings = tuple(
        f"{count} {what} pictures for {dimension} features: the covariance is singular, and the"
        " distance far too large."
        for count, what in ((n, "generated"), (len(reference), "reference"))
        if count <= dimension
    )
    if failed:
        warnings += (f"{failed} samples have no picture and are not in the distance.",)
    return Frechet(
        value=value,
        half=half,
        infinity=infinity,
        n=n,
        n_reference=len(reference),
        dimension=dimension,
        failed=failed,
        warnings=warnings,
    )


def as_features(features: Any) -> Features:
    """float64 [N, D] of an array or a tensor on any device.

    Raises:
        UserError: fewer than two rows, another shape, or a number that is not finite.
    """
    if hasattr(features, "detach"):
        features = features.detach().cpu().double()
    found = np.asarray(features, np.float64)
    if found.ndim != 2 or len(found) < 2 or not found.shape[1] or not np.isfinite(found).all():
        raise UserError(
            f"Features of shape {found.shape} were given to a Frechet distance.",
            "A covariance needs two pictures or more, each with one row of finite numbers.",
            "Give [N, D] with N of at least 2; thousands, if the value is to mean anything.",
        )
    return found


def moments(features_ND: Features) -> tuple[Features, Features]:
    """Mean [D] and unbiased covariance [D, D]."""
    centred = features_ND - features_ND.mean(0)
    return features_ND.mean(0), centred.T @ centred / (len(features_ND) - 1)


def frechet_distance(
    mean_1_D: Features, covariance_1_DD: Features, mean_2_D: Features, covariance_2_DD: Features
) -> float:
    """Squared Frechet distance of two Gaussians, at least 0."""
    root = _root(covariance_2_DD)
    return _distance(mean_1_D, covariance_1_DD, mean_2_D, covariance_2_DD, root)


def _distance(
    mean_1: Features, covariance_1: Features, mean_2: Features, covariance_2: Features,
    root_2: Features,
) -> float:  # fmt: skip
    """Tr (C_1 C_2)^(1/2) is that of R C_1 R with R = C_2^(1/2): symmetric, so eigenvalues are real.

    It stays exact for singular covariances, where a matrix root of the product does not.
    """
    product = root_2 @ covariance_1 @ root_2
    trace = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    squared = np.square(mean_1 - mean_2).sum()
    squared += np.trace(covariance_1) + np.trace(covariance_2) - 2 * trace
    return max(0.0, float(squared))


def _root(covariance_DD: Features) -> Features:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(covariance_DD)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T, np.float64)
