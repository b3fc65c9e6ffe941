import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch

from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.run.checkpoints import save_checkpoint
from jobs.sampling.chunks import chunk_file
from jobs.sampling.gather import check_samples


def weights(run, seed=0):
    """The run's network, all its layers filled with noise: what it makes shows every path through it."""
    torch.manual_seed(seed)
    network = build_network(run.spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.state_dict()


def trained(run, averaged=0, raw=1):
    """`run` as if trained: its average has the weights of one seed, the raw weights those of another."""
    save_checkpoint(run, run.spec.train.iterations, weights(run, raw), {0.9: weights(run, averaged)}, None)
    return run


def samples(run):
    """What samples.h5 holds, by name."""
    with h5py.File(run.samples_h5, "r") as file:
        return {name: file[name][:] for name in file}


def identical(ours, theirs, count=None):
    """Whether the first `count` samples (None: all) are the same to the byte, with labels and indices."""
    assert ours.keys() == theirs.keys()
    return all(np.array_equal(ours[name][:count], theirs[name][:count]) for name in ours)


def same(run, other):
    return identical(samples(run), samples(other))


def states(run):
    """What tells whether a chunk's file was written again."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in run.samples.glob("chunk-*.h5")}


def wait_for(condition, processes=(), seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert not processes or any(process.poll() is None for process in processes), "all processes ended before"
        time.sleep(0.01)


# A sample is a function of weights, settings, seed and index ----------------------------------------------------------

def test_one_two_and_three_processes_make_the_same_samples(make_run, ranks, alone):
    one, two, three = (trained(make_run(folder=name)) for name in ("one", "two", "three"))
    started = ranks(two, "sample", 2, wait=False) + ranks(three, "sample", 3, wait=False)
    assert alone(one, "sample") == "done"
    assert [process.wait() for process in started] == [0] * 5
    assert same(one, two) and same(one, three)
    made = samples(one)
    assert made["images"].shape == (10, 8, 8, 1) and len(np.unique(made["images"], axis=0)) == 10
    assert made["labels"].tolist() == made["sample_index"].tolist() == list(range(10))
    for run in (one, two, three):
        progress = json.loads(run.progress.read_text())
        assert [progress[key] for key in ("stage", "state", "done", "total")] == ["sample", "done", 120, 120]


def test_half_precision_is_near_to_single_and_its_samples_are_as_repeatable(make_run, ranks, alone):
    runs = {precision: trained(make_run(f"sample.precision={precision}", folder=precision))
            for precision in ("fp32", "bf16", "fp16")}
    made = {}
    for precision, run in runs.items():
        assert alone(run, "sample") == "done"
        made[precision] = samples(run)["images"].astype(int)
    two = trained(make_run("sample.precision=bf16", folder="two"))
    assert ranks(two, "sample", 2) == 0 and same(two, runs["bf16"])
    # With these weights 4 grey levels are much: trained ones are nearer.
    assert 0 < np.abs(made["fp16"] - made["fp32"]).mean() < np.abs(made["bf16"] - made["fp32"]).mean() < 4


def test_samples_of_another_precision_are_foreign(make_run, alone):
    run = trained(make_run())
    assert alone(run, "sample") == "done"
    with h5py.File(run.samples_h5) as file:
        settings = json.loads(file.attrs["settings"])
    settings["sample"]["precision"] = "bf16"
    with pytest.raises(UserError, match="sample.precision fp32 instead of bf16"):
        check_samples(run, settings)


@pytest.mark.parametrize("overrides", [
    (), ("sample.sampler=ddim", "sample.ddim_eta=0.5"), ("sample.timestep_respacing=7",),
    ("sample.sampler=ddim", "sample.timestep_respacing=ddim10", "data.class_cond=false", "data.num_classes=null"),
])
def test_more_samples_leave_those_before_as_they_are(make_run, alone, overrides):
    fewer, more = (trained(make_run(*overrides, f"sample.num_samples={count}", folder=str(count)))
                   for count in (10, 13))
    for run in (fewer, more):
        assert alone(run, "sample") == "done"
    assert identical(samples(fewer), samples(more), count=8)
    # The last chunk is short: the same noise, in another shape of arithmetic.
    ours, theirs = (samples(run)["images"].astype(int) for run in (fewer, more))
    assert np.abs(ours[8:] - theirs[8:10]).max() <= 1
    assert len(np.unique(theirs, axis=0)) == 13


def test_settings_show_in_the_samples(make_run, alone):
    changes = [(), ("sample.seed=1",), ("sample.sampler=ddim",), ("sample.sampler=ddim", "sample.ddim_eta=0.5"),
               ("sample.timestep_respacing=7",), ("sample.clip_denoised=false",), ("sample.batch_size=2",),
               ("diffusion.rescale_timesteps=false",), ("diffusion.noise_schedule=linear",),
               ("sample.precision=bf16",), ("sample.precision=fp16",)]
    made = []
    for number, change in enumerate(changes):
        run = trained(make_run("diffusion.diffusion_steps=24", "sample.num_samples=5", *change, folder=str(number)))
        assert alone(run, "sample") == "done"
        made.append(samples(run)["images"])
    for number, images in enumerate(made):
        assert not any(np.array_equal(images, before) for before in made[:number]), changes[number]


def test_neither_dropout_nor_the_global_random_state_has_a_say(make_run, alone):
    plain, dropout = trained(make_run(folder="a")), trained(make_run("model.dropout=0.5", folder="b"))
    assert alone(plain, "sample") == "done"
    torch.manual_seed(123)
    torch.randn(5)
    assert alone(dropout, "sample") == "done"
    assert np.array_equal(samples(plain)["images"], samples(dropout)["images"])


def test_labels_go_round_and_reach_the_network(make_run, alone):
    run = trained(make_run("sample.num_samples=5", "data.num_classes=3"))
    assert alone(run, "sample") == "done"
    assert samples(run)["labels"].tolist() == [0, 1, 2, 0, 1]
    other = make_run("sample.num_samples=5", "data.num_classes=3", folder="other")
    changed = weights(other)
    changed["label_emb.weight"][1] += 1
    save_checkpoint(other, 12, changed, {0.9: changed}, None)
    assert alone(other, "sample") == "done"
    equal = (samples(run)["images"] == samples(other)["images"]).all(axis=(1, 2, 3))
    assert equal.tolist() == [True, False, True, True, False]


# Interruptions --------------------------------------------------------------------------------------------------------

LONG = ("sample.num_samples=30", "diffusion.diffusion_steps=100")  # eight chunks of half a second or so
UNBROKEN = {}


def unbroken(make_run, alone):
    """What LONG comes to without interruptions; computed once."""
    if not UNBROKEN:
        run = trained(make_run(*LONG, folder="unbroken"))
        assert alone(run, "sample") == "done"
        UNBROKEN.update(samples(run))
    return UNBROKEN


def test_killed_processes_are_made_up_for(make_run, ranks, alone):
    run = trained(make_run(*LONG))
    both = ranks(run, "sample", 2, wait=False)
    wait_for(lambda: len(states(run)) >= 1, both)
    for process in both:
        process.kill()
    assert [process.wait() for process in both] == [-9, -9]
    first = states(run)
    assert 1 <= len(first) <= 6 and not run.samples_h5.exists()

    main, other = ranks(run, "sample", 2, wait=False)
    wait_for(lambda: len(states(run)) > len(first), (main, other))
    other.kill()
    assert main.wait(timeout=60) == 1  # it does what is left, but for what the other had begun
    assert other.wait() == -9
    second = states(run)
    assert len(second) >= 7 and not run.samples_h5.exists()
    assert json.loads(run.progress.read_text())["state"] == "failed"

    assert alone(run, "sample") == "done"
    third = states(run)
    assert first.items() <= second.items() <= third.items() and len(third) == 8
    assert identical(samples(run), unbroken(make_run, alone))


def test_a_signal_to_one_of_two_processes_stops_both_at_once(make_run, ranks, alone):
    run = trained(make_run(*LONG))
    both = ranks(run, "sample", 2, wait=False)
    wait_for(lambda: len(states(run)) >= 1, both)
    both[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in both] == [3, 3]
    before = states(run)
    assert 1 <= len(before) <= 4 and not run.samples_h5.exists()  # no chunk was begun after the signal
    progress = json.loads(run.progress.read_text())
    assert progress["state"] == "interrupted" and 100 <= progress["done"] < progress["total"] == 800

    assert alone(run, "sample") == "done"
    assert json.loads(run.progress.read_text())["total"] == 800 - progress["done"]  # whatever was walked was saved
    assert not list(run.samples.glob("partial-*"))
    assert before.items() <= states(run).items()
    assert identical(samples(run), unbroken(make_run, alone))


# Weights --------------------------------------------------------------------------------------------------------------

def test_the_average_that_the_spec_names_is_sampled_from(make_run, alone):
    averaged = trained(make_run(folder="averaged"), averaged=0, raw=1)
    raw = trained(make_run("sample.ema_rate=null", folder="raw"), averaged=1, raw=0)
    other = trained(make_run("sample.ema_rate=null", folder="other"), averaged=0, raw=1)
    for run in (averaged, raw, other):
        assert alone(run, "sample") == "done"
    assert same(averaged, raw) and not np.array_equal(samples(averaged)["images"], samples(other)["images"])


def test_one_of_several_averages(make_run, alone):
    run = make_run("train.ema_rate=[0.5, 0.99]", "sample.ema_rate=0.99")
    save_checkpoint(run, 12, weights(run, 1), {0.5: weights(run, 1), 0.99: weights(run, 0)}, None)
    plain = trained(make_run(folder="plain"))
    for either in (run, plain):
        assert alone(either, "sample") == "done"
    assert np.array_equal(samples(run)["images"], samples(plain)["images"])


def test_unfinished_training_is_refused(make_run, alone):
    run = make_run()
    for step in (0, 8):
        if step:
            save_checkpoint(run, step, weights(run), {0.9: weights(run)}, None)
        with pytest.raises(UserError, match=rf"not finished \(step {step} of 12\); run `iddpm train {run.path}`"):
            alone(run, "sample")
    assert not run.samples.exists()


@pytest.mark.parametrize("name", ["ema-0.9.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused_by_name(make_run, alone, name):
    run = trained(make_run())
    file = run.checkpoints / "step-00000012" / name
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{file}: damaged"):
        alone(run, "sample")
    assert not run.samples.exists()


# What is there already ------------------------------------------------------------------------------------------------

def test_a_damaged_chunk_is_computed_again_and_a_finished_run_is_left_alone(make_run, alone, capsys):
    run, whole = trained(make_run(folder="a")), trained(make_run(folder="b"))
    for either in (run, whole):
        assert alone(either, "sample") == "done"
    before = states(run)
    run.samples_h5.unlink()
    file = chunk_file(run.samples, 1)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    damaged = states(run)
    capsys.readouterr()
    assert alone(run, "sample") == "done"
    assert f"{file}: cannot be read (damaged" in capsys.readouterr().out
    assert same(run, whole)
    after = states(run)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != damaged[name]] == ["chunk-00001.h5"]

    inode = run.samples_h5.stat().st_ino
    assert alone(run, "sample") == "done"
    assert (run.samples_h5.stat().st_ino, states(run)) == (inode, after)


def test_samples_of_other_weights_are_refused(make_run, alone):
    run = trained(make_run())
    assert alone(run, "sample") == "done"
    before = states(run), run.samples_h5.stat().st_ino
    trained(run, averaged=5)
    with pytest.raises(UserError, match="samples.h5: made with other weights or settings: weights_sha256 .*Remove"):
        alone(run, "sample")
    assert (states(run), run.samples_h5.stat().st_ino) == before
    run.samples_h5.unlink()
    with pytest.raises(UserError, match="chunk-00000.h5: made with other weights or settings: weights_sha256 .*Remove"):
        alone(run, "sample")
    assert states(run) == before[0] and not run.samples_h5.exists()


# A full disk ----------------------------------------------------------------------------------------------------------

# Exit status and last words of a stage whose process may write only so many bytes to any file, as a full disk has it.
LIMITED = """
import json, os, resource, sys, tempfile
import jobs.evaluation.evaluate, jobs.sampling.loop, jobs.stage, jobs.training.loop

def trial(limit, stage, run):
    with tempfile.TemporaryFile() as words:
        child = os.fork()
        if not child:
            os.dup2(words.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.argv = ["jobs.stage", stage, run]
            sys.exit(jobs.stage.main())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        words.seek(0)
        return status, words.read().decode()

print(json.dumps([trial(*arguments) for arguments in json.loads(sys.argv[1])]))
"""


def files(run):
    """All contents of the run's folder but for what any attempt may leave."""
    left = ("progress.json", "data.json", "lock", "failure.json", "stages.jsonl")
    return {path: path.read_bytes() for path in run.path.rglob("*")
            if path.is_file() and path.name not in left and "tensorboard" not in path.parts}


def assert_refused_for_want_of_space(trials):
    """trials: (bytes that suffice for what is written before, stage, run, the file that is to fail)."""
    before = [files(run) for _, _, run, _ in trials]
    arguments = json.dumps([(limit, stage, str(run.path)) for limit, stage, run, _ in trials])
    done = subprocess.run([sys.executable, "-c", LIMITED, arguments], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    for (_, _, run, file), there, (status, words) in zip(trials, before, json.loads(done.stdout), strict=True):
        assert (status, words) == (2, f"iddpm: error: {file}: no space left on the device or in the quota; "
                                      "free some and repeat the command\n")
        assert files(run) == there
        assert json.loads(run.progress.read_text())["state"] == "failed"


def test_a_disk_too_full_for_samples_is_named_and_nothing_is_half_written(make_run, alone):
    chunk, h5, npz, png = (trained(make_run("diffusion.diffusion_steps=10", folder=name))
                           for name in ("chunk", "h5", "npz", "png"))
    for run in (chunk, h5, npz, png):
        assert alone(run, "sample") == "done"
    chunk_file(chunk.samples, 1).unlink()
    for run in (chunk, h5):
        run.samples_h5.unlink()
    (npz.samples / "samples.npz").unlink()
    png.samples_png.unlink()
    trials = [(2_000, "sample", chunk, chunk_file(chunk.samples, 1)),
              (20_000, "sample", h5, h5.samples_h5),
              (1_000, "sample", npz, npz.samples / "samples.npz"),
              (1_500, "sample", png, png.samples / "samples-grid.png")]
    assert_refused_for_want_of_space(trials)
    for _, stage, run, file in trials:  # with space again
        assert alone(run, stage) == "done" and file.exists()


def test_a_disk_too_full_for_a_checkpoint_is_named_and_nothing_is_half_written(make_run, alone):
    model, state = make_run(folder="model"), make_run("train.ema_rate=[]", "sample.ema_rate=null", folder="state")
    assert_refused_for_want_of_space([(60_000, "train", model, model.checkpoints / "step-00000004"),
                                      (200_000, "train", state, state.checkpoints / "step-00000004")])
