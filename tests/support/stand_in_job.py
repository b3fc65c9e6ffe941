#!/usr/bin/env python3
"""Python as a job starts it on a (fake) cluster, but a stage computes nothing: it leaves the files that make it done.

The submission's folder directs it: acts/RUN.STAGE holds "fail MESSAGE", "broken NODE", or "wait": stay at work until the file
is gone or a signal comes. events.txt there gets a line "begin RUN STAGE" or "end RUN STAGE" for each, and where the code lies.
"""

import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())  # as `python -m` has it: the code as it was submitted

import linear_kind  # noqa: E402
from submitit.core.submission import process_job  # noqa: E402

from jobs.errors import StageFailed  # noqa: E402
from jobs.parallel.interruption import Interruption  # noqa: E402
from jobs.run.directory import RunDir  # noqa: E402
from jobs.run.failures import describe, remove_failure, write_failure  # noqa: E402
from jobs.run.progress import ATTEMPT, Progress  # noqa: E402
from jobs.spec.kinds import draws_samples  # noqa: E402
from jobs.spec.samplings import sampling_facts, samplings  # noqa: E402
from jobs.storage.files import read_json, write_json  # noqa: E402
from slurm.launch.in_job import job_entry  # noqa: E402

ROOM_FOR_MORE = 1_000_000


def note(*words: str) -> None:
    with open("events.txt", "a") as file:
        file.write(" ".join(words) + "\n")


def stage(stage: str, run_path: str, meeting: str) -> dict[str, str]:
    """Stands in for jobs.stage.run_stage. Each attempt that waits is ten steps further than the one before."""
    interruption, run = Interruption(), RunDir(Path(run_path))
    os.environ[ATTEMPT] = meeting
    act = Path("acts") / f"{run.path.name}.{stage}"
    words = act.read_text() if act.exists() else ""
    if int(os.environ["SLURM_PROCID"]):
        return {"state": "done", "message": "", "signal": ""}
    note("begin", run.path.name, stage)
    before = read_json(run.progress) if run.progress.exists() else {"stage": None}
    done = 10 + (before["done"] if before["stage"] == stage else 0)
    progress = Progress(run.progress, stage, ROOM_FOR_MORE, "steps", done)
    remove_failure(run.path)
    print(f"{stage} of {run.path.name}, from step {done}", flush=True)
    state = "done"
    if words.startswith("fail"):
        state = "failed"
        write_failure(run.path, describe(StageFailed(words[5:]), stage, done, "n1", 0))
    if words.startswith("broken"):
        state = "failed"
        broken = StageFailed("a product of known numbers comes out wrong", kind="hardware", node=words[7:])
        write_failure(run.path, describe(broken, stage, done, "elsewhere", 0))
    while words == "wait" and act.exists() and not interruption.requested:
        time.sleep(0.02)
    if interruption.requested:
        state = "interrupted"
    if state == "done":
        leave_results(run, stage)
    progress.close(done, state)
    note("end", run.path.name, stage)
    return {"state": state, "message": words, "signal": interruption.by}


def leave_results(run: RunDir, stage: str) -> None:
    if stage == "train":
        last = run.checkpoint_folder(run.spec.train.iterations)
        write_json(last / "manifest.json", {"step": run.spec.train.iterations, "bytes": {"training.pt": 0}})
        (last / "training.pt").touch()
    elif stage == "sample":
        for sampling in samplings(run.spec):
            folder = run.samples_folder(sampling)
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("samples.h5", "samples.npz", "samples.png"):
                (folder / name).touch()
    else:
        curve = [sampling_facts(run.spec, sampling) for sampling in samplings(run.spec)]
        write_json(run.evaluation, {"settings": run.spec.evaluate.model_dump(mode="json"), "curve": curve,
                                    "samples": run.spec.sample.num_samples if draws_samples(run.spec) else None,
                                    "headline": {"fid (pixels)": 3.5}})


def report(study_path: str, workdir: str) -> str:
    """Stands in for job_entry.report_in_slurm."""
    os.chdir(workdir)
    note("begin report")
    (Path(study_path) / "report.html").touch()
    return study_path


if __name__ == "__main__":
    linear_kind.add()
    job_entry.run_stage, job_entry.report_in_slurm = stage, report
    with open(os.environ["STAND_IN_CODE"], "w") as file:
        file.write(job_entry.__file__)
    process_job(Path(sys.argv[-1]))
