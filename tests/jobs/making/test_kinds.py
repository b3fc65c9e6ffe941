"""`iddpm make` of a kind that is not diffusion: the grid of samples that the kind can generate."""

import json
from pathlib import Path

import linear_kind
import pytest
import torch
from command_line import iddpm_here

from jobs.kinds.protocol import model_of
from jobs.run.checkpoints import save_checkpoint
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import KINDS, MODEL
from jobs.spec.reading.file import load

SPEC = {"name": "autoencoders", "kind": "linear", "data": {"path": "digits", "image_size": 8, "channels": 1},
        "train": {"iterations": 12, "batch_size": 12, "ema_rate": [0.9]},
        "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9}}


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDir:
    monkeypatch.setitem(KINDS, *linear_kind.ADD)
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(json.dumps(SPEC))
    run = freeze(load(Path("spec.yaml"), ()), tmp_path / "runs")[0]
    torch.manual_seed(0)
    weights = dict(model_of(run.spec).network(run.spec).state_dict())
    save_checkpoint(run, 12, {MODEL: {None: weights, "0.9": weights}}, {"of": 12})
    return run


def test_a_grid_and_a_film_of_samples(run):
    text = iddpm_here("make", run.path, "--out", "a", "--num", "3", "--film", "--seed", 4)
    assert "3 pictures" in text and "20 evaluations of the network for each; seed 4" in text
    assert sorted(file.name for file in Path("a").iterdir()) == ["film.gif", "film.png", "make.json", "overview.png",
                                                                 "picture-000.png", "picture-001.png", "picture-002.png"]


@pytest.mark.parametrize("options", [("--steps", "3"), ("--from", "a.png"), ("--interpolate", "1", "2"), ("--encode", "a.png"),
                                     ("--inpaint", "a.png", "--mask", "m.png")])
def test_what_this_kind_cannot_do(run, options):
    assert iddpm_here("make", run.path, "--out", "a", *options, status=2) == \
        f"iddpm: error: {options[0]}: {run.path} is of kind linear, of which `iddpm make` shows new pictures only\n"
