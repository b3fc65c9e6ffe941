"""Kernels that repeat, and the library for exchanges; torch's switches can be read without a GPU."""

import json
import os
import threading

import pytest
import torch
import torch.distributed as dist
from small_runs import SMALL_SPEC

from jobs.parallel import backend
from jobs.parallel.backend import backend_for
from jobs.parallel.determinism import WORKSPACE, repeating
from jobs.sampling.chunks import sampling_settings
from jobs.spec.reading.file import load

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def switches() -> tuple[bool, bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark


def test_a_gpu_repeats_where_that_is_wanted_and_is_fast_where_not(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = switches()
    with repeating(True, CPU):
        assert switches() == before and WORKSPACE not in os.environ
    with repeating(True, GPU):
        assert switches() == (True, True, False) and os.environ[WORKSPACE] == ":4096:8"
        assert not torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(ZeroDivisionError), repeating(False, GPU):
        assert switches() == (False, False, True)
        raise ZeroDivisionError
    assert switches() == before and torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize("names, expected", [
    (["n1 GPU-a"], "cpu:gloo,cuda:nccl"), (["n1 GPU-a", "n1 GPU-b"], "cpu:gloo,cuda:nccl"), (["n1 GPU-a", "n1 GPU-a"], "gloo"),
    (["n1 GPU-a", "n2 GPU-b", "n2 GPU-b"], "gloo"), (["cpu", "n1 GPU-a"], "gloo")])
def test_ranks_use_nccl_where_each_has_a_gpu_of_its_own(monkeypatch, names, expected):
    store, found = dist.HashStore(), []
    monkeypatch.setattr(backend, "_name", lambda device: names[device.index])
    ranks = [threading.Thread(target=lambda rank=rank: found.append(
        backend_for(torch.device("cuda", rank), rank, len(names), store))) for rank in range(len(names))]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=30)
    assert found == [expected] * len(names) and backend_for(CPU, 0, 1, store) == "gloo"


def test_samples_of_repeating_kernels_are_what_they_were_before_the_setting(tmp_path):
    (tmp_path / "x.yaml").write_text(json.dumps(SMALL_SPEC))
    plain, fast = (sampling_settings(load(tmp_path / "x.yaml", [f"sample.deterministic={value}"]).runs[0].spec, "ab" * 32)
                   for value in ("true", "false"))
    assert "deterministic" not in plain["sample"] and fast["sample"] == {**plain["sample"], "deterministic": False}
