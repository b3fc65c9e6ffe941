"""The seam for kinds of model, proved by a kind that is not diffusion: one line in the table, and everything works."""

import json

import h5py
import linear_kind
import numpy as np
import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file
from small_runs import kill_in_training, launching, logs
from torch.utils.flop_counter import FlopCounterMode

from jobs.cost.count import run_cost
from jobs.errors import UserError
from jobs.kinds.protocol import model_of
from jobs.report.write import report
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.run.waiting import waits_for
from jobs.sampling.gather import check_samples, recorded_settings
from jobs.spec.kinds import KINDS, MODEL, kind_of
from jobs.spec.reading.file import load
from jobs.spec.samplings import samplings
from jobs.storage.files import read_json

SPEC = {
    "name": "autoencoders", "kind": "linear", "linear": {"latent": 3},
    "data": {"path": "digits", "image_size": 8, "channels": 1},
    "train": {"iterations": 12, "batch_size": 12, "lr": 1e-2, "ema_rate": [0.9], "log_interval": 4, "save_interval": 4,
              "microbatch": 3},
    "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9},
    "evaluate": {"batch_size": 4},
}
STAGE = "import linear_kind; linear_kind.add(); import sys; from jobs import stage; sys.exit(stage.main())"


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    monkeypatch.setitem(KINDS, *linear_kind.ADD)


@pytest.fixture
def make(tmp_path):
    """make("train.lr=1", folder="a") -> the study's runs, frozen."""
    def make(*overrides: str, folder: str = "runs", **sections) -> list[RunDir]:
        spec = tmp_path / "spec.yaml"
        spec.write_text(json.dumps(SPEC | sections))
        return freeze(load(spec, overrides), tmp_path / folder)
    return make


@pytest.fixture
def ranks():
    """As `ranks` of small_runs, in processes that know the kind."""
    with launching("-c", STAGE, PYTHONPATH=f"{ROOT}:{ROOT / 'tests' / 'support'}") as launch:
        yield launch


def weights(run: RunDir, name: str) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / "step-00000012" / name)


def test_two_ranks_train_it_and_a_killed_run_ends_with_the_same_bits(make, ranks):
    (whole,), (killed,) = make(folder="whole"), make("train.iterations=12", folder="killed")
    assert ranks(whole, "train", 2) == 0, logs(whole)
    kill_in_training(killed, ranks)
    assert ranks(killed, "train", 2) == 0, logs(killed)
    for name in ("model.safetensors", "ema-0.9.safetensors", "critic.safetensors"):
        ours, theirs = weights(killed, name), weights(whole, name)
        assert ours and all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    first = make(folder="first")[0]
    networks = model_of(first.spec).trainable(first.spec, torch.device("cpu")).networks
    assert networks.keys() == {MODEL, "critic"}


def test_its_samples_do_not_depend_on_interruptions_and_show_up_in_the_report(make, alone, monkeypatch):
    whole, cut = make(folder="whole")[0], make(folder="cut")[0]
    for run in (whole, cut):
        assert alone(run, "train") == "done"
    assert alone(whole, "sample") == "done"
    asked = iter([False, True])  # in the middle of the first chunk
    with monkeypatch.context() as patch:
        patch.setattr("jobs.sampling.loop.asked_to_stop", lambda *arguments: next(asked, True))
        patch.setattr("jobs.sampling.loop.any_rank", lambda flag: True)
        assert alone(cut, "sample") == "interrupted"
    (partial,) = cut.samples.glob("partial-*.h5")
    with h5py.File(partial) as file:
        assert {"x", "before", "generator"} == set(file) and 0 < file.attrs["left"] < linear_kind.STEPS
    assert alone(cut, "sample") == "done"
    for file in sorted(whole.samples.glob("chunk-*.h5")):
        assert file.read_bytes() == (cut.samples / file.name).read_bytes()
    (main,) = samplings(whole.spec)
    check_samples(whole, recorded_settings(whole, main))

    assert alone(whole, "evaluate") == "done"
    found = read_json(whole.evaluation)
    assert found["headline"].keys() == {"fid (pixels)", "reconstruction error"}
    assert found["reconstruction"]["value"] < 1 and (whole.path / "reconstruction.npz").exists()
    assert found["curve"] == [{"step": 12, "sampling_steps": linear_kind.STEPS, "evaluations": linear_kind.STEPS, "differs": {},
                               "samples": 10, "intervals": {},
                               "metrics": {"fid": found["metrics"]["fid"]["value"],
                                           "reconstruction error": found["reconstruction"]["value"]}}]
    page = report(whole.path.parent).read_text()
    assert "reconstruction error" in page and "autoencoders" in page


def test_its_own_count_of_layers_is_torchs(make):
    spec = make()[0].spec
    with torch.device("meta"):
        networks = model_of(spec).trainable(spec, torch.device("meta")).networks
    for name, layers in kind_of(spec).layers(spec).items():
        network, x = networks[name].to("meta"), torch.empty(1, 1, 8, 8, device="meta")
        with FlopCounterMode(display=False) as counter:
            network(x)
        assert sum(layer.flops for layer in layers) == counter.get_total_flops()
        assert sum(layer.parameters for layer in layers) == sum(each.numel() for each in network.parameters())
    cost = run_cost(spec)
    assert cost.parameters == (64 * 3 + 3) + (3 * 64 + 64) + 65 and cost.forward_flops == 2 * 64 * 3 * 2


def test_a_run_waits_for_the_run_that_it_names(make):
    points = [{"name": "teacher"}, {"name": "pupil", "linear.teacher": "teacher"}]
    teacher, pupil = make(sweep={"list": points})
    assert (teacher.path.name, pupil.path.name) == ("teacher", "pupil")
    ((reference, other),) = waits_for(pupil, "train")
    assert (reference.key, other.path) == ("linear.teacher", teacher.path)
    assert waits_for(pupil, "sample") == waits_for(teacher, "train") == []


@pytest.mark.parametrize("points, message", [
    ([{"name": "a", "linear.teacher": "b"}, {"name": "b", "linear.teacher": "a"}], "runs wait for each other in a circle: "),
    ([{"name": "a", "linear.teacher": "a"}], "runs wait for each other in a circle: a"),
    ([{"name": "a"}, {"name": "b", "linear.teacher": "aa"}], "this study has no run aa; did you mean a?"),
    ([{"name": "a", "linear.teacher": "../b"}], "write the folder of a run, such as runs/STUDY/NAME"),
])
def test_runs_that_cannot_exist_are_refused(make, points, message):
    with pytest.raises(UserError, match=r"spec.yaml:\d+: linear.teacher: " + message):
        make(sweep={"list": points})


def test_a_stage_is_refused_before_the_named_run_has_done_its_part(make, ranks):
    _, pupil = make(sweep={"list": [{"name": "teacher"}, {"name": "pupil", "linear.teacher": "teacher"}]})
    assert ranks(pupil, "train", 1) == 2
    assert "linear.teacher" in logs(pupil) and "has not finished its stage train" in logs(pupil)
    assert np.array_equal(pupil.checkpoint_folders(), [])
