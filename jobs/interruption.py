"""Being asked to stop: a signal sets a flag, and all ranks leave at the same step."""

import signal

import torch
import torch.distributed as dist

# Ctrl-C, kill and scancel, a terminal that is closed, and SLURM's warning before a time limit or preemption.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class Interruption:
    """`requested` turns true when this process gets one of SIGNALS. Nothing else happens in the handler."""

    def __init__(self):
        self.requested = False
        self.by = ""
        """Name of the first signal; empty also where another rank got it."""
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            signal.signal(number, self._note)

    def _note(self, number, frame) -> None:
        self.requested, self.by = True, self.by or signal.Signals(number).name


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
