#!/usr/bin/env -S python3 -IS
"""A fake SLURM, so that launching is tested without root: it runs jobs as plain processes of this machine.

It plays sbatch, squeue, sacct, scontrol, scancel, sinfo or srun: by the name of the link FOLDER/bin/NAME that calls it.
FOLDER/queue.json is its whole state: all jobs ever, array elements each by their own. There is no daemon: every command, and
every end of a job, also starts the jobs whose turn has come. Answers follow SLURM 22.05; unknown options are errors.
It knows no time limits, no memory and no GPUs; tests/slurm/**/test_on_slurm*.py hold the code to a real SLURM.
"""

import argparse
import ctypes
import fcntl
import json
import os
import re
import shlex
import signal
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


def stepd(id):
    """Run a job's batch script in a process group of its own to its end, and write down what became of it.

    As in SLURM, SIGTERM at the job's end goes to the script and to the tasks, and SIGUSR2 to the tasks alone.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited by bash
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: tasks may outlive the script
    job = read()["jobs"][id]
    options, tasks = job["options"], int(job["options"].get("ntasks-per-node", 1))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SUBMITIT_"))} | {
        "SLURM_JOB_ID": job["raw"], "SLURM_NTASKS": str(tasks * granted(options)), "SLURM_JOB_NODELIST": job["nodes"],
        "SLURM_JOB_NUM_NODES": str(granted(options)), "SLURM_NTASKS_PER_NODE": str(tasks)}
    if job["restarts"]:
        environment["SLURM_RESTART_COUNT"] = str(job["restarts"])
    if job["index"] is not None:
        environment |= {"SLURM_ARRAY_JOB_ID": job["base"], "SLURM_ARRAY_TASK_ID": str(job["index"])}
    output = expand(options["output"], {"%A": job["base"], "%a": str(job["index"]), "%j": job["raw"]})
    with open(output, "ab") as log:
        batch = subprocess.Popen(["bash", "-c", job["script"]], cwd=options.get("chdir"), env=environment,
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    with changing() as state:
        state["jobs"][id]["group"] = batch.pid
    told = None
    while batch.poll() is None:
        time.sleep(POLL_S)
        if told is None and read()["jobs"][id]["ending"]:
            told = time.monotonic()
            os.killpg(batch.pid, signal.SIGTERM)
        elif told and time.monotonic() - told > KILL_WAIT_S:
            os.killpg(batch.pid, signal.SIGKILL)
            batch.wait()
    while told and time.monotonic() - told < KILL_WAIT_S and has_children():
        time.sleep(POLL_S)
    try:
        os.killpg(batch.pid, signal.SIGKILL)  # what the script left behind
    except ProcessLookupError:
        pass
    with changing() as state:
        job, code = state["jobs"][id], batch.returncode
        end = job["ending"] or ("FAILED" if code else "COMPLETED")
        job.update(state=end, ended=time.time(), group=None, ending=None, exit=f"{max(code, 0)}:{max(-code, 0)}")
        if end == "PENDING":
            job.update(restarts=job["restarts"] + 1, started=None, ended=None)


def has_children():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


def srun(arguments):
    """Start the job's tasks; one that fails ends the others."""
    asked = parsed(arguments, argparse.REMAINDER, ["--unbuffered"],
                   ["--output", "--kill-on-bad-exit", "--wait", "--ntasks-per-node", "--cpus-per-task", "--export"])
    for number in (signal.SIGTERM, signal.SIGUSR2):  # a handler, unlike "ignore", is not inherited: the tasks hear signals
        signal.signal(number, lambda *_: None)
    known = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID"}
    names, tasks = {letter: os.environ.get(name, "") for letter, name in known.items()}, []
    if asked.ntasks_per_node:
        os.environ["SLURM_NTASKS_PER_NODE"] = asked.ntasks_per_node
        os.environ["SLURM_NTASKS"] = str(int(asked.ntasks_per_node) * int(os.environ["SLURM_JOB_NUM_NODES"]))
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        node, local = divmod(rank, int(os.environ["SLURM_NTASKS_PER_NODE"]))
        place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
        with open(expand(asked.output, names | {"%t": str(rank)}), "ab") as log:
            tasks.append(subprocess.Popen(asked.rest, env=os.environ | place, stdout=log, stderr=log))
    failed = None
    while any(task.poll() is None for task in tasks):
        time.sleep(POLL_S)
        if failed is None and any(task.poll() for task in tasks):
            failed = time.monotonic()
        if failed and asked.kill_on_bad_exit == "1":
            for task in tasks:
                if task.poll() is None:
                    task.send_signal(signal.SIGKILL if time.monotonic() - failed > KILL_WAIT_S else signal.SIGTERM)
    for rank, task in enumerate(tasks):
        if task.returncode:
            ended = f"Exited with exit code {task.returncode}" if task.returncode > 0 else signal.strsignal(-task.returncode)
            print(f"srun: error: n1: task {rank}: {ended}", file=sys.stderr, flush=True)
    sys.exit(max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks))


