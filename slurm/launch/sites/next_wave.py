"""What the batch script of a report does at its end, on the host: submit the study's next wave, if runs wait for one.

    python -m slurm.launch.sites.next_wave STUDY FOLDER
"""

import os
import sys
import time
from pathlib import Path

from jobs.errors import Busy, StageFailed, UserError
from jobs.run.directory import RunDir
from slurm.launch.limits import check_cluster, cluster_limits, with_queue_limit
from slurm.launch.profiles import load_profile
from slurm.launch.records import changing_jobs, recorded, reports
from slurm.launch.sites.bad_nodes import avoiding
from slurm.launch.sites.waves import in_words, set_waiting, waiting_runs
from slurm.launch.squeue import live_jobs
from slurm.launch.submit import SubmitOptions, arrays_for, send

PATIENCE_S, PAUSE_S = 600.0, 20.0  # how long to try, and the pause between two tries


def next_wave(study: Path, own_job: str) -> bool:
    """Submit the runs that wait, as far as the queue has room. Returns whether there is nothing left to try.

    `own_job`: the job of the report that calls. Raises StageFailed if SLURM refuses, and UserError for a profile that is gone.
    """
    with changing_jobs(study, PAUSE_S):
        live = live_jobs()
        submissions = recorded(study, live)
        names = waiting_runs(study, submissions, [])
        if not names:
            return True
        if (study / "held.json").exists():
            print(f"{in_words(len(names))}, but the study is on hold; `iddpm requeue {study}` goes on")
            return True
        options = SubmitOptions(submissions[-1].cluster, submissions[-1].max_parallel)
        limits = cluster_limits()
        profile, avoided = avoiding(with_queue_limit(load_profile(options.cluster), limits), study)
        print(f"note: {avoided}" if avoided else in_words(len(names)), flush=True)
        specs = {}
        for name in names:
            try:
                specs[name] = RunDir(study / name).spec
            except UserError as error:  # one broken run keeps no other from its wave
                print(f"{error}; this run is left out", flush=True)
        if not specs:
            return True
        arrays, waiting = arrays_for(study, specs, live, profile, limits, options.max_parallel)
        if not arrays:
            return False
        check_cluster(arrays, study, profile, limits)
        send(arrays, study, options, profile, outdated=[job for job in reports(study, live) if job.id != own_job])
        set_waiting(study, waiting)
        return True


def main() -> int:
    study, folder = map(Path, sys.argv[1:])
    os.chdir(folder)
    deadline, trouble = time.monotonic() + PATIENCE_S, "the queue has no room"
    while time.monotonic() < deadline:
        try:
            if next_wave(study, os.environ["SLURM_JOB_ID"]):
                return 0
        except (Busy, StageFailed, UserError) as error:
            trouble = str(error)
        time.sleep(PAUSE_S)
    print(f"the next wave could not be submitted ({trouble}); `iddpm submit` again, or `iddpm requeue {study}`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
