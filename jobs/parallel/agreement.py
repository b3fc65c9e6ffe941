"""Let all ranks stop together when one of them was asked to.

Two ways: `Agreement` for training, where all ranks must stop after the same step; `asked_to_stop` for work in which ranks go
at their own pace, and need not wait for each other.
"""

import torch
import torch.distributed as dist

from jobs.parallel.group import COLLECTIVE_TIMEOUT, Group
from jobs.parallel.interruption import Interruption

TELL_EVERY = 10  # steps after which a rank reports its progress to the main rank, and asks whether to stop


class Agreement:
    """Lets the ranks agree, at each step, whether one of them was asked to stop.

    Each call starts a reduction of the ranks' flags and returns the result of the call before, so that no step waits for the
    network. The reduction runs on the CPU, so that no step waits for the GPU.
    """

    def __init__(self, interruption: Interruption):
        self.interruption = interruption
        self.group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if dist.get_world_size() > 1 else None
        self.pending: tuple[dist.Work, torch.Tensor] | None = None

    def to_stop(self) -> bool:
        """Whether to stop now. Every rank calls this once a step, and all get the same answer."""
        if self.group is None:
            return self.interruption.requested
        stop = self.finish()
        flag = torch.tensor([float(self.interruption.requested)])
        self.pending = dist.all_reduce(flag, group=self.group, async_op=True), flag
        return stop

    def finish(self) -> bool:
        """Wait for the reduction that is still running and return its result; False if none is running."""
        if self.pending is None:
            return False
        work, flag = self.pending
        self.pending = None
        work.wait()
        return bool(flag.item())


def asked_to_stop(group: Group, interruption: Interruption) -> bool:
    """Whether any rank was asked to stop. Ranks tell each other through the shared store, and none waits for another."""
    return group.store.add("asked_to_stop", int(interruption.requested)) > 0
