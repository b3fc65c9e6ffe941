"""Tests of what only a GPU can show. Without one they are skipped.

IDDPM_GPU_TESTS=cpu in the environment: run on the CPU what can run there, to see that the tests themselves are in order.
"""

import json

import pytest
import torch
from noisy_runs import noisy, trained
from on_gpu import IS_GPU, ON, ON_A_GPU
from small_runs import own_handlers

from jobs.parallel.determinism import repeating
from jobs.parallel.group import process_group
from jobs.run.directory import RunDir


@pytest.fixture
def device() -> torch.device:
    return torch.device(ON)


@pytest.fixture
def group(tmp_path):
    """A group of one process on the device, as a stage has it."""
    with process_group(tmp_path / "meeting", threads=1, gpu=IS_GPU) as opened, repeating(True, opened.device):
        yield opened


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """A stage sets switches of torch for its process, and handlers of signals."""
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with own_handlers():
        yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture
def make_gpu_run(make_run):
    """make_gpu_run(*overrides, folder=...) -> RunDir: the small digits run, on a GPU in all stages."""
    return lambda *overrides, folder="runs": make_run(*ON_A_GPU, *overrides, folder=folder)


@pytest.fixture
def classifier(make_classifier) -> RunDir:
    """A classifier of noisy digits that counts as trained."""
    return noisy(make_classifier(folder="classifiers"), seed=5, std=0.3)


@pytest.fixture
def make_guided(make_gpu_run, classifier):
    """make_guided(*overrides, folder=...) -> RunDir: a run as if trained, whose sampling follows the classifier."""
    def make(*overrides: str, folder: str = "runs") -> RunDir:
        guidance = {"kind": "classifier", "scale": 8, "run": str(classifier.path)}
        return trained(make_gpu_run("evaluate.nll_examples=0", f"sample.guidance={json.dumps(guidance)}", *overrides,
                                    folder=folder))
    return make
