"""The installed command, as a user types it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import IDDPM, iddpm, iddpm_here
from paths import ROOT
from PIL import Image
from safetensors.numpy import load_file

from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.spec.stages import STAGES

CONFIGS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "configs").glob("*.yaml"))
QUICK = [str(ROOT / "configs" / "quickstart.yaml"), "sample.num_samples=10", "sample.batch_size=10",
         "resources.sample.tasks_per_node=1", "resources.evaluate.tasks_per_node=1"]
SHORT = ["diffusion.diffusion_steps=60", "evaluate.respacings=[]", "evaluate.features=pixels", "evaluate.metrics=[fid]"]


@pytest.mark.slow
def test_quickstart_does_all_stages_over_the_full_chain_and_skips_them_the_second_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = [*QUICK, "model.num_channels=8", "model.channel_mult=[1]", "model.attention_resolutions=[]", "train.iterations=20",
             "evaluate.respacings=[10]", "evaluate.nll_examples=2", "evaluate.batch_size=2"]
    first = iddpm("run", *quick, cwd=tmp_path)
    run = tmp_path / "runs" / "quickstart" / "run"
    for named in ("fid", "precision", "bits/dim", "not comparable", "samples.png", "samples.h5", "tensorboard --logdir"):
        assert named in first
    with h5py.File(run / "samples" / "samples.h5") as file:
        assert file["images"].shape == (10, 8, 8, 1) and file["images"].dtype == np.uint8
        assert file["labels"][:].tolist() == list(range(10))
        assert file.attrs["diffusion_steps"] == 4000 and file.attrs["timestep_respacing"] == ""
    with Image.open(run / "samples" / "samples.png") as picture:
        assert picture.size == (4 * 66 + 2, 3 * 66 + 2)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["metrics"]["fid"]["value"] > 0 and 0 < evaluation["bits_per_dim"]["value"] < 20

    stamps = {file: file.stat().st_mtime_ns for file in run.rglob("*.h5")}
    again = iddpm("run", *quick, cwd=tmp_path)
    assert again.count("done before") == 3
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*.h5")} == stamps

    changed = iddpm_here("run", *quick, "train.lr=3e-3", status=2)
    assert "train.lr: 0.001 -> 0.003" in changed and "another name" in changed

    assert "done before" in iddpm_here("gather", run)
    assert "safetensors" in iddpm("export", run, "out.safetensors", cwd=tmp_path)


@pytest.mark.slow
def test_a_sweep_goes_on_past_a_run_that_fails_and_says_so(tmp_path):
    spec = tmp_path / "sweep.yaml"
    spec.write_text(f"extends: {ROOT}/configs/quickstart.yaml\nname: sweep\nsweep: {{grid: {{train.lr: [1e30, 1e-3]}}}}\n")
    small = ["train.iterations=70", "train.batch_size=4", "train.warmup=0", "train.grad_clip=null", "train.log_interval=10",
             "model.num_channels=8", "sample.num_samples=4", "sample.batch_size=4", "evaluate.nll_examples=0", *SHORT]
    one = [f"resources.{stage}.tasks_per_node=1" for stage in STAGES]
    text = iddpm("run", spec, *small, *one, cwd=tmp_path, status=1)
    assert "gradient was not finite" in text and "lr=1e+30" in text and "failed" in text
    assert (tmp_path / "runs" / "sweep" / "lr=0.001" / "evaluation.json").exists()
    assert not (tmp_path / "runs" / "sweep" / "lr=1e+30" / "samples" / "samples.h5").exists()


def started(tmp_path, *arguments) -> subprocess.Popen:
    """The command in a process group of its own, as a terminal starts it."""
    return subprocess.Popen([IDDPM, *map(str, arguments)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


LONG = [*QUICK, *SHORT, "model.num_channels=16", "train.iterations=120", "train.save_interval=20", "evaluate.nll_examples=0",
        "name=long"]


@pytest.mark.slow
def test_ctrl_c_saves_and_killed_ranks_are_told_and_both_go_on_to_the_undisturbed_weights(tmp_path):
    train = ["run", *LONG, "--only", "train"]
    freeze(load(LONG[0], LONG[1:]), tmp_path / "undisturbed")
    iddpm("train", "undisturbed/long/run", cwd=tmp_path)  # unlike `iddpm run`, this writes no report
    run = tmp_path / "runs" / "long" / "run"

    process = started(tmp_path, *train)
    wait_for(run / "checkpoints" / "step-00000020", process)
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "saving first" in text and "run again to go on" in text, text
    assert json.loads((run / "progress.json").read_text())["state"] == "interrupted"
    reached = max(int(folder.name[5:]) for folder in (run / "checkpoints").iterdir())

    process = started(tmp_path, *train)
    later = run / "checkpoints" / f"step-{reached // 20 * 20 + 20:08}"
    wait_for(later, process)
    os.kill(json.loads((run / "progress.json").read_text())["pid"], signal.SIGKILL)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "rank 0 died without a message" in text and "_log.out" in text, text

    iddpm("train", run, cwd=tmp_path)
    name = "checkpoints/step-00000120/ema-0.995.safetensors"
    ours, theirs = load_file(run / name), load_file(tmp_path / "undisturbed" / "long" / "run" / name)
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs) and len(ours) == len(theirs)


@pytest.mark.slow
def test_ctrl_c_while_a_stage_starts_is_not_lost(tmp_path):
    process = started(tmp_path, "run", *LONG)
    wait_for(tmp_path / "runs" / "long" / "run" / "logs" / "train", process)
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "run again to go on" in text and "died" not in text, text
    assert not (tmp_path / "runs" / "long" / "run" / "samples").exists()


@pytest.mark.slow
def test_one_stage_at_a_time_and_a_run_that_is_busy(tmp_path):
    small = [*QUICK, *SHORT, "model.num_channels=8", "train.iterations=5", "resources.train.tasks_per_node=1"]
    text = iddpm("run", *small, "--only", "train", cwd=tmp_path)
    assert "train     done in" in text and "sample" not in text.split("\n")[1] and "not evaluated" in text
    run = RunDir(tmp_path / "runs" / "quickstart" / "run")
    with run.exclusively():
        text = iddpm("run", *small, cwd=tmp_path, status=2)
    assert "another process is at work" in text and "busy" in text and "failed" not in text


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_passes_check(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = iddpm_here("check", config)
    for named in ("parameters", "forward pass", "training step", "memory", "sample", f"{config}: valid"):
        assert named in text


def test_check_prints_the_steps_that_a_chain_has_and_the_evaluations_that_they_take():
    text = iddpm("check", "configs/cifar10.yaml", "sample.sampler=heun", "sample.timestep_respacing=logsnr100",
                 "evaluate.respacings=[]", "sample.at=[last]", cwd=ROOT)
    assert "50,000 x 96 steps (191 evaluations)" in " ".join(text.split())


def test_check_prints_the_papers_numbers():
    text = iddpm("check", "configs/cifar10.yaml", cwd=ROOT)
    assert "52,546,438 in 446 tensors" in text and "16.8 GFLOP" in text and "3.35 EFLOP" in text and "3.22 EFLOP" in text


def test_the_digits_and_a_folder_as_data_sets(tmp_path):
    assert "1500 images, 10 classes" in iddpm("data", "digits", "digits.h5", cwd=tmp_path)
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (40, 50), (index * 50, 0, 0)).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    refused = iddpm("data", "folder", "pictures", "out.h5", "--image-size", 32, cwd=tmp_path, status=2)
    assert "broken.png" in refused and not (tmp_path / "out.h5").exists()
    skipped = iddpm("data", "folder", "pictures", "out.h5", "--image-size", 32, "--on-error", "skip", cwd=tmp_path)
    assert "3 images" in skipped and "skipped" in skipped and "broken.png" in skipped


BAD = {
    "no file": (["run", "nowhere.yaml"], ["nowhere.yaml"]),
    "unknown key": (["check", "SPEC", "train.itertions=5"], ["train.itertions", "iterations"]),
    "wrong type": (["check", "SPEC", "train.iterations=many"], ["train.iterations", "whole number"]),
    "out of range": (["check", "SPEC", "model.dropout=1.5"], ["model.dropout", "less than 1"]),
    "size the levels do not divide": (["check", "SPEC", "data.image_size=9"], ["data.image_size", "multiple of 2"]),
    "batch not divisible over ranks": (["check", "SPEC", "train.batch_size=63"], ["train.batch_size", "2 ranks"]),
    "batch not divisible over microbatches": (["check", "SPEC", "train.microbatch=7"], ["train.microbatch", "32"]),
    "respacing": (["check", "SPEC", "sample.timestep_respacing=ddim3000"], ["ddim3000", "ddim2000 and ddim4000"]),
    "more steps than there are": (["check", "SPEC", "sample.timestep_respacing=logsnr5000"], ["logsnr5000", "4000"]),
    "missing data": (["run", "SPEC", "data.path=no.h5"], ["no.h5", "iddpm data"]),
    "foreign data": (["run", "SPEC", "data.path=SPEC"], ["quickstart.yaml", "HDF5"]),
    "images of another size": (["run", "SPEC", "data.image_size=16", "model.attention_resolutions=[8]"], ["8x8", "16"]),
    "too few held-out examples": (["run", "SPEC", "evaluate.nll_examples=298"], ["evaluate.nll_examples", "297"]),
    "missing features": (["run", "SPEC", "evaluate.features=no.pt"], ["no.pt", "TorchScript"]),
    "output not writable": (["run", "SPEC", "--runs", "/dev/null/runs"], ["/dev/null/runs"]),
    "not a run": (["train", "."], ["not a run's directory"]),
    "unknown command": (["trian"], ["trian"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_message_and_status_2(tmp_path, case, monkeypatch):
    arguments, expected = BAD[case]
    spec = str(ROOT / "configs" / "quickstart.yaml")
    monkeypatch.chdir(tmp_path)
    text = iddpm_here(*[argument.replace("SPEC", spec) for argument in arguments], status=2)
    for words in expected:
        assert words in text, text
    assert list(tmp_path.iterdir()) == []


def test_malformed_yaml_names_file_and_line(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\ntrain: {iterations: [1\n")
    assert "bad.yaml:" in iddpm("check", "bad.yaml", cwd=tmp_path, status=2)
