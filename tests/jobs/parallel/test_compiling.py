"""torch.compile as a spec asks for it. Most of this file's time is the C++ compiler's."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from noisy_runs import samples, trained
from safetensors.torch import load_file
from small_runs import logs

from diffusion.networks.unet import UNet
from jobs.data.dataset import open_data
from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.parallel import compiling
from jobs.parallel.compiling import CACHE, check_compiler, compile_options
from jobs.parallel.group import process_group
from jobs.run.checkpoints import final_checkpoint, save_checkpoint
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state, settle_buckets
from jobs.training.step import train_step

# Importing the compiler warns of what torch itself will change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# The fewest layers that a network can have.
TINY = ("data.class_cond=false", "data.num_classes=null", "model.num_channels=4", "model.channel_mult=[1]",
        "model.attention_resolutions=[]", "model.num_heads=1", "diffusion.diffusion_steps=6", "train.iterations=6",
        "train.save_interval=3", "train.log_interval=6", "evaluate.nll_examples=0")


def test_two_compiled_ranks_with_checkpointing_learn_what_an_eager_one_does_and_go_on_exactly(make_run, ranks, alone):
    # With dropout, whose masks depend neither on the rank nor on the compiler.
    common = (*TINY, "model.dropout=0.5")
    eager, run = make_run(*common, folder="eager"), make_run(
        *common, "train.compile=default", "train.gradient_checkpointing=true", "train.microbatch=3", folder="compiled")
    assert ranks(run, "train", 2) == 0 and alone(eager, "train") == "done"
    ours, theirs = (load_file(either.checkpoints / "step-00000006" / "model.safetensors") for either in (run, eager))
    assert list(ours) == list(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)  # Adam moved each weight by some 6e-3

    shutil.rmtree(run.checkpoints / "step-00000006")
    assert ranks(run, "train", 2) == 0
    torch.testing.assert_close(load_file(run.checkpoints / "step-00000006" / "model.safetensors"), ours, rtol=0, atol=0)


def test_compiled_sampling_gives_the_same_bytes_for_any_number_of_processes(make_run, ranks, alone):
    made, counters = {}, torch._dynamo.utils.counters
    for name, compile, sample in (("one", "default", alone), ("two", "default", lambda *stage: ranks(*stage, 2)),
                                  ("eager", "false", alone)):
        run = make_run(*TINY, "sample.num_samples=9", f"sample.compile={compile}", folder=name)
        torch.manual_seed(0)
        weights = build_network(run.spec).state_dict()
        weights = {key: 0.2 * torch.randn_like(value) for key, value in weights.items()}
        save_checkpoint(run, 6, {MODEL: {None: weights, "0.9": weights}}, None)
        counters.clear()
        assert sample(run, "sample") in (0, "done")
        if name != "two":  # a trial, and one graph for each of the two sizes of chunks
            assert counters["stats"]["unique_graphs"] == (3 if name == "one" else 0)
        with h5py.File(run.samples_h5) as file:
            made[name] = file["images"][:].astype(int)
    assert np.array_equal(made["one"], made["two"])  # the last chunk has another shape, and may come first for a rank
    assert np.abs(made["one"] - made["eager"]).max() <= 1 and len(np.unique(made["one"], axis=0)) == 9


def test_compiled_blocks_sample_as_eager_ones_do_and_the_next_process_finds_their_code(make_run, ranks, alone, monkeypatch):
    monkeypatch.delenv(CACHE, raising=False)  # the compiler sets it where it was used before in this process
    run, eager = (trained(make_run(*TINY, "sample.num_samples=4", f"sample.compile={mode}", folder=mode))
                  for mode in ("blocks", "false"))
    cache, made, states = run.path.parent.parent / ".cache" / "compiled", [], []
    for _ in range(2):
        shutil.rmtree(run.samples, ignore_errors=True)
        assert ranks(run, "sample") == 0, logs(run)
        made.append(samples(run)["images"].astype(int))
        states.append({file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in cache.rglob("*") if file.is_file()})
    # Residual blocks with and without a skip connection, and attention: each was compiled once.
    assert len(list(cache.glob("fxgraph/*/*"))) == 3 and states[0] == states[1]
    assert alone(eager, "sample") == "done"
    assert np.array_equal(*made) and np.abs(made[0] - samples(eager)["images"]).max() <= 1
    assert len(np.unique(made[0], axis=0)) == 4


@pytest.mark.slow
def test_the_gradients_of_compiled_blocks_are_those_of_eager_ones(make_run, tmp_path, monkeypatch):
    # This backend runs the graphs as they are: C++ would take a minute.
    monkeypatch.setattr(compiling, "compile_options", lambda *_: {"backend": "aot_eager", "fullgraph": True, "dynamic": False})
    monkeypatch.setattr("jobs.training.state.check_compiler", lambda *_: None)
    gradients, counters = {}, torch._dynamo.utils.counters
    with process_group(tmp_path / "meeting", threads=1) as group:
        for mode in ("blocks", "false"):
            run = trained(make_run(*TINY, "model.dropout=0.5", f"train.compile={mode}", folder=mode))
            state = new_state(run.spec, group)
            part = state.parts[MODEL]
            part.network.load_state_dict(final_checkpoint(run).weights(None))
            torch.compiler.reset()
            counters.clear()
            settle_buckets(state)
            [examples] = Batches(run.spec, open_data("digits", 8, 1, None), group)(0, 1)
            train_step(state, examples, 0)
            # Residual blocks with and without a skip connection, and attention.
            assert counters["stats"]["unique_graphs"] == (3 if mode == "blocks" else 0) and type(part.ddp.module) is UNet
            gradients[mode] = [parameter.grad.clone() for parameter in part.parameters]
    torch.testing.assert_close(gradients["blocks"], gradients["false"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_is_compiled_is_trained_and_the_network_itself_stays_as_it_is(make_run, tmp_path):
    with process_group(tmp_path / "meeting", threads=1) as group:
        kinds = {"default": torch._dynamo.OptimizedModule, "max-autotune": torch._dynamo.OptimizedModule, "false": UNet}
        for mode, kind in kinds.items():
            part = new_state(make_run(*TINY, f"train.compile={mode}", folder=mode).spec, group).parts[MODEL]
            assert type(part.ddp.module) is kind and type(part.network) is UNet
            theirs = {parameter.data_ptr() for parameter in part.ddp.parameters()}
            assert theirs == {parameter.data_ptr() for parameter in part.network.parameters()}


def test_what_is_recorded_as_a_whole_records_no_graph_of_its_own():
    modes = torch._inductor.list_mode_options
    assert "triton.cudagraphs" in modes(compile_options("max-autotune")["mode"])
    assert "triton.cudagraphs" not in modes(compile_options("max-autotune", recorded=True)["mode"])
    assert compile_options("default", recorded=True) == compile_options("default")


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_a_missing_compiler_is_bad_input_that_names_the_setting(make_run, ranks, monkeypatch, stage):
    run = make_run(*TINY, f"{stage}.compile=default")
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert ranks(run, stage) == 2
    said = (run.path / f"{stage}-0.log").read_text()
    assert f"error: {stage}.compile: torch.compile does not work on this machine" in said and "Traceback" not in said
    assert "/nowhere/g++" in said and said.endswith(f"such as g++. Without one, set {stage}.compile: false\n")


@pytest.mark.slow
def test_a_compiler_that_fails_is_named_even_if_it_worked_before(monkeypatch):
    device = torch.device("cpu")
    check_compiler("train.compile", device)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    torch._dynamo.reset()
    with pytest.raises(UserError, match="train.compile: .*/nowhere/g"):
        check_compiler("train.compile", device)
