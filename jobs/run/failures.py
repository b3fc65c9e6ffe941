"""Sort failures of stages by kind, and keep the last one in failure.json. Each kind has advice for status and report."""

import re
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.run.records import Stage
from jobs.storage.files import remove_file, write_json
from jobs.storage.typed import Count, Time, read_record

# What takes the most memory of a GPU, by stage.
LOWER = {"train": "lower train.microbatch (null: all images of a process at once), set train.gradient_checkpointing: true or "
                  "train.precision: bf16, or give the stage more GPUs, under another name",
         "sample": "lower sample.batch_size, under another name, or resources.sample.tasks_per_node",
         "evaluate": "lower evaluate.batch_size, or resources.evaluate.tasks_per_node, and start again"}
# What to do next, by kind of failure; {stage}, {run} and {lower} are filled in.
NEXT = {
    "out of GPU memory": "{lower}; nothing else may compute on the same GPU meanwhile",
    "out of memory": "lower train.microbatch, sample.batch_size or evaluate.batch_size, set train.gradient_checkpointing: "
                     "true, or raise resources.{stage}.mem_gb; then submit again",
    "no progress": "raise resources.{stage}.time, or save more often (train.save_interval); then submit again",
    "no requeue": "submit again: it resumes from what was saved; where the site allows no requeue, give resources.{stage}.time "
                  "all the time that the stage needs, or write `requeue: false` and follow_ups into the cluster profile",
    "node or network": "submit again: it resumes from what was saved; if it happens on the same node, tell the cluster's staff",
    "hardware": "tell the cluster's staff; submit again: the study's next jobs avoid the node for a day",
    "bad input": "mend what the message names; then submit again (`iddpm requeue` where the study is on hold)",
    "diverged": "lower train.lr, lengthen train.warmup or set train.grad_clip, under another name",
    "not finite": "the network gives NaN or infinity: where sample.precision is fp16, use bf16 or fp32; else its training has "
                  "diverged or its weights are damaged: use weights of an earlier step, or train with a lower train.lr; under "
                  "another name",
    "killed": "killed from outside, or out of memory: see `iddpm logs {run}`; submit again, with more "
              "resources.{stage}.mem_gb if it happens again",
    "error": "a defect, ours or in a changed file: the traceback is in `iddpm logs {run}`",
}
GPU_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory")
# Words in the errors of CUDA, NCCL and the driver when a node is broken, rather than another process gone.
HARDWARE = ("uncorrectable ECC", "uncorrectable NVLink", "hardware stack error", "hardware exception", "fallen off the bus",
            "GPU is lost", "Xid ", "Bus error")
# Words in the errors of gloo, NCCL, the store and a broken GPU when another process, or the node, is gone.
NETWORK = ("onnection closed by peer", "onnection reset by peer", "Broken pipe", "NCCL",
           "unspecified launch", "Stale file handle", "Input/output error", "Transport endpoint")


@dataclass(frozen=True)
class Failure:
    """The failure of one stage of a run, as failure.json holds it."""

    stage: Stage
    kind: str
    """A key of NEXT; other versions of this program may write other kinds."""
    message: str
    """One line: the message for the user, or the last line of the traceback."""
    traceback: str
    """Empty for errors whose message is meant for the user."""
    done: Count | None
    """How far the stage was, in the unit of progress.json; None if unknown."""
    host: str
    rank: int
    time: Time
    """Seconds since 1970."""

    @property
    def signature(self) -> str:
        """Equal for failures with one cause: the message without numbers and paths, and the line that raised it."""
        where = re.findall(r'File "[^"]*?([^"/]+)", line (\d+), in (\w+)', self.traceback)[-1:]
        return f"{self.stage}: {self.kind}: {re.sub(r'[^ ]*[/0-9][^ ]*', '#', self.message)} {where}"

    def next_step(self, run: Path) -> str:
        """What the user can do about the failure of `run`."""
        return NEXT.get(self.kind, "see `iddpm logs {run}`").format(stage=self.stage, run=run, lower=LOWER[self.stage])


def failure_kind(error: Exception) -> str:
    """The key of NEXT that fits `error`."""
    if isinstance(error, UserError):
        return "bad input"
    if isinstance(error, StageFailed):
        return error.kind
    if type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in GPU_MEMORY):  # torch's, of a GPU
        return "out of GPU memory"
    if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY):
        return "out of memory"
    if any(words in str(error) for words in HARDWARE):
        return "hardware"
    if type(error).__module__.startswith("torch") and type(error).__name__.startswith("Dist"):
        return "node or network"
    return "node or network" if any(words in str(error) for words in NETWORK) else "error"


def describe(error: Exception, stage: str, done: int | None, host: str, rank: int) -> Failure:
    """Describe `error`, caught just now. UserError and StageFailed need no traceback."""
    kind, sentence = failure_kind(error), isinstance(error, (UserError, StageFailed))
    text = "" if sentence else "".join(traceback.format_exception(error))
    last = str(error) if sentence else traceback.format_exception_only(error)[-1]
    message = next((line.strip() for line in last.splitlines() if line.strip()), type(error).__name__)
    return Failure(stage, kind, message, text, done, getattr(error, "node", "") or host, rank, time.time())


def write_failure(run: Path, failure: Failure) -> None:
    """Write the run's failure.json. A lost connection does not replace the failure of another rank that caused it."""
    known = read_failure(run)
    if known is None or known.stage != failure.stage or failure.kind != "node or network":
        write_json(run / "failure.json", asdict(failure))


def read_failure(run: Path) -> Failure | None:
    """Read the run's failure.json; None if it is missing or damaged."""
    try:
        return read_record(run / "failure.json", Failure)
    except (OSError, UserError):
        return None


def remove_failure(run: Path) -> None:
    """Delete failure.json. Raises UserError if a folder of that name is in the way."""
    remove_file(run / "failure.json")
