"""Find out how a job ended if the job left no result and no failure.json: from SLURM's accounting, else from the log."""

import re

from jobs.run.failures import failure_kind
from slurm.launch.squeue import EndedJob

KIND_OF_STATE = {"OUT_OF_MEMORY": "out of memory", "TIMEOUT": "no progress", "DEADLINE": "no progress",
                 "NODE_FAIL": "node or network", "BOOT_FAIL": "node or network"}
# Messages of slurmstepd, srun and Python in a log, and the kind of failure; None: not a failure. The first match counts, so
# causes stand before consequences: after one death srun reports the end of the other processes, too.
KIND_OF_MESSAGE = (
    (r"oom[-_]kill|Out Of Memory|memory limit", "out of memory"),
    (r"JOB \d+ ON \S+ CANCELLED AT .* DUE TO TIME LIMIT", "no progress"),
    (r"JOB \d+ ON \S+ CANCELLED AT .* DUE TO NODE FAIL", "node or network"),
    (r"JOB \d+ ON \S+ CANCELLED AT", None),
    (r"^(?:\[rank\d+\]: )?[A-Za-z_.]*(?:Error|Exception|StageFailed)\b", "error"),
    (r"task [\d,-]+: Killed", "killed"))


def how_it_ended(ended: EndedJob | None, log_end: str) -> tuple[str | None, str]:
    """(kind of failure, message) from the accounting record and the end of the log. Kind None: not a failure, or unknown."""
    account = f"{ended.state} after {ended.elapsed}{f' on {ended.node}' if ended.node else ''}" if ended else ""
    if ended and ended.state in KIND_OF_STATE:
        return KIND_OF_STATE[ended.state], account
    for pattern, kind in KIND_OF_MESSAGE:
        if found := re.search(f"{pattern}.*", log_end, re.M):
            line = re.sub(r"^\[rank\d+\]: ", "", found[0]).strip()
            if kind is None:
                return None, account or "CANCELLED"
            # The text of an exception may show that memory or the network was the cause.
            return (failure_kind(RuntimeError(line)) if kind == "error" else kind), line
    if ended and ended.state == "FAILED":
        return ("killed" if ended.was_killed else "error"), f"{account}, exit code {ended.exit_code}"
    return None, account
