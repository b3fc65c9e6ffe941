"""How fast work is done, from the recent work alone: what was slow an hour ago, or was preparation, says nothing of the rest."""

import time
from collections import deque

WINDOW_S, SPACING_S, LEAST = 60.0, 1.0, 6


class Pace:
    """Counts units of work by the clock. Time between `pause` and `resume` does not count."""

    def __init__(self):
        self.paused = 0.0
        self.pause_began: float | None = None
        self.points: deque[tuple[float, int]] = deque()

    def _now(self) -> float:
        """Seconds by a clock that stands still in pauses."""
        return (time.monotonic() if self.pause_began is None else self.pause_began) - self.paused

    def restart(self) -> None:
        """Forget what was counted: the work that follows is of another kind."""
        self.points.clear()

    def add(self, done: int) -> None:
        """Note that `done` units are done by now. The first call only starts the clock."""
        now = self._now()
        if len(self.points) > 1 and now - self.points[-2][0] < SPACING_S:
            self.points.pop()  # it was only there to be the newest
        self.points.append((now, done))
        while len(self.points) > LEAST and self.points[1][0] < now - WINDOW_S:
            self.points.popleft()

    def pause(self) -> None:
        """Stop the clock for a time in which other things are done."""
        if self.pause_began is None:
            self.pause_began = time.monotonic()

    def resume(self) -> None:
        """Let the clock run again."""
        if self.pause_began is not None:
            self.paused += time.monotonic() - self.pause_began
            self.pause_began = None

    def rate(self) -> float | None:
        """Units per second; None as long as nothing is known. Falls where no more units come."""
        if not self.points:
            return None
        (began, first), (ended, last) = self.points[0], self.points[-1]
        silent = self._now() - ended
        seconds = ended - began + (silent if silent > ended - began else 0.0)
        return (last - first) / seconds if last > first and seconds > 0 else None
