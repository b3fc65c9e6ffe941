"""Why a stage failed, sorted: a run's failure.json, from which status and report say what to do next."""

import re
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.storage.files import read_json, write_json

# kind -> what to do next; {stage} and {run} are filled in.
NEXT = {
    "out of memory": "lower train.microbatch, sample.batch_size or evaluate.batch_size, set train.gradient_checkpointing: true, "
                     "or raise resources.{stage}.mem_gb; then submit again",
    "no progress": "raise resources.{stage}.time, or save more often (train.save_interval); then submit again",
    "node or network": "submit again: it goes on from what was saved; if it happens on the same node, tell the cluster's staff",
    "bad input": "mend what the message names; then submit again (`iddpm requeue` where the study is on hold)",
    "diverged": "lower train.lr, lengthen train.warmup or set train.grad_clip, under another name",
    "killed": "killed from outside, or out of memory: see `iddpm logs {run}`; submit again, with more resources.{stage}.mem_gb if "
              "it happens again",
    "error": "a defect, ours or in a changed file: the traceback is in `iddpm logs {run}`",
}
MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
# How gloo, NCCL, the store and a sick GPU tell that another process, or the node, is gone.
NETWORK = ("onnection closed by peer", "onnection reset by peer", "Broken pipe", "NCCL", "uncorrectable ECC", "unspecified launch",
           "Stale file handle", "Input/output error", "Transport endpoint")


@dataclass(frozen=True)
class Failure:
    stage: str
    kind: str
    """One of NEXT."""
    message: str
    """One line: the sentence meant for the user, or the traceback's last."""
    traceback: str
    """Empty for what is a sentence."""
    done: int | None
    """How far the stage was, in progress.json's units."""
    host: str
    rank: int
    time: float

    @property
    def signature(self) -> str:
        """The same for runs that failed of the same: the message without its numbers and paths, and where it was raised."""
        where = re.findall(r'File "[^"]*?([^"/]+)", line (\d+), in (\w+)', self.traceback)[-1:]
        return f"{self.stage}: {self.kind}: {re.sub(r'[^ ]*[/0-9][^ ]*', '#', self.message)} {where}"

    def next_step(self, run: Path) -> str:
        return NEXT[self.kind].format(stage=self.stage, run=run)


def kind_of(error: Exception) -> str:
    if isinstance(error, UserError):
        return "bad input"
    if isinstance(error, StageFailed):
        return error.kind
    if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY):
        return "out of memory"
    if type(error).__module__.startswith("torch") and type(error).__name__.startswith("Dist"):
        return "node or network"
    return "node or network" if any(words in str(error) for words in NETWORK) else "error"


def describe(error: Exception, stage: str, done: int | None, host: str, rank: int) -> Failure:
    """`error`, just caught. Sentences for the user come without a traceback."""
    kind, sentence = kind_of(error), isinstance(error, (UserError, StageFailed))
    text = "" if sentence else "".join(traceback.format_exception(error))
    last = str(error) if sentence else traceback.format_exception_only(error)[-1]
    message = next((line.strip() for line in last.splitlines() if line.strip()), type(error).__name__)
    return Failure(stage, kind, message, text, done, host, rank, time.time())


def write_failure(run: Path, failure: Failure) -> None:
    """Keep it as the run's failure.json. A lost connection does not replace the cause of it, told by another rank."""
    known = read_failure(run)
    if known is None or known.stage != failure.stage or failure.kind != "node or network":
        write_json(run / "failure.json", asdict(failure))


def read_failure(run: Path) -> Failure | None:
    try:
        return Failure(**read_json(run / "failure.json"))
    except (OSError, UserError, TypeError):
        return None


def forget_failure(run: Path) -> None:
    """A new attempt begins, or the stage came through."""
    (run / "failure.json").unlink(missing_ok=True)
