"""Weights from and to other code: .pt files of the reference and .safetensors."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from golden_weights import GOLDEN, assert_same, noise
from safetensors import safe_open
from safetensors.torch import load_file

from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.kinds.foreign_weights import open_weights, read_weights
from jobs.kinds.weight_files import check_step, export_weights, import_weights
from jobs.run.checkpoints import final_checkpoint, save_checkpoint
from jobs.spec.kinds import MODEL
from jobs.spec.reading.frozen import load_frozen

# Import ---------------------------------------------------------------------------------------------------------------

def test_a_published_checkpoint_becomes_a_run_that_samples(make_run, alone, golden, published, tmp_path):
    file = tmp_path / "published.pt"
    torch.save(published, file)
    run = make_run(*GOLDEN)
    import_weights(run, open_weights(file, run.spec), file)

    checkpoint = final_checkpoint(run)
    assert checkpoint.step == 12
    for rate in (None, "0.9", "0.99"):
        assert_same(checkpoint.weights(rate), published)
    arrays = golden.tensors("unet_uncond32")
    network = build_network(run.spec)
    network.load_state_dict(checkpoint.weights("0.9"))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(arrays["x"], arrays["t"]), arrays["out"], rtol=1e-5, atol=1e-5)

    assert alone(run, "sample") == "done"
    with h5py.File(run.samples_h5, "r") as samples:
        assert samples["images"].shape == (2, 32, 32, 3)
    imported = json.loads((run.path / "provenance.json").read_text())["imported"]
    assert imported == {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "step": None,
                        "step_from": "nothing", "ema_rate": None}
    with pytest.raises(UserError, match="imported weights without the optimiser's state"):
        checkpoint.training_state()


def test_parameters_and_views_of_one_buffer_are_taken_as_well(make_run, tmp_path):
    # As the reference's fp16 trainer left them: every tensor a part of one flat one. Or the same one twice.
    run = make_run()
    plain = noise(run)
    flat = torch.cat([value.flatten() for value in plain.values()])
    views, start = {}, 0
    for key, value in plain.items():
        views[key] = torch.nn.Parameter(flat[start:start + value.numel()].view(value.shape))
        start += value.numel()
    views["out.0.bias"] = views["out.0.weight"]
    torch.save(views, tmp_path / "views.pt")
    import_weights(run, open_weights(tmp_path / "views.pt", run.spec), tmp_path / "views.pt")
    assert_same(final_checkpoint(run).weights(None), plain | {"out.0.bias": plain["out.0.weight"]})


def test_a_trained_run_takes_in_nothing(make_run, tmp_path):
    run = make_run()
    own = noise(run)
    save_checkpoint(run, 4, {MODEL: {None: own, "0.9": own}}, {})
    torch.save(noise(run, 1), tmp_path / "a.pt")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"^{run.path}: has a checkpoint of step 4; import into a new run"):
        import_weights(run, open_weights(tmp_path / "a.pt", run.spec), tmp_path / "a.pt")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_another_step_than_the_last_is_refused_and_an_unknown_one_is_said(make_run, tmp_path):
    run, file = make_run(), tmp_path / "model000500.pt"
    torch.save(noise(run), file)
    found = open_weights(file, run.spec)
    with pytest.raises(UserError) as refusal:
        check_step(found, file, run.spec)
    assert str(refusal.value) == (f"{file}: weights of training step 500 (by the name model000500.pt), but train.iterations is "
                                  "12; give train.iterations=500, or --step 12 if the name model000500.pt is wrong")
    assert check_step(found, file, run.spec, step=12) == []
    with pytest.raises(UserError, match=r"step 13 \(by --step\), but train.iterations is 12; give train.iterations=13$"):
        check_step(found, file, run.spec, step=13)
    (note,) = check_step(replace(found, step=None), file, run.spec)
    assert "does not say its training step" in note and "recorded as unknown" in note
    (note,) = check_step(replace(found, step=12, ema_rate="0.9999"), file, run.spec)
    assert "is an average of rate 0.9999, which is not among train.ema_rate" in note
    assert check_step(replace(found, step=12, ema_rate="0.9"), file, run.spec) == []
    import_weights(run, found, file, step=12)
    imported = json.loads((run.path / "provenance.json").read_text())["imported"]
    assert (imported["step"], imported["step_from"]) == (12, "--step")


# Export ---------------------------------------------------------------------------------------------------------------

@pytest.fixture
def exporting(make_run):
    """A trained run with its average and its raw weights."""
    run = make_run()
    averaged, raw = noise(run, 0), noise(run, 1)
    save_checkpoint(run, 12, {MODEL: {None: raw, "0.9": averaged}}, {})
    return run, averaged, raw


def test_safetensors_carry_their_spec(exporting, tmp_path):
    run, averaged, raw = exporting
    for rate, weights in ((0.9, averaged), (None, raw)):
        file = tmp_path / "new" / "folder" / f"{rate}.safetensors"
        export_weights(run, file, rate)
        assert_same(load_file(file), weights)
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
        (tmp_path / "spec.yaml").write_text(facts["spec"])
        assert load_frozen(tmp_path / "spec.yaml") == run.spec
        assert (facts["step"], facts["ema_rate"]) == ("12", str(rate or ""))
        found = open_weights(file, run.spec)
        assert_same(found.weights, weights)
        assert (found.step, found.step_from, found.ema_rate) == (12, "its metadata", str(rate) if rate else None)


def test_a_spec_that_contradicts_the_one_inside_is_refused(exporting, make_run, tmp_path):
    export_weights(exporting[0], tmp_path / "a.safetensors", 0.9)
    other = make_run("model.num_heads=1", "diffusion.noise_schedule=linear", "train.lr=3e-3", folder="other")
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / "a.safetensors", other.spec)
    assert "model.num_heads: 2 -> 1" in str(error.value) and "noise_schedule: cosine -> linear" in str(error.value)
    assert "train.lr" not in str(error.value)


def test_pt_files_are_the_networks_plain_state_dict(exporting, tmp_path):
    run, averaged, raw = exporting
    for rate, weights in ((0.9, averaged), (None, raw)):
        file = tmp_path / f"{rate}.pt"
        export_weights(run, file, rate)
        loaded = torch.load(file, weights_only=True)
        assert list(loaded) == list(build_network(run.spec).state_dict())
        build_network(run.spec).load_state_dict(loaded)
        assert_same(loaded, weights)
        assert_same(read_weights(file, run.spec), weights)


def test_weights_that_are_not_finite_are_not_exported(make_run, tmp_path):
    run = make_run()
    bad = noise(run)
    bad["out.2.bias"][1] = float("nan")
    save_checkpoint(run, 12, {MODEL: {None: noise(run), "0.9": bad}}, {})
    with pytest.raises(UserError, match="ema-0.9.safetensors: out.2.bias: 1 of 2 values are not finite"):
        export_weights(run, tmp_path / "a.pt", 0.9)
    export_weights(run, tmp_path / "b.pt", None)
    assert not (tmp_path / "a.pt").exists() and (tmp_path / "b.pt").exists()


def test_what_cannot_be_exported_is_refused_and_leaves_what_is_there(exporting, make_run, tmp_path):
    run, averaged, _ = exporting
    file = tmp_path / "a.pt"
    export_weights(run, file, 0.9)
    before = file.read_bytes()
    with pytest.raises(UserError, match="has no ema-0.5.safetensors; it has ema-0.9.safetensors, model.safetensors"):
        export_weights(run, file, 0.5)
    with pytest.raises(UserError, match="a.ckpt: the name must end in .safetensors or .pt"):
        export_weights(run, tmp_path / "a.ckpt", 0.9)
    with pytest.raises(UserError, match="training is not finished"):
        export_weights(make_run(folder="untrained"), file, 0.9)
    assert file.read_bytes() == before and not list(tmp_path.glob(".a*"))


# The installed command ------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_from_the_command_line_there_and_back(make_run, published, tmp_path):
    spec = make_run(*GOLDEN, folder="elsewhere").spec_file
    torch.save(published, tmp_path / "published.pt")

    def iddpm(*arguments):
        command = [Path(sys.executable).parent / "iddpm", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    status, out, err = iddpm("import", "published.pt", "--spec", spec, "name=mine")
    assert (status, err) == (0, "") and out.splitlines()[1].startswith("runs/mine/run: imported")
    assert out.startswith("note: published.pt does not say its training step; it is taken for train.iterations, 12, and recorded")
    status, out, err = iddpm("import", "published.pt", "--spec", spec, "name=stepped", "--step", "500")
    assert (status, out) == (2, "") and "give train.iterations=500" in err and not (tmp_path / "runs" / "stepped").exists()
    status, out, err = iddpm("import", "published.pt", "--spec", spec, "name=early", "sample.at=[3, last]")
    assert (status, out) == (2, "") and "sample.at names step 3" in err and not (tmp_path / "runs" / "early").exists()
    status, out, err = iddpm("export", "runs/mine/run", "back.pt")
    assert (status, out, err) == (0, "back.pt\n", "")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(published)
    assert_same(back, published)

    status, out, err = iddpm("import", "published.pt", "--spec", spec, "name=other", "model.num_channels=64")
    assert (status, out) == (2, "")
    assert err.startswith("iddpm: error: published.pt: weights of another network: time_embed.0.weight is (128, 32)")
    assert not (tmp_path / "runs" / "other").exists()
