"""RePaint: the order of its moves, and Gaussian data of which half is known: the other half then has a known distribution."""

import pytest
import torch

from diffusion.editing.repaint import repaint, repaint_levels

CORRELATION, KNOWN = 0.9, 1.0
COVARIANCE = [[1.0, CORRELATION], [CORRELATION, 1.0]]
ANEW = torch.tensor([False, True])


def test_levels_by_hand():
    assert list(repaint_levels(7, 3, 3)) == [7, 6, 5, 4, 7, 6, 5, 4, 7, 6, 5, 4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("steps, jump, passes", [(250, 10, 10), (50, 2, 10), (10, 10, 5), (5, 10, 10), (1, 1, 2)])
def test_levels_go_one_down_or_one_jump_up_and_meet_each_stop_so_often(steps, jump, passes):
    levels = list(repaint_levels(steps, jump, passes))
    assert levels[0] == steps and levels[-1] == 0 and levels.count(0) == 1
    assert {after - before for before, after in zip(levels, levels[1:], strict=False)} <= {-1, jump}
    stops = range(1, steps - jump + 1, jump)
    down = sum(after < before for before, after in zip(levels, levels[1:], strict=False))
    assert down == steps + len(stops) * (passes - 1) * jump


def test_one_pass_goes_straight_down():
    assert list(repaint_levels(4, 2, 1)) == [4, 3, 2, 1, 0]


def painted(denoise, passes: int, count: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)

    def randn(x):
        return torch.randn(x.shape, generator=generator)
    known = torch.tensor([KNOWN, float("nan")]).expand(count, 1, 1, 2)  # no pixel that is made anew is looked at
    noise = randn(known)
    *_, last = repaint(denoise, noise, known, ANEW, randn, jump=5, passes=passes)
    return last[:, 0, 0]


def test_known_pixels_are_noised_to_each_level_and_jumps_noise_all_pixels_by_single_steps_of_q(gaussian):
    """With noise of ones, each x follows from the one before by DDPM's eq. 4 and 2."""
    denoise, known = gaussian([0.0, 0.0], COVARIANCE, range(0, 1000, 100)), torch.full((3, 1, 1, 2), KNOWN)
    betas, levels = denoise.diffusion.coefficients.betas, list(repaint_levels(10, 3, 2))
    before = torch.ones_like(known)
    for level, now, x in zip(levels, levels[1:], repaint(denoise, before, known, ANEW, torch.ones_like, jump=3, passes=2),
                             strict=False):
        expected = before if now > level else known
        for beta in betas[level:now] if now > level else betas[:now]:
            expected = (1 - beta) ** 0.5 * expected
        kept = (1 - betas[level:now] if now > level else 1 - betas[:now]).prod()
        expected = expected + (1 - kept) ** 0.5
        compared = slice(None) if now > level else ~ANEW
        torch.testing.assert_close(x[..., compared], expected[..., compared])
        before = x


def test_known_pixels_are_exact_and_new_ones_fit_them(gaussian):
    """Given the known pixel x, the other one is normal with mean 0.9 x and variance 1 - 0.81."""
    images = painted(gaussian([0.0, 0.0], COVARIANCE, range(0, 1000, 20)), passes=10)
    assert (images[:, 0] == KNOWN).all()
    assert images[:, 1].mean() == pytest.approx(CORRELATION * KNOWN, abs=0.1)
    assert images[:, 1].var() == pytest.approx(1 - CORRELATION ** 2, abs=0.08)


def test_without_resampling_new_pixels_fit_less(gaussian):
    """RePaint, section 4.2: one pass does not harmonise new pixels with known ones."""
    denoise = gaussian([0.0, 0.0], COVARIANCE, range(0, 1000, 20))
    errors = [abs(float(painted(denoise, passes)[:, 1].mean()) - CORRELATION * KNOWN) for passes in (1, 10)]
    assert errors[0] > 0.15 and errors[0] > 2 * errors[1]
