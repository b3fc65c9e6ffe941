"""Weights that other code wrote: what is taken, what is refused, and that nothing in a file is trusted."""

import contextlib
import functools
import io
import os
import pickle
import warnings
import zipfile

import pytest
import torch
from golden_weights import GOLDEN, assert_same, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.kinds.diffusion.sections import DiffusionSpecAsWritten, resolve
from jobs.kinds.foreign_weights import open_weights, read_weights
from jobs.kinds.weight_files import import_weights
from jobs.run.checkpoints import final_checkpoint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_other_precisions_become_float32(make_run, tmp_path, suffix):
    run = make_run()
    weights = {key: value.to(dtype) for (key, value), dtype in
               zip(noise(run).items(), [torch.float16, torch.bfloat16, torch.float64, torch.float32] * 100, strict=False)}
    file = tmp_path / f"mixed{suffix}"
    (torch.save if suffix == ".pt" else save_file)(weights, file)
    taken = open_weights(file, run.spec)
    assert_same(taken.weights, weights)
    import_weights(run, taken, file)
    assert_same(final_checkpoint(run).weights("0.9"), weights)


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


def test_what_is_no_state_dict_is_refused_in_plain_words(make_run, tmp_path):
    run, file, own = make_run(), tmp_path / "training.pt", noise(make_run())
    cases = [({"model": own, "ema": own, "optimizer": {}}, r"holds several state dicts \(model, ema\); save the one to import"),
             ([torch.zeros(1)], "not a plain state dict of tensors, but list"), (torch.zeros(1), "but Tensor"),
             ({}, "an empty dict"), ({3: torch.zeros(1)}, "whose names are no text"),
             (own | {"epoch": 3}, "not a plain state dict of tensors: epoch is int"), ({"state": {"a": own}}, "state is dict"),
             (own | {"\x1b[31m" + "x" * 999: 1}, r"\\x1b\[31mx{20,300}\.\.\. is int")]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(UserError, match=message) as refusal:
            read_weights(file, run.spec)
        assert str(refusal.value).startswith(str(file)) and len(str(refusal.value)) < 700 and str(refusal.value).isprintable()


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


# Names, forms and values ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("around", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}",
                                    "module.module.{}", "model.{}", "module.ema_model.{}"])
def test_prefixes_are_taken_off_with_a_note(make_run, tmp_path, around):
    run, file = make_run(), tmp_path / "a.pt"
    own = noise(run)
    torch.save({around.format(key): value for key, value in own.items()}, file)
    found = open_weights(file, run.spec)
    assert_same(found.weights, own)
    assert found.notes and all(note.startswith("took ") and note.endswith(" off the names") for note in found.notes)
    said = " ".join(found.notes)
    assert all(f"{part}." in said for part in around.removesuffix(".{}").split("."))


def test_prefixes_of_some_names_and_in_their_middle_are_taken_off(make_run, tmp_path):
    run, file = make_run(), tmp_path / "a.pt"
    own = noise(run)
    compiled = {key.replace("input_blocks.", "input_blocks._orig_mod.").replace("out.2.", "module.out.2."): value
                for key, value in own.items()}
    assert compiled.keys() != own.keys()
    torch.save(compiled, file)
    assert_same(read_weights(file, run.spec), own)
    torch.save(own | {f"module.{key}": value for key, value in own.items()}, file)
    with pytest.raises(UserError, match="a.pt: has time_embed.0.weight twice, with and without a prefix such as module."):
        read_weights(file, run.spec)


@pytest.mark.parametrize("content, step", [(lambda own: {"state_dict": own, "epoch": 3, "optimizer": {}}, None),
                                           (lambda own: {"model": own, "global_step": 77, "args": ["--lr", "1"]}, 77),
                                           (lambda own: {"ema": {f"module.{key}": value for key, value in own.items()}}, None)])
