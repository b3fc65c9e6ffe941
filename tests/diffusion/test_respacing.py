"""Chains that are even in log-SNR, and chains of squares; evenly spaced ones are in test_schedules.py."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import GOLDEN

from diffusion.respacing import LOWEST_LAMBDA, space_timesteps
from diffusion.schedules import alphas_cumprod_of, betas_of, half_log_snr

CASES = [case for case in json.loads((GOLDEN / "solvers.json").read_text())["cases"].values() if case["grid"] == "logsnr"]


def test_chains_even_in_log_snr_agree_with_golden():
    found = {(case["noise_schedule"], case["diffusion_steps"], len(case["timesteps"])) for case in CASES}
    assert len(found) == 4
    for case in CASES:
        kept = space_timesteps(case["diffusion_steps"], f"logsnr{len(case['timesteps'])}", case["noise_schedule"])
        assert kept == case["timesteps"][::-1]


@given(st.integers(21, 3000), st.integers(1, 400), st.sampled_from(["linear", "cosine"]))
def test_each_is_the_nearest_timestep_to_its_point_of_the_grid(diffusion_steps, wanted, schedule):
    text = f"logsnr{wanted}"
    if wanted > diffusion_steps:
        with pytest.raises(ValueError, match=f"{text}: there are {diffusion_steps} steps to choose from"):
            space_timesteps(diffusion_steps, text, schedule)
        return
    kept = space_timesteps(diffusion_steps, text, schedule)
    lambdas = half_log_snr(alphas_cumprod_of(betas_of(schedule, diffusion_steps)))
    start = int((lambdas >= LOWEST_LAMBDA).sum()) - 1
    assert kept == sorted(set(kept)) and len(kept) <= wanted and kept[-1] == start and (wanted == 1 or kept[0] == 0)
    grid = np.linspace(lambdas[start], lambdas[0], wanted)
    distance = np.abs(lambdas[:start + 1, None] - grid).min(axis=0)
    np.testing.assert_allclose(np.abs(lambdas[kept][:, None] - grid).min(axis=0), distance, atol=1e-12)


def test_duplicates_make_a_chain_even_in_log_snr_shorter():
    assert [len(space_timesteps(4000, f"logsnr{asked}", "cosine")) for asked in (10, 20, 100, 4000)] == [10, 20, 96, 2117]


def test_the_last_steps_of_a_cosine_schedule_are_left_out_and_those_of_a_linear_one_are_not():
    assert space_timesteps(1000, "logsnr20", "linear")[-1] == 999
    assert space_timesteps(1000, "logsnr20", "cosine")[-1] == 995


@given(st.integers(1, 3000), st.integers(1, 100))
def test_squares_go_from_the_first_step_to_the_last(diffusion_steps, wanted):
    text = f"quad{wanted}"
    if wanted > diffusion_steps:
        with pytest.raises(ValueError, match=f"{text}: there are {diffusion_steps} steps to choose from"):
            space_timesteps(diffusion_steps, text, "cosine")
        return
    kept = space_timesteps(diffusion_steps, text, "cosine")
    assert kept == sorted(set(kept)) and kept[-1] == diffusion_steps - 1 and len(kept) <= wanted
    if wanted > 1:
        expected = {int((diffusion_steps - 1) * (i / (wanted - 1)) ** 2 + 1e-9) for i in range(wanted)}
        assert set(kept) == expected and kept[0] == 0


def test_a_chain_of_squares_by_hand():
    assert space_timesteps(82, "quad10", "linear") == [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
    assert space_timesteps(10, "quad5", "linear") == [0, 2, 5, 9]  # 0, 0.56, 2.25, 5.06, 9


@pytest.mark.parametrize("text", ["logsnr", "logsnr0", "logsnr-3", "logsnr1.5", "quad", "quad0", "quadratic", "logsnr20,5",
                                  "snr20"])
def test_a_malformed_chain_is_named(text):
    with pytest.raises(ValueError, match="is not a respacing; write") as error:
        space_timesteps(100, text, "linear")
    assert repr(text) in str(error.value) and '"logsnr20"' in str(error.value) and '"quad20"' in str(error.value)


@pytest.mark.parametrize("text", ["logsnr\uff15", "\u0665", "logsnr\u20033", "00000000000000005"])
def test_digits_are_those_of_ascii_and_few_are_zeros_in_front(text):  # the text is part of a folder's name
    with pytest.raises(ValueError, match="is not a respacing; write"):
        space_timesteps(100, text, "linear")


@pytest.mark.parametrize("text", ["9" * 4000, "quad" + "9" * 4000, "1," * 2000])
def test_a_long_text_is_not_repeated_whole(text):
    with pytest.raises(ValueError, match="is not a respacing; write") as error:
        space_timesteps(100, text, "linear")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["logsnr1000000000000", "quad1000000000000"])
def test_a_chain_of_absurd_length_is_refused_at_once(text):
    with pytest.raises(ValueError, match="there are 4000 steps to choose from"):
        space_timesteps(4000, text, "cosine")
