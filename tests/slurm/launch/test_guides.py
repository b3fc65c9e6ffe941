"""Jobs of a study in which one run guides the sampling of others: on the fake SLURM, with jobs that compute nothing."""

import json
from pathlib import Path

import pytest
from small_runs import SMALL_SPEC

GUIDED = {"kind": "autoguidance", "run": "weak", "at": 5, "scale": 2}
SPEC = {**SMALL_SPEC, "name": "study", "sweep": {"list": [
    {"name": "led", "sample.guidance": GUIDED},
    {"name": "listed", "train.seed": 1, "evaluate.samplings": [{"guidance": {**GUIDED, "scale": [1.5, 2]}}]},
    {"name": "weak", "train.seed": 2}]}}


@pytest.mark.slow
def test_sampling_waits_for_the_training_of_its_guide_and_status_says_so(fake_slurm):
    Path("study.yaml").write_text(json.dumps(SPEC))
    waiting = fake_slurm.act("weak", "train", "wait")
    text = fake_slurm.submit("study.yaml")
    assert sum(line.startswith("train") for line in text.splitlines()) == 2  # not an array: only two runs wait before sampling
    fake_slurm.until_event("begin weak train")
    assert {file.name for file in Path("runs/study/weak/kept_for").iterdir()} and not Path("runs/study/led/kept_for").exists()
    runs = {run["run"]: run for run in fake_slurm.status()}
    fake_slurm.until_event("end led train")
    fake_slurm.until_event("end listed train")
    runs = {run["run"]: run for run in fake_slurm.status()}
    assert runs["led"]["waits_for"] == [{"run": "weak", "stage": "train", "key": "sample.guidance.run"}]
    assert runs["listed"]["waits_for"] == [{"run": "weak", "stage": "train", "key": "evaluate.samplings[0].guidance.run"}]
    assert runs["weak"]["waits_for"] == []
    assert fake_slurm.iddpm("status", "runs/study").count("waits for weak (train)") == 2
    waiting.unlink()
    fake_slurm.until_empty()
    events = fake_slurm.events()
    for run in ("led", "listed"):
        assert events.index("end weak train") < events.index(f"begin {run} sample")
    assert set(fake_slurm.states().values()) == {"done"}
