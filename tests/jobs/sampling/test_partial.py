"""Chunks half-way: no step is computed twice, and what cannot be trusted starts over."""

import resource
import shutil

import numpy as np
import pytest
import torch
from broken_sampling import Killed
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_runs import same, trained
from small_chunks import damaged

import jobs.sampling.loop
from jobs.sampling.chunks import chunk_file, chunk_indices, sampling_settings
from jobs.sampling.gather import recorded_settings
from jobs.sampling.partial import Partial, partial_file, partial_identity, read_partial, save_partial
from jobs.spec.samplings import samplings
from jobs.storage.files import read_json

SETTINGS = {"seed": 0}


@pytest.fixture
def at_question(monkeypatch, alone):
    """at_question(n, action): from now on sampling meets `action` when it asks for the nth time whether to stop.

    It asks before each chunk, and after every tenth step. `action`: "stop" or "kill"; None: nothing happens any more.
    """
    ask = jobs.parallel.agreement.asked_to_stop
    def prepare(number, action):
        asked = 0
        def answer(group, interruption):
            nonlocal asked
            asked += 1
            if asked == number and action == "kill":
                raise Killed
            interruption.requested |= asked == number and action == "stop"
            return ask(group, interruption)
        monkeypatch.setattr(jobs.sampling.loop, "asked_to_stop", answer)
    return prepare


def partials(run):
    return sorted(path.name for path in run.samples.glob("*partial-*"))


UNCONDITIONAL = ("data.class_cond=false", "data.num_classes=null")


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [
    (), ("sample.sampler=ddim", "sample.ddim_eta=0.5"), ("sample.sampler=ddim", *UNCONDITIONAL),
    ("sample.timestep_respacing=25", "diffusion.loss=simple"),
])
def test_stopped_every_ten_steps_no_step_is_walked_twice_and_samples_are_the_same(make_run, alone, at_question, walked,
                                                                                  overrides):
    run, unbroken = (trained(make_run(*overrides, folder=name)) for name in ("stopped", "unbroken"))
    assert alone(unbroken, "sample") == "done"
    length, whole, ends = len(walked) // 3, list(walked), []
    walked.clear()
    while not ends or ends[-1] != "done":
        before = len(walked)
        at_question(2, "stop" if before < 3 * length else None)  # the first is before the chunk
        ends.append(alone(run, "sample"))
        assert partials(run) == ([] if len(walked) % length == 0 else [f"partial-0000{before // length}.h5"])
        progress = read_json(run.progress)
        assert (progress["done"], progress["total"]) == (len(walked) - before, 3 * length - before)
    assert len(ends) == 3 * -(-length // 10) + 1 and walked == whole  # ten steps each time, and one to gather
    assert same(run, unbroken) and not partials(run)


def test_a_kill_costs_what_was_done_since_the_last_save(make_run, alone, at_question, walked, monkeypatch):
    run, unbroken = trained(make_run("sample.num_samples=4")), trained(make_run("sample.num_samples=4", folder="unbroken"))
    assert alone(unbroken, "sample") == "done" and not partials(unbroken)
    walked.clear()
    at_question(4, "kill")
    with pytest.raises(Killed):
        alone(run, "sample")
    assert walked == list(range(39, 9, -1)) and not partials(run)  # minutes have not gone by: nothing saved

    walked.clear()
    monkeypatch.setattr(jobs.sampling.loop, "SAVE_EVERY_S", 0.0)
    at_question(4, "kill")
    with pytest.raises(Killed):
        alone(run, "sample")
    assert partials(run) == ["partial-00000.h5"]
    at_question(0, None)
    walked.clear()
    assert alone(run, "sample") == "done"
    assert walked == list(range(19, -1, -1))
    assert same(run, unbroken) and not partials(run)


def test_a_stop_after_the_last_step_leaves_a_whole_chunk(make_run, alone, at_question):
    run = trained(make_run())
    at_question(5, "stop")  # before the chunk, after steps 30, 20, 10 and 0
    assert alone(run, "sample") == "interrupted"
    assert chunk_file(run.samples, 0).exists() and not partials(run)


# What cannot be trusted ----------------------------------------------------------------------------------------------

def _identity(run, **changes):
    settings = recorded_settings(run, samplings(run.spec)[0])
    identity = partial_identity(settings, chunk_indices(run.spec, 1), "cpu")
    assert changes.keys() <= identity.keys()
    return identity | changes


def _rewrite(file, run, **changes):
    begun = read_partial(file, _identity(run))
    assert begun is not None
    save_partial(file, begun, _identity(run, **changes))


def _cut(file, run):
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file, run):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def _empty(file, run):
    file.write_bytes(b"")


def _not_hdf5(file, run):
    file.write_text("something else")


def _other_weights(file, run):
    _rewrite(file, run, weights_sha256="cd" * 32)


