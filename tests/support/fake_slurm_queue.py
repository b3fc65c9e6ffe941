"""The queue of the fake SLURM (fake_slurm.py): its file, which jobs may start, and how commands name jobs."""

import argparse
import fcntl
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

CALLED = Path(sys.argv[0]).absolute()
FOLDER = CALLED.parent.parent
NODES, AT_ONCE = 3, 8  # size of the cluster: nodes that one job may ask for, and jobs that run at the same time
KILL_WAIT_S = 2.0  # from SIGTERM to SIGKILL
POLL_S = 0.03
SCRIPT_OPTIONS = {"account", "array", "chdir", "comment", "constraint", "cpu-freq", "cpus-per-task", "dependency", "exclude",
                  "exclusive", "gpus-per-node", "gres", "job-name", "kill-on-invalid-dep", "licenses", "mail-type",
                  "mail-user", "mem", "mem-per-cpu", "nice", "no-kill", "no-requeue", "nodelist", "nodes", "ntasks-per-node",
                  "open-mode", "output", "partition", "qos", "requeue", "reservation", "signal", "time", "tmp", "wckey"}
LIVE = ("PENDING", "RUNNING")
FIELDS = {
    "JobArrayID": lambda job: job["id"], "JobID": lambda job: job["id"], "Name": lambda job: job["options"]["job-name"],
    "State": lambda job: job["state"], "Reason": lambda job: job["reason"], "RestartCnt": lambda job: str(job["restarts"]),
    "NodeList": lambda job: job["nodes"] if job["started"] else "None assigned" if job["state"] not in LIVE else "",
    "StartTime": lambda job: time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(job["started"])) if job["started"] else "N/A",
    "ExitCode": lambda job: job["exit"],
    "Elapsed": lambda job: time.strftime("%H:%M:%S", time.gmtime(seconds(job))),
}
LETTERS = {"%T": "State", "%r": "Reason"}


def granted(options):
    """Nodes that a job gets: of a range (1-4) as many as there are."""
    return min(int(options.get("nodes", "1").rpartition("-")[2]), NODES)


def seconds(job):
    return (job["ended"] or time.time()) - job["started"] if job["started"] else 0


def parsed(arguments, rest, flags=(), values=()):
    parser = argparse.ArgumentParser(prog=CALLED.name, add_help=False, allow_abbrev=False)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    for value in values:
        parser.add_argument(value)
    parser.add_argument("rest", nargs=rest)
    return parser.parse_args(arguments)


def expand(pattern, names):
    """%A, %a, %j and %t in the name of a log."""
    return re.sub("%[Aajt]", lambda found: names[found[0]], pattern)


def read():
    """The state: {"config": slurm.conf's numbers, "down": ..., "jobs": {id: job}}."""
    return json.loads((FOLDER / "queue.json").read_text())


@contextmanager
def changing():
    """The state under a lock; at the end of the block, jobs whose turn has come are started and the state is written back."""
    with open(FOLDER / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = read()
        yield state
        schedule(state)
        (FOLDER / "queue.json.new").write_text(json.dumps(state))
        (FOLDER / "queue.json.new").rename(FOLDER / "queue.json")


def fail(message):
    sys.exit(f"{CALLED.name}: error: {message}")


def schedule(state):
    """One pass suffices: jobs only depend on older ones."""
    for job in state["jobs"].values():
        if job["state"] != "PENDING":
            continue
        job["reason"] = reason_to_wait(job, state)
        if job["reason"] == "DependencyNeverSatisfied" and job["options"].get("kill-on-invalid-dep") == "yes":
            job.update(state="CANCELLED", ended=time.time())
        elif job["reason"] == "None":
            job.update(state="RUNNING", started=time.time(), nodes="n1" if granted(job["options"]) == 1 else
                       f"n[1-{granted(job['options'])}]")
            subprocess.Popen([CALLED.parent / "stepd", job["id"]], start_new_session=True, stdin=subprocess.DEVNULL,
                             stdout=open(FOLDER / "stepd.log", "a"), stderr=subprocess.STDOUT)


def reason_to_wait(job, state):
    running = [other for other in state["jobs"].values() if other["state"] == "RUNNING"]
    fulfilled = [is_fulfilled(term, job, state) for term in filter(None, job["options"].get("dependency", "").split(","))]
    reasons = {
        "JobHeldUser": job["held"], "DependencyNeverSatisfied": None in fulfilled, "Dependency": False in fulfilled,
        "PartitionDown": state["down"], "Resources": len(running) >= AT_ONCE,
        "JobArrayTaskLimit": sum(other["base"] == job["base"] for other in running) >= job["limit"]}
    return next((reason for reason, holds in reasons.items() if holds), "None")


def is_fulfilled(term, job, state):
    """Whether a dependency such as afterok:12:13_4 is met; None: it never can be."""
    kind, *bases = term.split(":")
    others = [other for other in state["jobs"].values()
              if {other["id"], other["base"]} & set(bases) and (kind != "aftercorr" or other["index"] == job["index"])]
    ended = [other["state"] for other in others if other["state"] not in LIVE]
    if kind != "afterany" and any(end != "COMPLETED" for end in ended):
        return None
    return len(ended) == len(others)


def chosen(state, ids, states=LIVE):
    """The jobs that `ids` mean, each 12 (all of an array), 12_3, or 12_[0-3,5]."""
    wanted = set()
    for id in ids:
        base, bracket, ranges = id.partition("_[")
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", ranges):
            wanted.update(f"{base}_{index}" for index in range(int(first), int(last or first) + 1))
        wanted.update([] if bracket else [id])
    return [job for job in state["jobs"].values() if job["state"] in states and {job["id"], job["base"]} & wanted]


def end(job, state):
    """Take a job from the queue, or from the nodes: stepd sees "ending" and gives the job time to save."""
    if job["state"] == "RUNNING":
        job["ending"] = state
    elif state != "PENDING":
        job.update(state=state, ended=time.time())
