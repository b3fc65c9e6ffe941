"""The installed command on a sweep whose points share one training, with kills in the middle of the training and after it."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import IDDPM, iddpm
from small_checkpoints import assert_same_checkpoint
from small_runs import SMALL_SPEC

from jobs.storage.files import read_json
from slurm.launch.local_ranks import descendants

TRAINS, SHARES = "sampler=ancestral", "sampler=ddim"


@pytest.fixture
def spec(tmp_path):
    """A sweep over the sampler in sweep.yaml, and each of its points as a study of its own in alone-SAMPLER.yaml."""
    small = SMALL_SPEC | {"diffusion": {"diffusion_steps": 8}, "evaluate": {"metrics": ["fid"]},
                          "train": SMALL_SPEC["train"] | {"iterations": 60, "save_interval": 10}}
    (tmp_path / "sweep.yaml").write_text(json.dumps(small | {"sweep": {"grid": {"sample.sampler": ["ancestral", "ddim"]}}}))
    (tmp_path / "alone.yaml").write_text(json.dumps(small | {"sample": small["sample"] | {"sampler": "ddim"}}))
    return tmp_path


def killed(folder: Path, when) -> None:
    """Start the sweep, and kill the command and all its processes as soon as when()."""
    process = subprocess.Popen([IDDPM, "run", "sweep.yaml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not when():
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        for number in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_over_samplers_trains_once_also_where_it_is_killed(spec):
    study = spec / "runs" / "small"
    assert "1 training: 1 of the runs share that of another" in iddpm("check", "sweep.yaml", cwd=spec)
    killed(spec, lambda: (study / TRAINS / "checkpoints" / "step-00000020").exists())
    killed(spec, lambda: (study / SHARES / "progress.json").exists())
    text = iddpm("run", "sweep.yaml", cwd=spec)
    assert f"{TRAINS} train     done before" in text and f"{SHARES} train     shared with {TRAINS}" in text
    stages = [json.loads(line)["stage"] for line in (study / SHARES / "stages.jsonl").read_text().splitlines()]
    assert "train" not in stages and {"sample", "evaluate"} <= set(stages)

    iddpm("run", "alone.yaml", "--runs", "alone", cwd=spec)
    alone = spec / "alone" / "small" / "run"
    assert_same_checkpoint(study / SHARES / "checkpoints" / "step-00000060", alone / "checkpoints" / "step-00000060")
    assert (study / SHARES / "samples" / "samples.npz").read_bytes() == (alone / "samples" / "samples.npz").read_bytes()
    assert read_json(study / SHARES / "evaluation.json") == read_json(alone / "evaluation.json")
    assert (study / SHARES / "checkpoints").is_symlink()

    shown = iddpm("diff", str(study / TRAINS), str(study / SHARES), cwd=spec)
    assert "sample.sampler" in shown and "data: sha256" not in shown and "start weights" not in shown
    assert f"one training: that of {TRAINS}, shared by {SHARES}" in iddpm("status", "runs/small", cwd=spec)
    assert "samples from the training of" in (study / "report.html").read_text()
    iddpm("export", str(study / SHARES), "out.safetensors", cwd=spec)
    refused = iddpm("rm", str(study / TRAINS), "--yes", cwd=spec, status=2)
    assert f"its training is shared by {SHARES}, so it stays" in refused
    assert "the training of sampler=ancestral stays" in iddpm("rm", str(study / SHARES), "--yes", cwd=spec)
    assert iddpm("train", str(study / TRAINS), cwd=spec).endswith("done before\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_train_of_a_run_that_shares_trains_its_trainer(spec):
    iddpm("run", "sweep.yaml", "--only", "train", "train.iterations=4", cwd=spec)
    runs = spec / "runs" / "small"
    assert not (runs / SHARES / "stages.jsonl").exists()
    (runs / TRAINS / "checkpoints").rename(spec / "gone")
    refused = iddpm("sample", f"runs/small/{SHARES}", cwd=spec, status=2)
    assert f"training: runs/small/{TRAINS} has not finished its stage train" in refused.replace(str(spec) + "/", "")
    assert "train     done in" in iddpm("train", f"runs/small/{SHARES}", cwd=spec)
    assert (runs / TRAINS / "checkpoints" / "step-00000004").is_dir()
