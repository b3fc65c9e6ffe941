"""Jobs of a study in which one run enlarges the samples of another: on the fake SLURM, with jobs that compute nothing."""

import json
from pathlib import Path

import pytest
from small_upsampler import stages, write_small_digits


@pytest.mark.slow
def test_sampling_waits_for_the_samples_that_it_enlarges_and_status_says_so(fake_slurm):
    small = write_small_digits(Path("small.h5").resolve())
    Path("study.yaml").write_text(json.dumps(stages(small) | {"name": "study"}))
    waiting = fake_slurm.act("base", "sample", "wait")
    fake_slurm.submit("study.yaml")
    fake_slurm.until_event("begin base sample")
    fake_slurm.until_event("end large train")
    runs = {run["run"]: run for run in fake_slurm.status()}
    assert runs["large"]["waits_for"] == [{"run": "base", "stage": "sample", "key": "sample.low_res.run"}]
    assert runs["base"]["waits_for"] == []
    assert fake_slurm.iddpm("status", "runs/study").count("waits for base (sample)") == 1
    waiting.unlink()
    fake_slurm.until_empty()
    events = fake_slurm.events()
    assert events.index("end base sample") < events.index("begin large sample")
    assert set(fake_slurm.states().values()) == {"done"}
    assert "large" in fake_slurm.iddpm("rm", "study", "base", "--yes", status=2)
