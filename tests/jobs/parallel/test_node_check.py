"""The check of the nodes: what passes, what fails, and who is told. Broken hardware is made up."""

import subprocess
import sys

import pytest
import torch

from jobs.parallel import node_check
from jobs.parallel.node_check import check_nodes, known_product, trouble_of, wrong_product
from jobs.run.failures import failure_kind, read_failure
from jobs.stage import run_stage

GPU, OTHER = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-00000000-d72c-4106-c12f-20bd9faed9f6"


def test_the_known_product_is_exact_in_half_precision_too():
    left, right, weights, expected = known_product(64)
    product = left.to(torch.bfloat16).double() @ right.to(torch.float16).double()
    assert torch.equal(product @ weights.double(), expected.double())
    assert len(left.unique()) == len(right.unique()) == 17 and left.abs().max() == 8
    assert wrong_product(torch.device("cpu")) == ""


@pytest.mark.parametrize("row, column", [(0, 0), (17, 200), (255, 255)])
def test_one_wrong_number_of_a_product_is_noticed(monkeypatch, row, column):
    def broken(left, right, product=torch.Tensor.matmul):
        out = product(left, right)
        if out.dtype == torch.float32:
            out[row, column] += 1
        return out
    monkeypatch.setattr(torch.Tensor, "__matmul__", broken)
    assert wrong_product(torch.device("cpu")) == "a product of known numbers comes out wrong on its CPU"


@pytest.mark.parametrize("answers, expected", [
    ((f"{GPU}, 0\n{OTHER}, 7", f"{GPU}, No, No\n{OTHER}, Yes, Yes"), ""),  # another job's GPU
    ((f"{OTHER}, 0\n{GPU}, 2\n", ""), "its GPU counts uncorrected memory errors: 2"),
    ((f"{GPU}, 0", f"{GPU}, Yes, No"), "its GPU waits for a reset to replace faulty memory"),
    ((f"{GPU}, 0", f"{GPU},1,0"), "its GPU waits for a reset to replace faulty memory"),
    ((f"{GPU}, 0", f"{GPU}, No, Yes"), "its GPU could not replace faulty memory"),
    ((f"{GPU}, [N/A]", f"{GPU}, [N/A], [N/A]"), ""),
    (("", ""), ""),
    (("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "Unable to determine the handle"), ""),
    ((f"{GPU}", f"{GPU}, "), "")])
def test_what_the_counters_of_a_gpu_say(answers, expected):
    assert trouble_of(GPU, answers) == expected


@pytest.mark.parametrize("program, expected", [
    ("echo $1 $2", "--query-gpu=x --format=csv,noheader\n"), ("echo x; exit 2", ""), ("exec sleep 60", ""), (None, "")])
def test_nvidia_smi_may_fail_hang_or_be_missing(tmp_path, monkeypatch, program, expected):
    monkeypatch.setattr(node_check, "ANSWER_S", 0.5)
    if program:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert node_check._nvidia_smi("--query-gpu=x") == expected


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_a_node_that_fails_the_check_fails_every_stage_before_it_computes(make_run, monkeypatch, stage):
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setattr(node_check, "wrong_product", lambda device: "a product of known numbers comes out wrong on its CPU")
    for name in ("jobs.training.loop.train", "jobs.sampling.loop.sample", "jobs.evaluation.evaluate.evaluate"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("computed"))
    run = make_run()
    outcome = run_stage(stage, str(run.path), "meeting")
    failure = read_failure(run.path)
    assert outcome["state"] == "failed" and "Traceback" not in outcome["message"]
    assert (failure.kind, failure.host, failure.traceback) == ("hardware", "n7", "")
    assert "n7: a product of known numbers comes out wrong" in failure.message
    assert "avoid the node" in failure.next_step(run.path)


def test_a_wrong_sum_is_noticed(group, monkeypatch):
    right = node_check.dist.all_reduce
    assert node_check.wrong_sum(group) == ""
    monkeypatch.setattr(node_check.dist, "all_reduce", lambda numbers: (right(numbers), numbers[5].add_(1)))
    assert "comes out wrong" in node_check.wrong_sum(group)


RANKS = """
import os, sys
from pathlib import Path
from jobs.errors import StageFailed
from jobs.parallel import node_check
from jobs.parallel.group import process_group

for rank in range(3):
    if not os.fork():
        os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value)
                       for key, value in {"GLOBALID": rank, "LOCALID": rank, "NTASKS": 3}.items()}
        os.environ["SLURMD_NODENAME"] = f"n{rank}"
        with process_group(Path(sys.argv[1]), 1) as group:
            node_check.check_nodes(group)
            if rank == 1:
                node_check.gpu_trouble = lambda device: "its GPU is tired"
            try:
                node_check.check_nodes(group)
            except StageFailed as error:
                assert (error.kind, error.node) == ("hardware", "n1") and "n1: its GPU is tired" in str(error), error
                sys.exit(0)
        sys.exit(1)
print(*(os.wait()[1] for _ in range(3)))
"""


@pytest.mark.slow
def test_all_ranks_hear_of_the_node_of_one(tmp_path):
    command = [sys.executable, "-c", RANKS, str(tmp_path / "meeting")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout == "0 0 0\n"


@pytest.mark.parametrize("message, kind", [
    ("CUDA error: uncorrectable ECC error encountered", "hardware"),
    ("NCCL error: unhandled cuda error, uncorrectable NVLink error detected during the execution", "hardware"),
    ("CUDA error: hardware stack error", "hardware"),
    ("Unable to determine the device handle for GPU: GPU is lost", "hardware"),
    ("NCCL error: remote process exited or there was a network error", "node or network"),  # another rank, or the network
    ("CUDA error: unspecified launch failure", "node or network"),
    ("Connection closed by peer", "node or network"),
    ("CUDA out of memory", "out of GPU memory"),
])
def test_errors_that_smell_of_hardware(message, kind):
    assert failure_kind(RuntimeError(message)) == kind


def test_a_group_of_one_passes(group):
    check_nodes(group)
