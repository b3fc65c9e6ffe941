"""`train.init_from`: training starts from the weights in a file, at step 0, and never reads the file again once it has saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import iddpm, iddpm_here
from noisy_runs import noisy_weights, trained
from safetensors.torch import load_file, save_file
from small_checkpoints import assert_same_checkpoint, contents
from small_runs import SMALL_SPEC

from jobs.errors import UserError
from jobs.kinds.start_fit import start_problems
from jobs.kinds.weight_files import export_weights
from jobs.parallel.group import process_group
from jobs.run.start_weights import start_file
from jobs.spec.kinds import MODEL
from jobs.storage.files import read_json, sha256_of_file
from jobs.training.state import new_state, resume

SHORT = ("train.log_interval=1", "train.save_interval=4")


@pytest.fixture
def teacher(make_run):
    """A finished run whose weights are noise."""
    return trained(make_run(folder="teacher"))


def test_weights_and_averages_start_from_the_file_and_all_else_is_fresh(make_run, teacher, tmp_path):
    export_weights(teacher, tmp_path / "weights.pt", 0.9)
    export_weights(teacher, tmp_path / "weights.safetensors", 0.9)
    average = load_file(teacher.checkpoints / "step-00000012" / "ema-0.9.safetensors")
    forms = [tmp_path / "weights.pt", tmp_path / "weights.safetensors", teacher.path, teacher.checkpoints / "step-00000012",
             teacher.checkpoints / "step-00000012" / "ema-0.9.safetensors"]
    for number, form in enumerate(forms):
        run = make_run(f"train.init_from={form}", folder=f"runs-{number}")
        file = start_file(run.spec)
        recorded = read_json(run.path / "provenance.json")["init_from"]
        assert recorded == {"file": str(file.resolve()), "sha256": sha256_of_file(file)}
        with process_group(tmp_path / f"meeting-{number}", threads=1) as group:
            state = new_state(run.spec, group)
            assert resume(state, run) == 0
            part = state.parts[MODEL]
            for key, value in part.network.state_dict().items():
                assert torch.equal(value, average[key])
            for key, value in part.averages["0.9"].items():
                assert torch.equal(value, average[key])
            assert part.optimizer.state_dict()["state"] == {}


def test_a_fine_tuned_run_resumes_exactly_and_without_the_file(make_run, teacher, alone, tmp_path, capsys):
    file = tmp_path / "start.safetensors"
    export_weights(teacher, file, 0.9)
    whole, broken = (make_run(*SHORT, f"train.init_from={file}", folder=name) for name in ("whole", "broken"))
    assert alone(whole, "train") == "done" and "starting from the weights in" in capsys.readouterr().out
    shutil.copytree(whole.path, broken.path, dirs_exist_ok=True)
    shutil.rmtree(broken.checkpoints / "step-00000012")
    file.unlink()
    assert alone(broken, "train") == "done" and "starting from" not in capsys.readouterr().out
    assert_same_checkpoint(whole.checkpoints / "step-00000012", broken.checkpoints / "step-00000012")
    scratch = make_run(*SHORT, folder="scratch")
    assert alone(scratch, "train") == "done"
    ours, theirs = (contents(run.checkpoints / "step-00000012")["model.safetensors"] for run in (whole, scratch))
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_another_file_under_the_recorded_path_is_refused(make_run, teacher, alone, tmp_path):
    file = tmp_path / "start.safetensors"
    export_weights(teacher, file, 0.9)
    run = make_run(f"train.init_from={file}")
    save_file(noisy_weights(run, seed=5), file)
    with pytest.raises(UserError, match="start.safetensors: not the file that .* was made to start from"):
        alone(run, "train")
    file.unlink()
    with pytest.raises(UserError, match="start.safetensors: no such file"):
        alone(run, "train")
    assert not run.checkpoint_folders()


def test_files_that_are_missing_or_do_not_fit_are_named_before_anything_is_written(make_run, teacher, tmp_path):
    good, wide, text = tmp_path / "good.safetensors", tmp_path / "wide.pt", tmp_path / "text.pt"
    export_weights(teacher, good, 0.9)
    spec = make_run("model.num_channels=16", folder="wide").spec
    torch.save(noisy_weights(trained(make_run("model.num_channels=16", folder="wide"))), wide)
    text.write_text("no weights")
    unfinished = make_run(folder="unfinished")
    specs = {name: teacher.spec.model_copy(update={"train": spec.train.model_copy(update={"init_from": str(name)})})
             for name in (good, wide, text, tmp_path / "nothing.pt", unfinished.path, tmp_path)}
    assert start_problems([specs[good]]) == [] == start_problems([spec])
    problems = start_problems(list(specs.values()))
    assert len(problems) == 5
    for words in ("nothing.pt: no such file", "its training is not finished", "the folder of neither a run nor a checkpoint",
                  "wide.pt: weights of another network", "text.pt: not a plain state dict"):
        assert sum(words in problem for problem in problems) == 1, problems


@pytest.mark.slow
def test_the_command_checks_trains_and_goes_on_without_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = SMALL_SPEC["sample"] | {"num_samples": 2, "timestep_respacing": "5"}
    small = SMALL_SPEC | {"evaluate": {"metrics": []}, "sample": short}
    Path("teacher.yaml").write_text(json.dumps(small | {"name": "teacher"}))
    fine_tuned = {"name": "pupil", "train": small["train"] | {"init_from": "w.safetensors"}}
    Path("pupil.yaml").write_text(json.dumps(small | fine_tuned))
    text = iddpm_here("check", "pupil.yaml")
    assert "not ready to run: train.init_from: w.safetensors: no such file" in text
    assert "w.safetensors: no such file" in iddpm("run", "pupil.yaml", cwd=tmp_path, status=2) and not Path("runs").exists()
    iddpm("run", "teacher.yaml", "--only", "train", cwd=tmp_path)
    iddpm("export", "runs/teacher/run", "w.safetensors", cwd=tmp_path)
    Path("json.py").write_text("raise SystemExit('a file beside the spec, not the module')")
    assert "pupil.yaml: valid\n" in iddpm("check", "pupil.yaml", cwd=tmp_path)
    Path("json.py").unlink()
    wide = iddpm("run", "pupil.yaml", "model.num_channels=16", cwd=tmp_path, status=2)
    assert "train.init_from: w.safetensors: weights of another network" in wide and not Path("runs/pupil").exists()
    assert "starting from the weights in" in iddpm("run", "pupil.yaml", "--only", "train", cwd=tmp_path)
    # The weights alone do not tell all, and a default does not count.
    iddpm("export", "runs/teacher/run", "w.pt", cwd=tmp_path)
    text = iddpm("run", "pupil.yaml", "train.init_from=w.pt", "name=other", cwd=tmp_path, status=2)
    assert ("train.init_from: w.pt: neither names nor shapes of weights tell model.use_new_attention_order, "
            "model.num_heads_upsample, diffusion.rescale_timesteps") in text and not Path("runs/other").exists()
    settings = ("model.use_new_attention_order=false", "model.num_heads_upsample=null", "diffusion.rescale_timesteps=true")
    assert "pupil.yaml: valid\n" in iddpm_here("check", "pupil.yaml", "train.init_from=w.pt", *settings)
    Path("w.safetensors").unlink()
    assert "evaluate  done in" in iddpm("run", "pupil.yaml", cwd=tmp_path)
    text = iddpm("run", "pupil.yaml", "train.init_from=null", cwd=tmp_path, status=2)
    assert "train.init_from: w.safetensors -> null" in text
