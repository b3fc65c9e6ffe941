"""Try the TorchScript file of evaluate.features before anything is trained: its form must not show after days."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from jobs.own_python import python_command
from jobs.spec.sections import Spec

LONGEST_S = 120
"""A network that takes longer on two images may be a slow one, so the evaluation decides."""


def extractor_problem(spec: Spec) -> str | None:
    """Return why the TorchScript file of `spec` cannot give its metrics; None if it can, or if only a GPU can tell.

    Runs the file's network, on the CPU, in another process: this one loads no torch.
    """
    evaluate, data = spec.evaluate, spec.data
    stat = Path(evaluate.features).stat()
    arguments = {"features": evaluate.features, "image_size": data.image_size, "channels": data.channels,
                 "reference": evaluate.reference, "metrics": list(evaluate.metrics)}
    return _tried(json.dumps(arguments), stat.st_mtime_ns, stat.st_size)


@cache
def _tried(arguments: str, changed: int, size: int) -> str | None:
    """`changed` and `size` are those of the file, so that another file is tried anew."""
    command = python_command("from jobs.evaluation.try_features import main; main()")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=arguments, capture_output=True, text=True, check=False,
                              timeout=LONGEST_S, env=environment)
        answer = json.loads(done.stdout.splitlines()[-1])["problem"]
    except subprocess.TimeoutExpired:
        return None
    except (ValueError, LookupError, TypeError):
        name = json.loads(arguments)["features"]
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return f"{name}: cannot be used for evaluate.features ({last[:300]})"
    return answer
