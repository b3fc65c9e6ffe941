"""A check of the nodes before a stage computes: a known product, a known sum over all ranks, the GPU's own error counters.

It takes a second or two with a GPU, and milliseconds on a CPU. A faulty node would otherwise show after hours, or in the weights.
"""

import re
import subprocess
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from jobs.errors import StageFailed
from jobs.parallel.devices import node_name
from jobs.parallel.group import Group

# By type of device: rows of the product, seconds for which the product is repeated, numbers in the sum over ranks.
SIZES, SECONDS, SUMMED = {"cpu": 256, "cuda": 4096}, {"cpu": 0.0, "cuda": 1.0}, {"cpu": 4096, "cuda": 2 ** 20}
ANSWER_S = 5  # nvidia-smi may hang where a GPU is broken
COUNTERS = ("--query-gpu=uuid,ecc.errors.uncorrected.volatile.total",
            "--query-remapped-rows=gpu_uuid,remapped_rows.pending,remapped_rows.failure")


def check_nodes(group: Group) -> None:
    """Raise StageFailed on every rank, with the names of the nodes, if the check fails on any."""
    problem = wrong_product(group.device) or gpu_trouble(group.device)
    _raise_for(problem)
    if group.world_size > 1:
        _raise_for(wrong_sum(group))


def _raise_for(problem: str) -> None:
    """Raise StageFailed on every rank if any of them has a problem ("" for none)."""
    found: list = [None] * dist.get_world_size()
    dist.all_gather_object(found, (node_name(), problem))
    by_node = {node: its_problem for node, its_problem in found if its_problem}
    if by_node:
        said = "; ".join(f"{node}: {its_problem}" for node, its_problem in by_node.items())
        raise StageFailed(f"the check of the nodes failed: {said}", kind="hardware", node=",".join(by_node))


def known_product(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(left, right, weights, expected): whole numbers for which left @ right @ weights = expected, exactly.

    left and right int64 [size, size] are at most 8, so that their product is exact in every precision that a device has.
    """
    row = torch.arange(size)
    left = (7 * row[:, None] ** 2 + 13 * row + row[:, None] * row) % 17 - 8
    right = (5 * row[:, None] + 3 * row ** 2 + row[:, None] * row) % 17 - 8
    weights = row % 1021 + 1
    return left, right, weights, left @ (right @ weights)


def wrong_product(device: torch.device) -> str:
    """What is wrong with products on `device`; "" if nothing is."""
    numbers = known_product(SIZES[device.type])
    left, right = (each.float().to(device) for each in numbers[:2])
    weights, expected = (each.double().to(device) for each in numbers[2:])
    deadline = time.monotonic() + SECONDS[device.type]
    while True:
        if not torch.equal((left @ right).double() @ weights, expected):
            return f"a product of known numbers comes out wrong on its {'GPU' if device.type == 'cuda' else 'CPU'}"
        if time.monotonic() >= deadline:
            return ""


def wrong_sum(group: Group) -> str:
    """What is wrong with sums over all ranks; "" if nothing is."""
    numbers = torch.arange(SUMMED[group.device.type], dtype=torch.float64, device=group.device) % 1000
    found = numbers * (group.rank + 1)
    dist.all_reduce(found)
    right = torch.equal(found, numbers * (group.world_size * (group.world_size + 1) // 2))
    return "" if right else "a sum of known numbers over all ranks comes out wrong"


def gpu_trouble(device: torch.device) -> str:
    """What the counters of this rank's GPU say; "" on a CPU, and where nvidia-smi does not answer."""
    if device.type != "cuda":
        return ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return trouble_of(f"GPU-{uuid}", [_nvidia_smi(query) for query in COUNTERS])


def trouble_of(gpu: str, answers: Sequence[str]) -> str:
    """What nvidia-smi's answers to COUNTERS say about the GPU of that name; "" if nothing is wrong or the GPU is not there."""
    rows = [re.split(r",\s*", line.strip()) for answer in answers for line in answer.splitlines()]
    errors, remapped = ([row[1:] for row in rows if row[0] == gpu and len(row) == length] for length in (2, 3))
    for (count,) in errors:
        if count.isdecimal() and int(count):
            return f"its GPU counts uncorrected memory errors: {count}"
    for pending, failure in remapped:
        if failure.lower() in ("yes", "1"):
            return "its GPU could not replace faulty memory"
        if pending.lower() in ("yes", "1"):
            return "its GPU waits for a reset to replace faulty memory"
    return ""


def _nvidia_smi(query: str) -> str:
    try:
        done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, errors="replace",
                              timeout=ANSWER_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if done.returncode else done.stdout
