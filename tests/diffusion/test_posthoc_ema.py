import numpy as np
import pytest

from diffusion.posthoc_ema import LARGEST_SIGMA_REL, Profile, beta, combinations, gamma_of, inner_product


def test_gamma_and_beta_agree_with_golden(golden):
    expected = golden.facts("posthoc_ema")
    for sigma_rel, gamma in expected["gamma"].items():
        assert gamma_of(float(sigma_rel)) == pytest.approx(gamma, rel=1e-9)
    for sigma_rel, rates in expected["beta"].items():
        for t, rate in rates.items():
            assert beta(int(t), gamma_of(float(sigma_rel))) == pytest.approx(rate, rel=1e-9)


def test_coefficients_agree_with_golden(golden):
    cases = golden.facts("posthoc_ema")["reconstruction"]
    assert len(cases) == 24
    for case in cases:
        ((found, _),) = combinations([Profile(*snapshot) for snapshot in case["snapshots"]], [Profile(*case["target"])])
        theirs = np.array(case["coefficients"])
        assert np.linalg.norm(found - theirs) <= 1e-9 * np.linalg.norm(theirs)
        assert sum(found) == pytest.approx(1, abs=1e-12)


def test_a_walk_is_averaged_and_reconstructed_as_in_golden(golden):
    walk = golden.facts("posthoc_ema")["walk"]
    steps, parameters = walk["snapshot_steps"], np.array(walk["parameters"])
    for sigma_rel, direct in [*walk["direct"].items(), *((str(each), None) for each in walk["tracked"])]:
        gamma, average, seen = gamma_of(float(sigma_rel)), np.zeros(4), {}
        for t, now in enumerate(parameters, 1):
            average = beta(t, gamma) * average + (1 - beta(t, gamma)) * now
            seen[t] = average
        for step, expected in {walk["steps"]: direct}.items() if direct else walk["snapshots"][sigma_rel].items():
            np.testing.assert_allclose(seen[int(step)], expected, rtol=1e-9)
    known = [Profile(step, each) for step in steps for each in walk["tracked"]]
    values = np.array([walk["snapshots"][str(each)][str(step)] for step in steps for each in walk["tracked"]])
    targets = [Profile(walk["steps"], float(sigma_rel)) for sigma_rel in walk["reconstructed"]]
    for (shares, _), (sigma_rel, expected) in zip(combinations(known, targets), walk["reconstructed"].items(), strict=True):
        np.testing.assert_allclose(np.array(shares) @ values, expected, rtol=1e-9)
        error = np.linalg.norm(np.array(shares) @ values - walk["direct"][sigma_rel]) / np.linalg.norm(walk["direct"][sigma_rel])
        assert error == pytest.approx(walk["error"][sigma_rel], rel=1e-6)


def test_profiles_have_the_length_that_they_say():
    """sigma_rel is the standard deviation of the density (gamma + 1) t^gamma on [0, 1]."""
    t = (np.arange(1_000_000) + 0.5) / 1_000_000
    for sigma_rel in (0.01, 0.05, 0.1, 0.25, 0.288):
        gamma = gamma_of(sigma_rel)
        density = (gamma + 1) * t ** gamma
        mean = (t * density).mean()
        assert ((t - mean) ** 2 * density).mean() ** 0.5 == pytest.approx(sigma_rel, rel=1e-4)
        assert inner_product(Profile(1, sigma_rel), Profile(1, sigma_rel)) == pytest.approx((density ** 2).mean(), rel=1e-3)
    early, late = Profile(0.4, 0.1), Profile(1, 0.05)
    ours = [np.where(t <= each.t, (gamma_of(each.sigma_rel) + 1) / each.t * (t / each.t) ** gamma_of(each.sigma_rel), 0)
            for each in (early, late)]
    assert inner_product(early, late) == inner_product(late, early) == pytest.approx((ours[0] * ours[1]).mean(), rel=1e-4)


def test_a_snapshot_itself_is_the_nearest_combination_and_errors_are_those_of_the_profiles():
    known = [Profile(step, each) for step in (10, 20) for each in (0.05, 0.1)]
    exact, far = combinations(known, [known[3], Profile(20, 0.02)])
    assert exact.shares == pytest.approx([0, 0, 0, 1], abs=1e-12) and exact.error < 1e-6
    t = (np.arange(200_000) + 0.5) / 10_000
    densities = [np.where(t <= each.t, (gamma_of(each.sigma_rel) + 1) / each.t * (t / each.t) ** gamma_of(each.sigma_rel), 0)
                 for each in [*known, Profile(20, 0.02)]]
    difference = sum(share * density for share, density in zip(far.shares, densities, strict=False)) - densities[-1]
    assert far.error == pytest.approx(
        (difference ** 2).sum() ** 0.5 / (densities[-1] ** 2).sum() ** 0.5, rel=1e-3)


@pytest.mark.parametrize("sigma_rel", [0, -0.1, LARGEST_SIGMA_REL, 0.3, float("nan")])
def test_a_length_that_no_profile_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match="is not between 0 and 0.2887"):
        gamma_of(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [1e-7, 1e-160, 1e-300, 5e-324])
def test_a_length_that_would_overflow_is_refused_and_the_smallest_is_not(sigma_rel):
    with pytest.raises(ValueError, match="is below 1e-06, the smallest sigma_rel"):
        gamma_of(sigma_rel)
    assert gamma_of(1e-6) == pytest.approx(1e6, rel=1e-4)


def test_equal_snapshots_are_refused():
    with pytest.raises(ValueError, match="two snapshots are of equal averages"):
        combinations([Profile(10, 0.1), Profile(10, 0.1)], [Profile(10, 0.05)])
