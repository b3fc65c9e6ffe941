"""Check, before a run is made, that the weights of train.init_from fit its network.

Reading weights takes torch, which a login node does not load: a process of its own does that, and reads as `iddpm import` does.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.own_python import python_command
from jobs.run.start_weights import start_file
from jobs.spec.kinds import kind_of
from jobs.spec.reading.frozen import dump, parse_frozen
from jobs.spec.reading.sweep import Run, Study
from jobs.spec.sections import Spec, Train

PATIENCE_S = 600
MOST_HEADER = 10 ** 8  # bytes, as safetensors itself has it


def start_problems(specs: Sequence[Spec]) -> list[str]:
    """Return a message for each file of train.init_from that is missing or does not fit; loads no torch itself."""
    problems, texts = dict[str, None](), dict[str, None]()
    for spec in specs:
        try:
            if start_file(spec) is not None:
                texts[_network_alone(spec)] = None
        except UserError as error:
            problems[str(error)] = None
    return [*problems, *(_misfits(list(texts)) if texts else [])]


def check_starts(study: Study, runs: Sequence[Run]) -> None:
    """Raise UserError with all that `start_problems` and `unwritten_problems` find in these runs of `study`."""
    if problems := start_problems([run.spec for run in runs]) + unwritten_problems(study, runs):
        raise UserError("\n".join(problems))


def unwritten_problems(study: Study, runs: Sequence[Run]) -> list[str]:
    """Return a message for each file of train.init_from whose weights need settings of the network that the spec does not write.

    As for `iddpm import` a default does not count, unless a spec is inside the file. The process may be another one than that of
    the weights' training.
    """
    problems = dict[str, None]()
    for run in runs:
        with contextlib.suppress(UserError):  # `start_problems` says that there is no file
            if (file := start_file(run.spec)) is None or _holds_spec(file):
                continue
            untold = kind_of(run.spec).untold_by_weights(study.written_of(run), {})
            if missing := [key for key in untold if key.startswith("model.") or key == "diffusion.rescale_timesteps"]:
                problems[f"train.init_from: {file}: neither names nor shapes of weights tell {', '.join(missing)}, and a wrong "
                         "one loads and gives garbage; write them in the spec (a default does not count)"] = None
    return list(problems)


def _holds_spec(file: Path) -> bool:
    """Return whether the file is .safetensors with a spec in its header, which is JSON behind its length."""
    if file.suffix != ".safetensors":
        return False
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length <= MOST_HEADER else {}
        return "spec" in header.get("__metadata__", {})
    except (OSError, ValueError, AttributeError, TypeError):
        return True  # reading the weights says better what is wrong


def _network_alone(spec: Spec) -> str:
    """Return the spec as text, without what no network depends on: the runs of a sweep mostly share their network."""
    train = type(spec.train)(iterations=1, init_from=spec.train.init_from, ema_rate=spec.train.ema_rate)
    own = {key: getattr(spec.train, key) for key in type(spec.train).model_fields if key not in Train.model_fields}
    return dump(spec.model_copy(update={"train": train.model_copy(update=own)}))


def _misfits(texts: Sequence[str]) -> list[str]:
    """Read the weights for each spec in a process of its own; return what is wrong."""
    command = python_command("from jobs.kinds.start_fit import main; main()")
    try:
        done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=PATIENCE_S,
                              env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        return [str(problem) for problem in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        return [f"train.init_from: reading the weights took more than {PATIENCE_S} s"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [f"train.init_from: the process that reads the weights failed: {last}"]


def main() -> None:
    """Read specs from the standard input, and print what is wrong with the weights that they start from, as JSON."""
    from jobs.kinds.foreign_weights import read_weights

    problems: dict[str, None] = {}
    for text in json.load(sys.stdin):
        spec = parse_frozen(text, "the spec")
        try:
            file = start_file(spec)
            assert file is not None, "start_problems passes on only specs that name a file"
            read_weights(file, spec)
        except UserError as error:
            problems[f"train.init_from: {error}"] = None
    json.dump(list(problems), sys.stdout)
