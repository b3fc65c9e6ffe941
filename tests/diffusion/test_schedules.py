import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.coefficients import Coefficients
from diffusion.respacing import space_timesteps
from diffusion.schedules import SCHEDULES, betas_of, respaced_betas


@pytest.mark.parametrize("noise_schedule", ["linear", "cosine"])
@pytest.mark.parametrize("diffusion_steps", [1000, 4000])
def test_tables_agree_with_golden_to_1e_12(golden, noise_schedule, diffusion_steps):
    expected = golden.arrays("schedules")
    coefficients = Coefficients.of(betas_of(noise_schedule, diffusion_steps))
    for name in ("betas", "alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
                 "posterior_mean_coef1", "posterior_mean_coef2"):
        np.testing.assert_allclose(getattr(coefficients, name), expected[f"{noise_schedule}_{diffusion_steps}_{name}"],
                                   rtol=1e-12, atol=1e-15, err_msg=name)


def test_respacing_agrees_with_golden(golden):
    for case in golden.facts("respacing"):
        if case["timesteps"] == "ValueError":
            with pytest.raises(ValueError):
                space_timesteps(case["diffusion_steps"], case["timestep_respacing"], "cosine")
        else:
            assert space_timesteps(case["diffusion_steps"], case["timestep_respacing"], "cosine") == case["timesteps"]


def test_respaced_betas_agree_with_golden(golden):
    expected = golden.arrays("respaced_cosine4000_100")
    timesteps = space_timesteps(4000, "100", "cosine")
    assert timesteps == expected["timestep_map"].tolist()
    coefficients = Coefficients.of(respaced_betas(betas_of("cosine", 4000), timesteps))
    np.testing.assert_allclose(coefficients.betas, expected["betas"], rtol=1e-12)
    np.testing.assert_allclose(coefficients.alphas_cumprod, expected["alphas_cumprod"], rtol=1e-12)


@pytest.mark.parametrize("text", ["0", "-5", "ten", "10,,5", "ddim", "ddim0", "1.5", " ", "10;5", "ddim-1"])
def test_malformed_respacing_is_named(text):
    with pytest.raises(ValueError, match="not a respacing") as error:
        space_timesteps(100, text, "linear")
    assert repr(text) in str(error.value)


def test_impossible_ddim_stride_names_what_was_asked_and_the_nearest():
    with pytest.raises(ValueError) as error:
        space_timesteps(4000, "ddim2500", "cosine")
    assert "ddim2500" in str(error.value) and "ddim2000" in str(error.value) and "ddim4000" in str(error.value)


@given(st.integers(1, 400), st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_sections_keep_the_asked_number_ascending_with_both_ends(diffusion_steps, counts):
    text = ",".join(map(str, counts))
    try:
        kept = space_timesteps(diffusion_steps, text, "cosine")
    except ValueError:
        size, extra = divmod(diffusion_steps, len(counts))
        assert any(count > size + (index < extra) for index, count in enumerate(counts))
        return
    assert len(kept) == sum(counts) and kept == sorted(set(kept))
    assert kept[0] == 0 and 0 <= kept[-1] < diffusion_steps
    if counts[-1] > 1:
        assert kept[-1] == diffusion_steps - 1


@given(st.integers(21, 5000), st.sampled_from(["linear", "cosine"]), st.data())
def test_any_number_of_steps_gives_a_valid_process_and_respacing_keeps_alpha_bar(diffusion_steps, schedule, data):
    betas = betas_of(schedule, diffusion_steps)
    assert ((betas > 0) & (betas < 1)).all()
    full = Coefficients.of(betas)
    kept = space_timesteps(diffusion_steps, str(data.draw(st.integers(1, diffusion_steps))), schedule)
    np.testing.assert_allclose(Coefficients.of(respaced_betas(betas, kept)).alphas_cumprod, full.alphas_cumprod[kept],
                               rtol=1e-9, atol=1e-15)


def test_unknown_schedule_and_too_short_linear_chain_are_refused():
    with pytest.raises(ValueError, match="there are linear and cosine"):
        betas_of("quadratic", 1000)
    with pytest.raises(ValueError, match="at least 21"):
        betas_of("linear", 20)


@pytest.mark.parametrize("name", SCHEDULES)
def test_fewest_steps_is_the_shortest_chain_with_betas_below_one(name):
    fewest = SCHEDULES[name].fewest_steps
    assert (betas_of(name, fewest) < 1).all()
    assert fewest == 1 or (SCHEDULES[name].betas(fewest - 1) >= 1).any()
