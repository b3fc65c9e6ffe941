"""Processes that talk to each other on the GPU."""

import pytest
import torch
import torch.distributed as dist
from on_gpu import GPUS, needs_gpu, only_gpu
from small_runs import logs

from jobs.parallel.group import gather_rows, process_group
from jobs.parallel.node_check import check_nodes, wrong_product, wrong_sum

pytestmark = needs_gpu


@only_gpu
def test_a_group_of_one_computes_on_the_gpu_over_nccl(group, device):
    assert group.device.type == device.type and group.device_name == torch.cuda.get_device_name()
    check_nodes(group)
    numbers = torch.arange(8.0, device=group.device)
    dist.all_reduce(numbers)
    dist.broadcast(numbers, 0)
    assert torch.equal(numbers.cpu(), torch.arange(8.0)) and torch.equal(gather_rows(numbers), numbers)
    assert dist.get_backend_config() == "cpu:gloo,cuda:nccl" and wrong_product(group.device) == "" == wrong_sum(group)


def test_the_cpu_is_used_where_no_gpu_is_asked_for(tmp_path):
    with process_group(tmp_path / "meeting", threads=1, gpu=False) as group:
        assert group.device.type == "cpu"


def test_two_processes_that_share_a_device_train(make_gpu_run, ranks):
    run = make_gpu_run("resources.train.tasks_per_node=2", "evaluate.nll_examples=0")
    assert ranks(run, "train", 2) == 0, logs(run)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_two_gpus_train_over_nccl(make_run, ranks):
    run = make_run("resources.train.gpus_per_node=2", "evaluate.nll_examples=0")
    assert ranks(run, "train", 2) == 0, logs(run)