def test_the_one_state_dict_inside_is_taken_with_a_note(make_run, tmp_path, content, step):
    run, file = make_run(), tmp_path / "a.pt"
    own = noise(run)
    torch.save(content(own), file)
    found = open_weights(file, run.spec)
    assert_same(found.weights, own)
    assert found.step == step and found.notes[0].startswith("took the state dict under ")


def _quantised(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.parametrize("change, words", [
    (lambda value: value.to_sparse(), "of layout torch.sparse_coo"), (lambda value: value.to("meta"), "a meta tensor"),
    (lambda value: value.to(torch.complex64), "of type torch.complex64"), (lambda value: value.int(), "of type torch.int32"),
    (lambda value: value > 0, "of type torch.bool"), (_quantised, "quantised")])
@pytest.mark.parametrize("around", ["{}", "module.{}"])
def test_tensors_that_are_no_weights_are_refused_by_name(make_run, tmp_path, change, words, around):
    run, file = make_run(), tmp_path / "a.pt"
    own = noise(run)
    own["out.2.weight"] = change(own["out.2.weight"])
    torch.save({around.format(key): value for key, value in own.items()}, file)
    with pytest.raises(UserError, match=f"^{file}: out.2.weight is {words}.*; weights are dense tensors of real numbers$"):
        read_weights(file, run.spec)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("value, dtype", [(float("nan"), torch.float32), (float("inf"), torch.float16),
                                          (-float("inf"), torch.bfloat16), (1e300, torch.float64)])
def test_values_that_are_not_finite_are_refused_by_name(make_run, tmp_path, suffix, value, dtype):
    run, file = make_run(), tmp_path / f"a{suffix}"
    own = noise(run)
    own["time_embed.2.bias"] = own["time_embed.2.bias"].to(dtype)
    own["time_embed.2.bias"][3] = value
    (torch.save if suffix == ".pt" else save_file)(own, file)
    with pytest.raises(UserError, match=rf"^{file}: time_embed.2.bias: 1 of 32 values are not finite \("):
        read_weights(file, run.spec)


def test_files_that_would_fill_the_memory_are_refused(make_run, tmp_path):
    run, file = make_run(), tmp_path / "a.pt"
    own = noise(run)
    torch.save(own, file)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, bytes(2 ** 27) if name.endswith("data/0") else whole.read(name))
    assert bomb.stat().st_size < 2 ** 20
    with pytest.raises(UserError, match="bomb.pt: holds .* but the weights of the spec's network take "):
        read_weights(bomb, run.spec)
    name = "input_blocks.0.0.weight"
    torch.save(own | {name: torch.zeros(1).expand(10 ** 6, 10 ** 6)}, file)  # four bytes, or four terabytes
    with pytest.raises(UserError, match=rf"{name} is \(1000000, 1000000\), the spec's network has"):
        read_weights(file, run.spec)


# Steps ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, step, rate", [
    ("model500000.pt", 500000, None), ("model000012.pt", 12, None), ("ema_0.9999_500000.pt", 500000, "0.9999"),
    ("ema_0.9999_000012.pt", 12, "0.9999"), ("cifar10_uncond_50M_500K.pt", 500000, None),
    ("lsun_uncond_100M_2400K_bs64.pt", 2400000, None), ("imagenet64_cond_270M_250K.pt", 250000, None),
    ("epoch=3-step=1000.pt", 1000, None), ("step-00000012/model.pt", 12, None), ("step-00000012/ema-0.9.pt", 12, "0.9"),
    ("best.pt", None, None), ("run7.pt", None, None), ("64x64_diffusion.pt", None, None), ("ema.pt", None, None)])
def test_file_names_tell_the_step_and_the_average(make_run, tmp_path, name, step, rate):
    run, file = make_run(), tmp_path / name
    file.parent.mkdir(exist_ok=True)
    torch.save(noise(run), file)
    found = open_weights(file, run.spec)
    assert (found.step, found.ema_rate) == (step, rate)
