"""All ranks leave at the same step, whichever of them was asked to stop."""

import torch
import torch.distributed as dist

from jobs.parallel.group import Group
from jobs.parallel.interruption import Interruption


class Agreement:
    """Lets the ranks agree, step by step, whether one of them was asked to stop.

    Each call starts a reduction of the flags and answers with that of the call before, so that no step waits for
    the network; and it goes over the host, so that none waits for the device.
    """

    def __init__(self, interruption: Interruption):
        self.interruption = interruption
        self.group = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None
        self.pending: tuple[dist.Work, torch.Tensor] | None = None

    def to_stop(self) -> bool:
        """To be called once a step by every rank; the same answer on all."""
        if self.group is None:
            return self.interruption.requested
        stop = self.finish()
        flag = torch.tensor([float(self.interruption.requested)])
        self.pending = dist.all_reduce(flag, group=self.group, async_op=True), flag
        return stop

    def finish(self) -> bool:
        """The answer still under way; nothing is afterwards."""
        if self.pending is None:
            return False
        work, flag = self.pending
        self.pending = None
        work.wait()
        return bool(flag.item())

TELL_EVERY = 10  # steps between two words to the main rank about how far this one is


def asked_to_stop(group: Group, interruption: Interruption) -> bool:
    """Whether any rank was, so that all leave together: through the shared store, where no rank waits for another."""
    return group.store.add("asked_to_stop", int(interruption.requested)) > 0
