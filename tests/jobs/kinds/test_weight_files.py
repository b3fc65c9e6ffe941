"""Weights from and to other code: .pt files of the reference and .safetensors."""

import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.kinds.diffusion.sections import DiffusionSpecAsWritten, resolve
from jobs.kinds.weight_files import export_weights, import_weights, read_weights
from jobs.run.checkpoints import final_checkpoint, save_checkpoint
from jobs.spec.kinds import MODEL
from jobs.spec.reading.frozen import load_frozen

# The spec of the network of tests/golden/unet_uncond32, with a chain of two steps.
GOLDEN = ("data.image_size=32", "data.channels=3", "data.class_cond=false", "data.num_classes=null",
          "model.num_channels=32", "model.channel_mult=null", "model.attention_resolutions=[16, 8]",
          "model.num_heads=4", "model.dropout=0.1", "diffusion.diffusion_steps=2", "train.ema_rate=[0.9, 0.99]",
          "sample.num_samples=2")


@pytest.fixture
def published(golden):
    """The golden network's weights, as a published checkpoint holds them."""
    return golden.formula_weights(golden.facts("unet_uncond32")["state_dict"])


def noise(run, seed=0):
    torch.manual_seed(seed)
    return {key: torch.randn_like(value) for key, value in build_network(run.spec).state_dict().items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].dtype == torch.float32 and torch.equal(ours[key], theirs[key].float()), key


# Import ---------------------------------------------------------------------------------------------------------------

def test_a_published_checkpoint_becomes_a_run_that_samples(make_run, alone, golden, published, tmp_path):
    file = tmp_path / "published.pt"
    torch.save(published, file)
    run = make_run(*GOLDEN)
    import_weights(run, read_weights(file, run.spec), file)

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
    assert imported == {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    with pytest.raises(UserError, match="imported weights without the optimiser's state"):
        checkpoint.training_state()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_other_precisions_become_float32(make_run, tmp_path, suffix):
    run = make_run()
    weights = {key: value.to(dtype) for (key, value), dtype in
               zip(noise(run).items(), [torch.float16, torch.bfloat16, torch.float64, torch.float32] * 100, strict=False)}
    file = tmp_path / f"mixed{suffix}"
    (torch.save if suffix == ".pt" else save_file)(weights, file)
    taken = read_weights(file, run.spec)
    assert_same(taken, weights)
    import_weights(run, taken, file)
    assert_same(final_checkpoint(run).weights("0.9"), weights)


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
    import_weights(run, read_weights(tmp_path / "views.pt", run.spec), tmp_path / "views.pt")
    assert_same(final_checkpoint(run).weights(None), plain | {"out.0.bias": plain["out.0.weight"]})


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("way", ["torch", "legacy", "pickle"])
def test_code_in_a_checkpoint_is_not_run(make_run, tmp_path, way):
    run, file, mark = make_run(), tmp_path / "evil.pt", tmp_path / "was-here"
    value = noise(run) | {"extra": Evil(mark)}
    if way == "pickle":
        file.write_bytes(pickle.dumps(Evil(mark), protocol=2))
    else:
        torch.save(value, file, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(UserError, match=rf"^{file}: not a plain .* \(it holds Python objects such as posix.mkdir;"):
        read_weights(file, run.spec)
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(file, weights_only=False)
    assert mark.exists()  # there was something to fear


def test_a_dict_of_state_dicts_is_refused_in_plain_words(make_run, tmp_path):
    run, file = make_run(), tmp_path / "training.pt"
    torch.save({"state_dict": noise(run), "epoch": 3, "optimizer": {}}, file)
    with pytest.raises(UserError, match=f"^{file}: not a plain .*, but a dict with state_dict, epoch, optimizer$"):
        read_weights(file, run.spec)
    torch.save([torch.zeros(1)], file)
    with pytest.raises(UserError, match=f"^{file}: not a plain state dict of tensors, but list"):
        read_weights(file, run.spec)


def test_another_architecture_is_refused_with_its_first_keys(make_run, published, tmp_path):
    run, file = make_run(*GOLDEN), tmp_path / "other.pt"
    without = {key: value for key, value in published.items() if not key.startswith("time_embed.0")}
    torch.save(without | {"label_emb.weight": torch.zeros(1000, 128)}, file)
    with pytest.raises(UserError) as caught:
        read_weights(file, run.spec)
    assert str(caught.value) == (f"{file}: weights of another network: missing time_embed.0.weight (128, 32); missing "
                                 "time_embed.0.bias (128,); unknown label_emb.weight (1000, 128)")
    wider = make_run(*(item for item in GOLDEN if "num_channels" not in item), "model.num_channels=64", folder="wider")
    torch.save(published, file)
    with pytest.raises(UserError, match=r"time_embed.0.weight is \(128, 32\), the spec's .* \(256, 64\); .* more\)"):
        read_weights(file, wider.spec)
    assert not wider.checkpoints.exists()


def test_files_that_are_no_checkpoints_are_named(make_run, tmp_path):
    run = make_run()
    with pytest.raises(UserError, match="missing.pt: no such file"):
        read_weights(tmp_path / "missing.pt", run.spec)
    with pytest.raises(UserError, match=f"{tmp_path}: no such file"):
        read_weights(tmp_path, run.spec)
    for name in ("a.pt", "a.safetensors"):
        for content in (b"", b"junk", b"PK\x03\x04", b"\x80\x02", b"<html>an error page</html>\n" * 100):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{tmp_path / name}: not a plain state dict of tensors"):
                read_weights(tmp_path / name, run.spec)


@given(data=st.data(), suffix=st.sampled_from([".pt", ".safetensors"]))
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_refused_or_read_but_nothing_else(tmp_path_factory, data, suffix):
    file = tmp_path_factory.mktemp("damage") / f"a{suffix}"
    content = bytearray(_whole(suffix))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[:data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        weights = read_weights(file, _tiny_spec())
    except UserError as error:
        assert str(error).startswith(str(file))
    else:
        assert all(isinstance(value, torch.Tensor) for value in weights.values())


def _tiny_spec():
    return resolve(DiffusionSpecAsWritten.model_validate({
        "name": "tiny", "data": {"path": "digits", "image_size": 2, "channels": 1}, "train": {"iterations": 1},
        "model": {"num_channels": 1, "num_res_blocks": 1, "channel_mult": [1], "attention_resolutions": [],
                  "num_heads": 1}}))


@functools.cache
def _whole(suffix):
    weights, buffer = build_network(_tiny_spec()).state_dict(), io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue() if suffix == ".pt" else save(dict(weights))


def test_a_trained_run_takes_in_nothing(make_run, tmp_path):
    run = make_run()
    own = noise(run)
    save_checkpoint(run, 4, {MODEL: {None: own, "0.9": own}}, {})
    torch.save(noise(run, 1), tmp_path / "a.pt")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"^{run.path}: has a checkpoint of step 4; import into a new run"):
        import_weights(run, read_weights(tmp_path / "a.pt", run.spec), tmp_path / "a.pt")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


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
        assert_same(read_weights(file, run.spec), weights)


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
    assert (status, err) == (0, "") and out.startswith("runs/mine/run: imported")
    status, out, err = iddpm("export", "runs/mine/run", "back.pt")
    assert (status, out, err) == (0, "back.pt\n", "")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(published)
    assert_same(back, published)

    status, out, err = iddpm("import", "published.pt", "--spec", spec, "name=other", "model.num_channels=64")
    assert (status, out) == (2, "")
    assert err.startswith("iddpm: error: published.pt: weights of another network: time_embed.0.weight is (128, 32)")
    assert not (tmp_path / "runs" / "other").exists()