def sbatch(arguments):
    asked = parsed(arguments, "?", ["--test-only"])
    script = Path(asked.rest).read_text() if asked.rest else sys.stdin.read()
    lines = [shlex.split(line)[1][2:] for line in script.splitlines() if line.startswith("#SBATCH --")]
    options = {key: value for key, _, value in (line.partition("=") for line in lines)}
    if unknown := options.keys() - SCRIPT_OPTIONS:
        fail(f"unrecognized options {sorted(unknown)}")
    if options.get("partition", "main") != "main":
        fail(f"invalid partition specified: {options['partition']}")
    if int(options.get("nodes", "1").partition("-")[0]) > NODES:
        fail("Batch job submission failed: Requested node configuration is not available")
    ids, _, limit = options.get("array", "").partition("%")
    indices = range(int(ids.split("-")[1]) + 1) if ids else [None]
    with changing() as state:
        if len(indices) > state["config"]["MaxArraySize"]:
            fail("Batch job submission failed: Invalid job array specification")
        if asked.test_only and (state["down"] or state["config"].get("Drained")):
            fail("allocation failure: Requested node configuration is not available")
        if asked.test_only:
            return
        live = sum(job["state"] in LIVE for job in state["jobs"].values())
        if live + len(indices) > state["config"].get("MaxSubmitJobs", 10 ** 9):
            fail("Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time "
                 "limits)")
        base = len(state["jobs"]) + 1
        for place, index in enumerate(indices):
            id = str(base) if index is None else f"{base}_{index}"
            state["jobs"][id] = {
                "id": id, "raw": str(base + place), "base": str(base), "index": index, "options": options, "script": script,
                "limit": int(limit or AT_ONCE), "state": "PENDING", "reason": "None", "held": False, "restarts": 0, "nodes": "",
                "started": None, "ended": None, "exit": "0:0", "group": None, "ending": None}
    print(f"Submitted batch job {base}")


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


def scancel(arguments):
    asked = parsed(arguments, "+", values=["--signal", "--state"])
    with changing() as state:
        for job in chosen(state, asked.rest, (asked.state,) if asked.state else LIVE):
            if asked.signal and job["group"]:
                os.killpg(job["group"], getattr(signal, f"SIG{asked.signal}"))
            elif not asked.signal:
                end(job, "CANCELLED")


def scontrol(arguments):
    action, *words = arguments
    with changing() as state:
        if (action, words) == ("show", ["config"]):
            print("\n".join(f"{name:<23} = {value}" for name, value in state["config"].items()))
        elif action in ("hold", "release"):
            for job in chosen(state, words):
                job["held"] = action == "hold" and job["state"] == "PENDING"
            if action == "hold" and (started := [job["id"] for job in chosen(state, words, ("RUNNING",))]):
                print(f"Job is no longer pending execution for job {','.join(started)}", file=sys.stderr)
        elif action == "requeue" and not state["config"].get("JobRequeue", 1):
            fail("Requested operation is presently disabled for job 1")
        elif action == "requeue":
            for job in chosen(state, words):
                end(job, "PENDING")
        elif action == "update" and words[0].startswith("JobId=") and words[1] == "Dependency=":
            for job in chosen(state, [words[0].partition("=")[2]]):
                job["options"].pop("dependency", None)
        elif action == "update" and words[0] == "PartitionName=main" and words[1] in ("State=DOWN", "State=UP"):
            state["down"] = words[1] == "State=DOWN"
        else:
            fail(f"unknown: {' '.join(arguments)}")
    sys.exit(1 if action == "hold" and started else 0)


def squeue(arguments):
    asked = parsed(arguments, "*", ["--me", "--noheader", "--array"], ["--Format", "--format", "--jobs", "--states"])
    fields = [(LETTERS[asked.format], "", "")] if asked.format else [field.partition(":") for field in asked.Format.split(",")]
    state = read()
    for job in chosen(state, asked.jobs.split(",")) if asked.jobs else state["jobs"].values():
        if job["state"] in ([asked.states] if asked.states else LIVE):
            print("".join(FIELDS[name](job) + after for name, _, after in fields))


def sinfo(arguments):
    asked = parsed(arguments, "*", ["--noheader", "--Node"], ["--Format", "--format", "--partition", "--nodes"])
    if asked.format:
        print(f"main*|{read()['config'].get('MaxTime', 'infinite')}")
        return
    for number in range(1, NODES + 1):
        print(f"n{number}|{'drained' if read()['config'].get('Drained') else 'idle'}|4|19284|0|gpu:2|main*")


def sacct(arguments):
    asked = parsed(arguments, "*", ["--allocations", "--noheader", "--parsable2"], ["--jobs", "--format"])
    state = read()
    for job in chosen(state, asked.jobs.split(","), {job["state"] for job in state["jobs"].values()}):
        print("|".join(FIELDS[name](job) for name in asked.format.split(",")))


if __name__ == "__main__":
    if CALLED.name in ("scontrol", "scancel"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job may ask for its own end
    if CALLED.name == "stepd":
        stepd(sys.argv[1])
    else:
        {"sbatch": sbatch, "squeue": squeue, "sacct": sacct, "scontrol": scontrol, "scancel": scancel, "srun": srun,
         "sinfo": sinfo}[
            CALLED.name](sys.argv[1:])