def _other_seed(file, run):
    _rewrite(file, run, sample=sampling_settings(run.spec, "")["sample"] | {"seed": 1})


def _other_device(file, run):
    _rewrite(file, run, device="NVIDIA Something")


def _other_torch(file, run):
    _rewrite(file, run, torch="1.0")


def _other_chunk(file, run):
    _rewrite(file, run, indices=[0, 4])


OTHER = "begun with other settings:"
HARMS = [(_cut, "cannot be read (damaged"), (_flip, "cannot be read (damaged"), (_empty, "cannot be read (damaged"),
         (_not_hdf5, "cannot be read (damaged"), (_other_weights, f"{OTHER} weights_sha256 cdcd"),
         (_other_seed, f"{OTHER} sample.seed 1 instead of 0"), (_other_device, f"{OTHER} device NVIDIA"),
         (_other_torch, f"{OTHER} torch 1.0"), (_other_chunk, f"{OTHER} indices [0, 4] instead of [4, 8]")]


@pytest.mark.slow
def test_what_is_damaged_or_foreign_is_passed_over_with_a_note(make_run, alone, at_question, walked, capsys):
    run, unbroken = (trained(make_run("diffusion.diffusion_steps=20", folder=name)) for name in ("run", "unbroken"))
    assert alone(unbroken, "sample") == "done"
    at_question(5, "stop")
    assert alone(run, "sample") == "interrupted"
    file = partial_file(run.samples, 1)
    assert partials(run) == [file.name]
    shutil.copytree(run.samples, run.path / "kept")
    at_question(0, None)
    for harm, words in HARMS:
        shutil.rmtree(run.samples)
        shutil.copytree(run.path / "kept", run.samples)
        harm(file, run)
        walked.clear()
        capsys.readouterr()
        assert alone(run, "sample") == "done"
        said = capsys.readouterr().out
        assert said.startswith(f"note: {file}: {words}") and said.endswith("; its chunk starts over\n"), (harm, said)
        assert said.count("\n") == 1 and walked == 2 * list(range(19, -1, -1)), harm
        assert same(run, unbroken) and not partials(run), harm


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bits_and_any_cut_are_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "partial-00000.h5"
    save_partial(path, Partial(7, {"x": np.zeros((2, 1, 4, 4), np.float32)}, np.zeros(16, np.uint8)), SETTINGS)
    path.write_bytes(damaged(data, path.read_bytes()))
    assert read_partial(path, SETTINGS) is None and not path.exists()


@given(seed=st.integers(0, 2 ** 63 - 1), draws=st.lists(st.integers(1, 40), max_size=3), left=st.integers(1, 5000))
@settings(max_examples=30, deadline=None)
def test_state_comes_back_to_the_bit(tmp_path_factory, seed, draws, left):
    path = tmp_path_factory.mktemp("state") / "partial-00000.h5"
    generator = torch.Generator().manual_seed(seed)
    for count in draws:  # short draws leave half of a Box-Muller pair behind
        torch.randn(count, 1, 3, 3, generator=generator)
    before, x = torch.randn(3, generator=generator), torch.randn(2, 1, 3, 3, generator=generator)
    save_partial(path, Partial(left, {"x": x.numpy(), "before": before.numpy()}, generator.get_state().numpy()), SETTINGS)
    back = read_partial(path, SETTINGS)
    other = torch.Generator()
    other.set_state(torch.from_numpy(back.generator))
    assert back.left == left and back.state.keys() == {"x", "before"}
    assert torch.equal(torch.from_numpy(back.state["x"]), x) and torch.equal(torch.from_numpy(back.state["before"]), before)
    assert torch.equal(torch.randn(17, generator=other), torch.randn(17, generator=generator))


def test_what_was_saved_of_a_finished_chunk_is_removed(make_run, alone, at_question):
    run = trained(make_run())
    at_question(7, "stop")
    assert alone(run, "sample") == "interrupted"
    (partial,) = partials(run)
    shutil.copy(run.samples / partial, partial_file(run.samples, 0))
    at_question(1, "stop")
    assert alone(run, "sample") == "interrupted" and partials(run) == [partial]


def test_a_full_disk_costs_the_saved_half_and_nothing_else(make_run, alone, at_question, capsys, monkeypatch):
    # 164 KB half-way, 120 KB when all is done.
    run = trained(make_run("sample.num_samples=640", "sample.batch_size=640", "diffusion.diffusion_steps=20"))
    monkeypatch.setattr(jobs.sampling.loop, "SAVE_EVERY_S", 0.0)
    complaint = f"note: half a chunk could not be saved: {partial_file(run.samples, 0)}: no space left"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        at_question(2, "stop")
        assert alone(run, "sample") == "interrupted" and not partials(run)
        assert capsys.readouterr().out.startswith(complaint)
        at_question(0, None)
        assert alone(run, "sample") == "done" and run.is_done("sample")
        assert capsys.readouterr().out.startswith(complaint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
