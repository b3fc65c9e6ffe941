"""A sweep of real runs, submitted to the fake SLURM: what is trained, sampled, evaluated and reported, and what failed."""

import json
from pathlib import Path

import h5py
import pytest


@pytest.mark.slow
def test_one_run_is_trained_sampled_and_evaluated_the_other_diverges_and_the_report_says_so(fake_slurm):
    fake_slurm.spec("sweep.yaml", sweep={"grid": {"train.lr": [1e-3, 1e30]}})
    settings = ["train.iterations=70", "evaluate.nll_examples=2", "sample.batch_size=10"]
    fake_slurm.iddpm("submit", "sweep.yaml", *settings)
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"lr=0.001": "done", "lr=1e+30": "failed"}
    assert "diverged" in fake_slurm.iddpm("status", "runs/study")
    study = Path("runs/study")
    with h5py.File(study / "lr=0.001" / "samples" / "samples.h5") as file:
        assert file["images"].shape == (10, 8, 8, 1)
    assert json.loads((study / "lr=0.001" / "evaluation.json").read_text())["metrics"]["fid"]["value"] > 0
    reported = (study / "report.json").read_text()
    assert "not finite" in reported and "lr=1e+30" in reported
