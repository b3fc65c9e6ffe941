"""`iddpm make` as a user types it."""

import json
import os
import signal
import subprocess

import pytest
import torch
from command_line import IDDPM, iddpm
from PIL import Image

from jobs.kinds.diffusion.build import build_network
from jobs.run.checkpoints import save_checkpoint
from jobs.spec.kinds import MODEL

pytestmark = pytest.mark.slow
FILES = ["film.gif", "film.png", "make.json", "overview.png"]


@pytest.fixture
def run(make_run):
    run = make_run()
    torch.manual_seed(0)
    weights = dict(build_network(run.spec).state_dict())
    save_checkpoint(run, 12, {MODEL: {None: weights, "0.9": weights}}, {"of": 12})
    return run


def test_the_installed_command_makes_equal_files_of_an_equal_seed(run, tmp_path):
    asked = ("make", "runs/small/run", "--num", 2, "--seed", 3, "--film")
    texts = [iddpm(*asked, "--out", out, cwd=tmp_path) for out in ("a", "b/c")]
    assert texts[1].splitlines()[-1] == "b/c/overview.png" and "2 pictures in" in texts[1]
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / out).iterdir()} for out in ("a", "b/c"))
    assert first == second and sorted(first) == [*FILES, "picture-000.png", "picture-001.png"]
    assert json.loads(first["make.json"])["made"]["seed"] == 3
    with Image.open(tmp_path / "a/picture-000.png") as image:
        assert image.size == (8, 8) and image.mode == "L"


def test_help_names_every_option_in_eighty_columns(tmp_path):
    text = iddpm("make", "--help", cwd=tmp_path, env=os.environ | {"COLUMNS": "80"})
    for option in ("--labels", "--num", "--interpolate", "--from", "--at", "--inpaint", "--mask", "--encode", "--film", "--seed"):
        assert f"\n  {option} " in text
    assert "White is" in text and max(map(len, text.splitlines())) <= 80


def test_a_stop_by_hand_leaves_nothing_behind(run, tmp_path):
    process = subprocess.Popen([IDDPM, "make", "runs/small/run", "--out", "a", "--num", "10000"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("make "), "the first line of progress"
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and text.endswith("stopped; no picture was written\n") and "Traceback" not in text, text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "small.yaml"]
