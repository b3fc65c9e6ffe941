"""A disk that is full while a stage writes: the file is named, and no file is half-written."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from noisy_runs import trained

from jobs.parallel.interruption import SIGNALS
from jobs.sampling.chunks import chunk_file
from jobs.stage import run_stage

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_disk_too_full_for_a_checkpoint_is_named_and_nothing_is_half_written(make_run, alone):
    model, state = make_run(folder="model"), make_run("train.ema_rate=[]", "sample.ema_rate=null", folder="state")
    assert_refused_for_want_of_space([(60_000, "train", model, model.checkpoints / "step-00000004"),
                                      (200_000, "train", state, state.checkpoints / "step-00000004")])


@pytest.mark.parametrize("number, words", [(errno.EACCES, "not writable"), (errno.EROFS, "not writable"),
                                           (errno.ENOSPC, "no space left"), (errno.EISDIR, "a folder stands")])
def test_what_the_system_refuses_inside_a_stage_is_one_sentence_and_no_defect(make_run, monkeypatch, number, words):
    run = make_run()

    def refused(*_):
        raise OSError(number, os.strerror(number), str(run.path / "some-file"))
    monkeypatch.setattr("jobs.training.loop.open_data", refused)
    monkeypatch.setenv("IDDPM_ATTEMPT", "")  # the stage sets it
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        outcome = run_stage("train", str(run.path), "m")
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert outcome["state"] == "refused" and outcome["message"].startswith(f"{run.path / 'some-file'}: {words}")
    assert json.loads((run.path / "failure.json").read_text())["kind"] == "bad input"
