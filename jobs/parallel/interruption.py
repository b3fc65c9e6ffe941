"""Set a flag when a signal asks this process to stop. No torch here, because a signal may come while torch is loading."""

import signal
from types import FrameType

# Ctrl-C, kill and scancel, a terminal that is closed, and SLURM's warning before a time limit or preemption.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
STOPS = ("SIGTERM", "SIGINT")


class Interruption:
    """`requested` turns true when this process gets one of SIGNALS. Nothing else happens in the handler."""

    def __init__(self):
        self.requested = False
        self.by = ""
        """Name of the first signal, or of the first of STOPS: after it the job must not start again. Stays empty if only another
        rank got a signal."""
        for number in SIGNALS:
            if number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup, or in the background by a script
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.by or name in STOPS and self.by not in STOPS:
            self.by = name
        self.requested = True


class Stopped(Exception):
    """Raised on all ranks when the stage was asked to stop."""
