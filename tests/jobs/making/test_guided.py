"""`iddpm make` of runs whose samples are guided: pictures are guided alike, and evaluations are counted with the guide's."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import iddpm_here
from PIL import Image
from small_classifier import CLASSIFIER_SPEC

from diffusion.networks.unet import UNet
from jobs.kinds.protocol import model_of
from jobs.run.checkpoints import save_checkpoint
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import MODEL
from jobs.spec.reading.file import load

UNCONDITIONAL = ("data.class_cond=false", "data.num_classes=null")


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


@pytest.fixture
def classifier(tmp_path) -> RunDir:
    """A classifier of noisy digits with random weights, of the study `judge`."""
    (tmp_path / "judge.yaml").write_text(json.dumps(CLASSIFIER_SPEC | {"name": "judge"}))
    run = freeze(load(tmp_path / "judge.yaml", ()), tmp_path / "runs")[0]
    torch.manual_seed(1)
    network = model_of(run.spec).network(run.spec)
    weights = {key: value + 0.2 * torch.randn(value.shape) for key, value in network.state_dict().items()}
    save_checkpoint(run, run.spec.train.iterations, {MODEL: {None: weights, "0.9": weights}}, {"of": 0})
    return run


WORKS = [("new", [], 10), ("from", ["--from", "PICTURE", "--at", "0.5"], 10), ("encode", ["--encode", "PICTURE"], 40),
         ("interpolate", ["--interpolate", 1, "PICTURE"], 40), ("inpaint", ["--inpaint", "PICTURE", "--mask", "MASK"], 82)]
"""Option, arguments, and the evaluations of a guided picture with --steps 5 (of --steps 10 for --from, whose chain is halved)."""


def asked_of(arguments, picture, mask, work) -> list:
    files = {"PICTURE": str(picture()), "MASK": str(mask())}
    return ["--labels", "3", "--steps", 10 if work == "from" else 5, *(files.get(str(word), word) for word in arguments)]


@pytest.mark.parametrize("work, arguments, evaluations", WORKS)
def test_classifier_free_guidance_counts_and_matters_everywhere(drawing_run, picture, mask, work, arguments, evaluations):
    asked = asked_of(arguments, picture, mask, work)
    for scale, folder in ((3, "a"), (1, "b")):
        guidance = f"sample.guidance={{kind: classifier_free, scale: {scale}}}"
        run = drawing_run("train.label_dropout=0.1", guidance, folder=f"runs-{folder}")
        more = [] if work in ("encode", "interpolate") else ["--seed", 1]
        text = iddpm_here("make", run.path, "--out", folder, *asked, *more)
        if scale == 3:
            assert f" {evaluations} evaluations of the network" in text
    name = "reconstruction.png" if work == "encode" else "picture-000.png"
    assert (pixels(f"a/{name}") != pixels(f"b/{name}")).any()


@pytest.mark.parametrize("interval", ["null", "[0.5, 3]"])
@pytest.mark.parametrize("sampler", ["ancestral", "heun"])
@pytest.mark.parametrize("work, arguments, evaluations", WORKS)
def test_the_evaluations_that_are_told_are_those_that_were_made(drawing_run, picture, mask, monkeypatch, work, arguments,
                                                                evaluations, interval, sampler):
    guidance = f"sample.guidance={{kind: classifier_free, scale: 3, interval: {interval}}}"
    run, rows = drawing_run("train.label_dropout=0.1", guidance, f"sample.sampler={sampler}"), []

    def counted(self, x, *arguments, **options):
        rows.append(len(x))
        return forward(self, x, *arguments, **options)
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", counted)
    asked = asked_of(arguments, picture, mask, work)
    more = ["--num", 2] if work == "interpolate" else []
    text = iddpm_here("make", run.path, "--out", "a", *asked, *more)
    told = int(re.search(r" ([0-9]+) evaluations", text)[1])
    if work == "interpolate":  # one picture is encoded, with three rounds for each step of decoding, and then two are decoded
        assert told == sum(rows) - told // 4
    else:
        assert told == sum(rows)


def test_a_classifier_guides_a_network_without_classes_to_the_labels(drawing_run, classifier, picture):
    run = drawing_run(*UNCONDITIONAL, f"sample.guidance={{kind: classifier, run: {classifier.path}, scale: 100}}")
    for out, label in (("a", 1), ("b", 2)):
        text = iddpm_here("make", run.path, "--out", out, "--labels", label, "--seed", 1, "--steps", 5)
        assert " 10 evaluations of the network" in text
    assert (pixels("a/picture-000.png") != pixels("b/picture-000.png")).any()
    record = json.loads(Path("a/make.json").read_text())["made"]
    assert record["guide"]["classes"] == 10 and len(record["guide"]["weights_sha256"]) == 64
    iddpm_here("make", run.path, "--out", "c", "--num", 12, "--seed", 1, "--steps", 5)
    assert f"{run.path} has 10 classes, 0 to 9" in iddpm_here("make", run.path, "--out", "d", "--labels", 10, status=2)
    iddpm_here("make", run.path, "--out", "e", "--from", picture(), "--labels", 1, "--steps", 5)


def test_an_earlier_checkpoint_guides(drawing_run):
    run = drawing_run("sample.guidance={kind: autoguidance, at: 8, scale: 3}")
    torch.manual_seed(5)
    network = model_of(run.spec).network(run.spec)
    weaker = {key: value + 0.1 * torch.randn(value.shape) for key, value in network.state_dict().items()}
    save_checkpoint(run, 8, {MODEL: {None: weaker, "0.9": weaker}}, {"of": 8})
    assert " 10 evaluations of the network" in iddpm_here("make", run.path, "--out", "a", "--num", 1, "--seed", 1, "--steps", 5)
    plain = drawing_run(folder="plain")
    iddpm_here("make", plain.path, "--out", "b", "--num", 1, "--seed", 1, "--steps", 5)
    assert (pixels("a/picture-000.png") != pixels("b/picture-000.png")).any()


def test_a_guide_that_is_not_trained_is_named(drawing_run, classifier):
    shutil.rmtree(classifier.checkpoints)
    run = drawing_run(*UNCONDITIONAL, f"sample.guidance={{kind: classifier, run: {classifier.path}, scale: 1}}")
    text = iddpm_here("make", run.path, "--out", "a", "--num", 1, "--steps", 5, status=2)
    assert f"{classifier.path}: training is not finished" in text and not Path("a").exists()


def test_a_classifier_makes_no_pictures(classifier):
    assert iddpm_here("make", classifier.path, "--out", "a", status=2) == \
        f"iddpm: error: {classifier.path}: is of kind noisy_classifier, which makes no pictures\n"
