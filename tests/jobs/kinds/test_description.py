"""What kinds say of their objectives and algorithms, and what the report shows of it."""

import pytest
from small_classifier import classifier_spec

from diffusion.loss_weights import LOSS_WEIGHTS
from diffusion.objectives import LOSSES
from diffusion.parameterisation import PARAMETERISATIONS
from diffusion.samplers.table import SAMPLERS
from jobs.kinds.diffusion.description.algorithms import STEPS
from jobs.kinds.diffusion.description.objective import TARGETS, WEIGHTS
from jobs.report.write import report
from jobs.spec.kinds import kind_of
from jobs.storage.files import read_json


@pytest.fixture
def described(make_run):
    """described("diffusion.loss=vlb"): the description of the small run with these changes."""
    def described(*overrides: str):
        spec = make_run(*overrides, folder="-".join(overrides)).spec
        return kind_of(spec).description(spec)
    return described


def test_the_objectives_of_ddpm_and_iddpm_differ(described):
    simple, hybrid = (described(f"diffusion.loss={loss}") for loss in ("simple", "hybrid"))
    assert (simple.title, hybrid.title) == ("DDPM", "IDDPM")
    assert "eq. 14" in simple.source and "L_vlb" not in simple.objective and "‖ε − ε_θ(x_t, t" in simple.objective
    assert "eq. 16" in hybrid.source and "L_simple + 0.001 · L_vlb" in hybrid.objective


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_formula_and_a_source(described, loss):
    found = described(f"diffusion.loss={loss}")
    assert ("L_simple" in found.objective) == LOSSES[loss].mse and ("L_vlb" in found.objective) == bool(LOSSES[loss].bound)
    assert "arXiv" in found.source and found.training and found.sampling


def test_the_words_follow_the_settings(described):
    assert (TARGETS.keys(), WEIGHTS.keys(), STEPS.keys()) == (PARAMETERISATIONS.keys(), LOSS_WEIGHTS.keys(), SAMPLERS.keys())
    assert "v_θ(x_t, t" in described("diffusion.predict=v").objective
    assert "Min-SNR" in described("diffusion.loss_weight=min_snr").source
    shorter = described("sample.sampler=ddim", "sample.timestep_respacing='10'").sampling
    assert any("N of the T steps" in line for line in shorter) and any("Song" in line for line in shorter)
    importance = described("train.schedule_sampler=loss-second-moment").training
    assert any("eq. 18" in line for line in importance)


def test_a_classifier_draws_no_samples():
    spec = classifier_spec()
    found = kind_of(spec).description(spec)
    assert "p_φ(y | x_t, t)" in found.objective and not found.sampling and not found.sampling_cost


def test_the_report_shows_each_objective_once(study):
    page = report(study).read_text(encoding="utf-8")
    assert page.count("L_hybrid = L_simple + 0.001 · L_vlb") == 1 and page.count("<h3>DDPM: ") == 1 == page.count("<h3>IDDPM: ")
    assert [model["title"] for model in read_json(study / "report.json")["models"]] == ["DDPM", "IDDPM"]
