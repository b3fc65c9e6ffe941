"""A change of a run's spec that is killed at any of its steps: the same command completes it, and no result is lost or wrong."""

import json
import os
import shutil
from pathlib import Path

import pytest
from small_runs import SMALL_SPEC

from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.spec.samplings import samplings
from jobs.storage.files import read_json

SHORT = ("diffusion.diffusion_steps=4", "evaluate.nll_examples=0", "evaluate.respacings=[2]", "train.iterations=4")
CHANGE = ("train.iterations=6", "sample.num_samples=13")
STEPS = ("replace", "unlink", "rename", "rmdir")


class Killed(BaseException):
    pass


def killed_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let the call number `number` of a function that changes the file system end the process."""
    left = [number]

    def counted(real):
        def call(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **options)
        return call
    for name in STEPS:
        patch.setattr(os, name, counted(getattr(os, name)))


def found(run: RunDir) -> dict[str, bytes]:
    """Return the bytes of samples.h5 of every sampling, and the evaluation."""
    files = {str(sampling): (run.samples_folder(sampling) / "samples.h5").read_bytes() for sampling in samplings(run.spec)}
    return files | {"evaluation": run.evaluation.read_bytes()}


@pytest.mark.slow
def test_a_change_that_is_killed_anywhere_is_completed_by_the_same_command(tmp_path, alone, monkeypatch):
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL_SPEC))

    def frozen(folder: str, *settings: str) -> RunDir:
        return freeze(load(tmp_path / "small.yaml", (*SHORT[:-1], *settings)), tmp_path / folder)[0]

    def done(run: RunDir) -> RunDir:
        for stage in ("train", "sample", "evaluate"):
            if not run.is_done(stage):
                assert alone(run, stage) == "done"
        return run
    done(frozen("finished", SHORT[-1]))
    fresh = found(done(frozen("fresh", *CHANGE, "sample.at=[4, last]")))
    for number in range(100):
        folder = f"killed-{number}"
        shutil.copytree(tmp_path / "finished", tmp_path / folder)
        with monkeypatch.context() as patch:
            killed_at(number, patch)
            try:
                frozen(folder, *CHANGE)
                break
            except Killed:
                pass
        if number % 2:  # half of the users go back first
            assert done(frozen(folder, SHORT[-1])).spec.train.iterations == 4
        run = done(frozen(folder, *CHANGE))
        assert found(run) == fresh, number
        assert [entry["step"] for entry in read_json(run.evaluation)["curve"]] == [6, 4, 6, 6]
        shutil.rmtree(tmp_path / folder)
    assert 8 < number < 60 and not list(Path(tmp_path / folder).rglob(".*.tmp*"))
