#!/usr/bin/env -S python3 -IS
"""A fake SLURM, so that launching is tested without root: it runs jobs as plain processes of this machine.

It plays sbatch, squeue, sacct, scontrol, scancel, sinfo or srun: by the name of the link FOLDER/bin/NAME that calls it.
FOLDER/queue.json is its whole state: all jobs ever, array elements each by their own. There is no daemon: every command, and
every end of a job, also starts the jobs whose turn has come. Answers follow SLURM 22.05; unknown options are errors.
It knows no time limits, no memory and no GPUs; tests/slurm/**/test_on_slurm*.py hold the code to a real SLURM.
"""

import argparse
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves the script's folder out

from fake_slurm_queue import (  # noqa: E402
    AT_ONCE,
    CALLED,
    FIELDS,
    KILL_WAIT_S,
    LETTERS,
    LIVE,
    NODES,
    POLL_S,
    SCRIPT_OPTIONS,
    changing,
    chosen,
    end,
    expand,
    fail,
    granted,
    parsed,
    read,
)


def stepd(id):
    """Run a job's batch script in a process group of its own to its end, and write down what became of it.

    As in SLURM, SIGTERM at the job's end goes to the script and to the tasks, and SIGUSR2 to the tasks alone.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited by bash
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: tasks may outlive the script
    with changing() as state:  # waits until the command that started this job has written it down
        job = state["jobs"].get(id)
    if job is None:  # that command was refused
        return
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
