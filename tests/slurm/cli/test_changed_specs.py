"""The installed command on a finished run whose spec changes: more samples, a longer training, a step that is gone."""

import json
from pathlib import Path

import pytest
from command_line import iddpm
from small_checkpoints import assert_same_checkpoint
from small_runs import SMALL_SPEC

from jobs.storage.files import read_json

RESULTS = ("samples.h5", "samples.npz", "samples.png", "samples-grid.png")


@pytest.mark.slow
@pytest.mark.timeout(900)  # five commands, of which three do all stages
def test_a_finished_run_grows_to_the_bytes_of_a_fresh_one(tmp_path):
    two = {"tasks_per_node": 2, "cpus_per_task": 1}
    spec = SMALL_SPEC | {"diffusion": {"diffusion_steps": 8}, "resources": SMALL_SPEC["resources"] | {"train": two},
                         "evaluate": SMALL_SPEC["evaluate"] | {"nll_examples": 2}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    iddpm("run", "spec.yaml", "train.save_interval=2", cwd=tmp_path)
    run = tmp_path / "runs" / "small" / "run"
    first = read_json(run / "evaluation.json")

    text = iddpm("run", "spec.yaml", "train.save_interval=2", "sample.at=[4, last]", cwd=tmp_path, status=2)
    assert "sample.at: no checkpoint of step 4 is there any more" in text and "sample.at can name step 10, 12" in text
    grown = ("sample.num_samples=15", "train.iterations=18")
    text = iddpm("run", "spec.yaml", *grown, cwd=tmp_path)
    assert "train     done in" in text and "resuming from" in text and "evaluate  done in" in text
    text = iddpm("run", "spec.yaml", grown[0], "train.iterations=9", cwd=tmp_path, status=2)
    assert "training is at step 18 already, and cannot be shortened" in text
    iddpm("run", "spec.yaml", *grown, "sample.at=[12, last]", "--runs", "fresh", cwd=tmp_path)
    fresh = tmp_path / "fresh" / "small" / "run"
    assert_same_checkpoint(run / "checkpoints" / "step-00000018", fresh / "checkpoints" / "step-00000018")
    for name in RESULTS:
        assert (run / "samples" / name).read_bytes() == (fresh / "samples" / name).read_bytes(), name
    ours, theirs = read_json(run / "evaluation.json"), read_json(fresh / "evaluation.json")
    assert ours == theirs and [entry["step"] for entry in ours["curve"]] == [18, 12]
    early = Path("samples") / "step-00000012,ancestral,full" / "samples.h5"
    assert (run / early).read_bytes() == (fresh / early).read_bytes()  # gathered anew, because it has more samples now
    assert first["curve"][0]["metrics"]["bits/dim"] == ours["curve"][1]["metrics"]["bits/dim"]
    shown = iddpm("status", "runs/small", "--json", cwd=tmp_path)
    assert json.loads(shown)[0]["state"] == "done"
