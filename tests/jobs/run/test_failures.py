"""Failures are sorted by kind and kept in failure.json."""

import time

import pytest
import torch
import torch.distributed as dist

from jobs.errors import StageFailed, UserError
from jobs.run.failures import NEXT, Failure, describe, failure_kind, read_failure, remove_failure, write_failure


@pytest.mark.parametrize("error, kind", [
    (UserError("data.h5: missing"), "bad input"),
    (StageFailed("not finite", kind="diverged"), "diverged"),
    (StageFailed("whatever"), "error"),
    (MemoryError(), "out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of GPU memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    (dist.DistBackendError("NCCL error"), "node or network"),
    (RuntimeError("[/pytorch/gloo] Connection closed by peer [127.0.0.1]:1"), "node or network"),
    (OSError(5, "Input/output error"), "node or network"),
    (ValueError("shapes differ"), "error")])
def test_errors_are_sorted_and_each_kind_has_a_next_step(error, kind):
    assert failure_kind(error) == kind
    assert "{" not in describe(error, "train", 3, "n1", 0).next_step("runs/a/b") and kind in NEXT


def raised(value) -> Exception:
    try:
        raise ValueError(f"shape {value} of /data/{value}.h5 does not fit")
    except ValueError as error:
        return error


def test_failures_of_one_cause_have_one_signature():
    first, second = (describe(raised(value), "train", 3, "n1", 0) for value in (12, 13))
    assert first.signature == second.signature and "does not fit" in first.signature
    assert first.message == "ValueError: shape 12 of /data/12.h5 does not fit" and "raise ValueError" in first.traceback
    assert describe(raised(12), "sample", 3, "n1", 0).signature != first.signature
    assert describe(ValueError("shape"), "train", 3, "n1", 0).signature != first.signature
    assert describe(UserError("one\ntwo"), "train", None, "n1", 0).message == "one"


def test_lost_connections_of_other_ranks_do_not_replace_the_failure_that_caused_them(tmp_path):
    def failure(kind, stage="train") -> Failure:
        return Failure(stage, kind, kind, "", 3, "n1", 0, time.time())
    write_failure(tmp_path, failure("node or network"))
    write_failure(tmp_path, failure("error"))
    write_failure(tmp_path, failure("node or network"))
    assert read_failure(tmp_path).kind == "error"
    write_failure(tmp_path, failure("node or network", stage="sample"))
    assert read_failure(tmp_path).stage == "sample"
    remove_failure(tmp_path)
    assert read_failure(tmp_path) is None
    (tmp_path / "failure.json").write_text("{")
    assert read_failure(tmp_path) is None
