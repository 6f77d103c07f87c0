"""Proves the Frechet distance against torchmetrics, scipy and closed forms, and what it says of n.

Needs no checkpoint.
"""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from insitu.errors import UserError
from insitu.evaluation.metrics import Case
from insitu.evaluation.metrics.frechet import FrechetDistance, frechet, frechet_distance, moments


def draw(seed: int, n: int, dimension: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features."""
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (n, dimension)) @ rng.normal(0, 1, (dimension, dimension))


def test_it_is_torchmetrics_and_scipys_on_the_same_moments() -> None:
    one, other = draw(0, 200, 12), draw(1, 150, 12, 0.5)
    given = (*moments(one), *moments(other))
    found = frechet(one, other).value
    assert found == pytest.approx(_compute_fid(*map(torch.from_numpy, given)).item(), rel=1e-9)
    root = scipy.linalg.sqrtm(given[1] @ given[3]).real
    trace = np.trace(given[1] + given[3] - 2 * root)
    assert found == pytest.approx(np.square(given[0] - given[2]).sum() + trace, rel=1e-9)
    assert found == frechet_distance(*given)
    assert (given[0] == one.mean(0)).all()
    np.testing.assert_allclose(given[1], np.cov(one.T), rtol=1e-10)


def test_of_diagonal_gaussians_it_is_the_distance_of_means_and_deviations() -> None:
    means, deviations = np.array([[0, 1, 2.0], [3, 1, 0]]), np.array([[1, 2, 3.0], [2, 2, 0]])
    covariances = [np.diag(d) ** 2 for d in deviations]
    found = frechet_distance(means[0], covariances[0], means[1], covariances[1])
    assert found == pytest.approx((9 + 0 + 4) + (1 + 0 + 9))


def test_it_is_zero_for_equal_sets_symmetric_and_sound_where_covariances_are_singular() -> None:
    few, many = draw(0, 5, 30), draw(1, 400, 30)
    assert frechet(many, many).value == pytest.approx(0, abs=1e-6)
    assert frechet(few, few).value == pytest.approx(0, abs=1e-6)
    assert frechet(few, many).value == pytest.approx(frechet(many, few).value, rel=1e-6)
    found = frechet(few, many)
    assert "5 generated pictures for 30 features" in found.warnings[0] and len(found.warnings) == 1
    assert frechet(many, few).warnings[0].startswith("5 reference pictures")
    assert frechet(draw(0, 31, 30), many).warnings == ()
    assert frechet(draw(0, 30, 30), many).warnings != ()


def test_the_bias_falls_with_n_and_the_extrapolation_takes_most_of_it_away() -> None:
    """Both sets are drawn from one Gaussian, so all of the distance is bias."""
    errors = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        found = frechet(rng.normal(0, 1, (300, 10)), rng.normal(0, 1, (100_000, 10)), seed=seed)
        assert found.half is not None and found.infinity is not None
        assert found.half > found.value > 0
        errors.append((found.value, abs(found.infinity)))
    biased, extrapolated = np.mean(errors, axis=0)
    assert extrapolated < 0.4 * biased


def test_a_line_over_1_over_n_is_extrapolated_to_its_end() -> None:
    """With one feature and a reference without spread the distance is known: m^2 + s^2."""
    rng = np.random.default_rng(0)
    features, reference = rng.normal(1, 1, (4000, 1)), np.zeros((2, 1))
    found = frechet(features, reference)
    assert found.value == pytest.approx(features.mean() ** 2 + features.var(ddof=1))
    assert found.infinity == pytest.approx(found.value, rel=0.1)
    assert (found.n, found.n_reference, found.dimension) == (4000, 2, 1)
    assert frechet(features[:3], reference).infinity is None


def colours(images: list[np.ndarray]) -> torch.Tensor:
    return torch.tensor(np.array([image.mean((0, 1)) for image in images]))


def test_pictures_are_compared_by_any_extractor_and_lost_ones_are_said() -> None:
    rng = np.random.default_rng(0)
    reference, pictures = rng.integers(0, 256, (2, 20, 4, 4, 3), np.uint8)
    metric = FrechetDistance(colours, list(reference))
    cases = [Case(image=picture) for picture in pictures]
    found = metric([*cases, Case(image=None, failure="timed out")])
    assert found.value == frechet(colours(list(pictures)), colours(list(reference))).value
    assert found.n == 20 and found.failed == 1
    assert found.warnings == ("1 samples have no picture and are not in the distance.",)
    assert metric(cases).warnings == ()
    for few in (cases[:1], [Case(image=None, failure="timed out")] * 3):
        with pytest.raises(UserError, match="two pictures or more"):
            metric(few)


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(UserError, match="width 3 and 4"):
        frechet(draw(0, 9, 3), draw(0, 9, 4))
    spoilt = draw(0, 9, 3)
    spoilt[0, 0] = np.nan
    with pytest.raises(UserError, match="finite"):
        frechet(spoilt, draw(0, 9, 3))
