"""Which GPUs a process may use, decided from its environment; there are no GPUs in these tests."""

import pytest
import torch

from jobs.parallel.devices import gpu_index, own_slice, visible_gpus
from jobs.parallel.group import choose_device

MIG = "MIG-0b4a5f5e-0000-0000-0000-000000000001", "MIG-0b4a5f5e-0000-0000-0000-000000000002"
GPU = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize("environment, present, expected", [
    ({}, 4, ["0", "1", "2", "3"]),
    ({}, 0, []),
    ({}, None, []),
    ({"CUDA_VISIBLE_DEVICES": "2,3"}, 4, ["2", "3"]),
    ({"CUDA_VISIBLE_DEVICES": "3, 2"}, 4, ["3", "2"]),  # in the user's order
    ({"CUDA_VISIBLE_DEVICES": "2,3"}, None, ["2", "3"]),
    ({"CUDA_VISIBLE_DEVICES": "2,3"}, 3, ["2"]),  # there is no GPU 3
    ({"CUDA_VISIBLE_DEVICES": "2,3"}, 0, []),
    ({"CUDA_VISIBLE_DEVICES": ""}, 4, []),
    ({"CUDA_VISIBLE_DEVICES": "-1"}, 4, []),
    ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 4, []),  # as SLURM says none
    ({"CUDA_VISIBLE_DEVICES": "none"}, 4, []),
    ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 4, ["0"]),  # CUDA reads no further than -1
    ({"CUDA_VISIBLE_DEVICES": "1,1"}, 4, []),
    ({"CUDA_VISIBLE_DEVICES": GPU}, 4, [GPU]),
    ({"CUDA_VISIBLE_DEVICES": ",".join(MIG)}, 1, [*MIG]),
    ({"CUDA_VISIBLE_DEVICES": GPU}, 0, []),
    ({"SLURM_JOB_GPUS": "4,6"}, 8, ["4", "6"]),  # SLURM does not hide the other GPUs
    ({"SLURM_JOB_GPUS": "4,6", "SLURM_STEP_GPUS": "6"}, 8, ["6"]),
    ({"SLURM_JOB_GPUS": "4,6"}, 2, ["0", "1"]),  # SLURM hides them, and the numbers begin at 0
    ({"SLURM_JOB_GPUS": "4,6", "CUDA_VISIBLE_DEVICES": "1"}, 8, ["1"]),
])
def test_the_gpus_are_those_of_the_environment(environment, present, expected):
    assert visible_gpus(environment, present) == expected


@pytest.mark.parametrize("environment, count, local_rank, index", [
    ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2, 1, 1),  # numbers within the list
    ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2, 3, 1),  # more ranks than GPUs
    ({"CUDA_VISIBLE_DEVICES": "3"}, 1, 1, 0),  # a launcher that shows each rank a GPU of its own
    ({}, 4, 2, 2),
    ({"SLURM_STEP_GPUS": "4,6"}, 8, 1, 6),
    ({"SLURM_STEP_GPUS": "4,6"}, 2, 1, 1),
])
def test_each_rank_has_its_gpu(environment, count, local_rank, index):
    assert gpu_index(environment, count, local_rank) == index


def test_each_rank_names_its_own_slice_of_a_gpu():
    assert [own_slice({"CUDA_VISIBLE_DEVICES": ",".join(MIG)}, rank) for rank in (0, 1, 2)] == [MIG[0], MIG[1], MIG[0]]
    assert own_slice({"CUDA_VISIBLE_DEVICES": MIG[0]}, 0) is None
    assert own_slice({"CUDA_VISIBLE_DEVICES": "0,1"}, 0) is None and own_slice({}, 0) is None


def test_a_stage_that_asks_for_no_gpu_takes_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert choose_device(False, 1) == torch.device("cpu")
    assert choose_device(True, 1) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(True, 1) == torch.device("cpu")


def test_a_rank_shows_cuda_its_own_slice_before_cuda_is_asked(monkeypatch):
    import os

    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]) or True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(MIG))
    assert choose_device(True, 1) == torch.device("cuda", 0)
    assert seen == [MIG[1]]
