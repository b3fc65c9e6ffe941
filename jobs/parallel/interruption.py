"""Being asked to stop: a signal sets a flag. No torch here: a signal may come while that is still loading."""

import signal

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


class Stopped(Exception):
    """The stage was asked to stop, and all ranks leave here."""
