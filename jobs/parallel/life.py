"""Signs of life: a rank that waits for others waits for as long as they live, and no longer.

A collective of torch.distributed ends with an error after a fixed time, however well the other ranks do: too early for the last
chunk of samples on a slow device, or for what the main rank does alone. So ranks first meet here, through the shared store, and
then start the collective, for which all of them are ready.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from jobs.errors import StageFailed
from jobs.storage.machine import is_gone, this_machine

BEAT_S = 2.0
SILENT_S = 300.0
"""A rank whose process gave no sign for so long is gone: killed, or its node is lost."""
STILL_S = 3600.0
"""A rank whose process lives, but which was at the same place of the program all the time, hangs."""
LOOK_S = 1.0
LAST_WORDS_S = 5.0
"""How long rank 0, when it fails, lets the others read why: an error of `on_main` is raised on all of them."""


class Life:
    """Tells the other ranks that this one lives, and looks after them. One for each process group."""

    def __init__(self, store: dist.Store, rank: int, world_size: int):
        self.store, self.rank, self.world_size = store, rank, world_size
        self.meetings, self.steps = 0, 0
        self.ended = threading.Event()
        store.set(f"life/{rank}/who", json.dumps([this_machine(), os.getpid(), os.uname().nodename]))
        self.thread = threading.Thread(target=self._beats, name="life", daemon=True)
        self.thread.start()

    def _beats(self) -> None:
        """Count beats, and those before which the main thread got on, in the store."""
        before = None
        while not self.ended.wait(BEAT_S):
            frame = sys._current_frames().get(threading.main_thread().ident or 0)
            place = frame and (self.steps, id(frame), frame.f_lasti)
            try:
                self.store.add(f"life/{self.rank}/beats", 1)
                if place != before:
                    self.store.add(f"life/{self.rank}/moves", 1)
            except RuntimeError:  # the store is gone, and with it the stage
                return
            before = place

    def meet(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Return when all ranks have called `meet` as often as this one. Calls `meanwhile` now and then.

        Raises StageFailed ("node or network") if a rank that is missing left, died or hangs.
        """
        self.meetings += 1
        place = f"life/meeting/{self.meetings}"
        self.store.add(f"life/{self.rank}/meetings", 1)
        if self.store.add(place, 1) < self.world_size:
            self._wait(lambda: self.store.add(place, 0) >= self.world_size, self._missing, meanwhile)

    def _missing(self) -> list[int]:
        return [rank for rank in range(self.world_size) if self.store.add(f"life/{rank}/meetings", 0) < self.meetings]

    def _wait(self, reached: Callable[[], bool], missing: Callable[[], list[int]], meanwhile: Callable[[], object]) -> None:
        watched: dict[tuple[int, str], tuple[int, float]] = {}
        pause, looked = 0.001, time.monotonic()
        while not reached():
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
            if time.monotonic() - looked >= LOOK_S:
                meanwhile()
                for rank in missing():
                    self._look_after(rank, watched)
                looked = time.monotonic()

    def _look_after(self, rank: int, watched: dict[tuple[int, str], tuple[int, float]]) -> None:
        """Raise StageFailed if `rank` left, died or hangs. `watched`: its counters, and since when they stand still."""
        if self.store.add(f"life/{rank}/left", 0):
            raise StageFailed(f"rank {rank} ended with an error; its log has more", kind="node or network")
        machine, pid, node = json.loads(self.store.get(f"life/{rank}/who"))
        if is_gone(machine, pid):
            raise StageFailed(f"rank {rank} (process {pid} on {node}) died", kind="node or network")
        for name, limit, words in (("beats", SILENT_S, "gave no sign of life"), ("moves", STILL_S, "hangs: no step")):
            count, now = self.store.add(f"life/{rank}/{name}", 0), time.monotonic()
            if watched.get((rank, name), (None, 0.0))[0] != count:
                watched[rank, name] = count, now
            elif now - watched[rank, name][1] > limit:
                raise StageFailed(f"rank {rank} (process {pid} on {node}) {words} for {limit / 60:.0f} minutes",
                                  kind="node or network")

    def leave(self, well: bool) -> None:
        """Tell the others that this rank ends. The store lives with rank 0, which waits until the others need it no more."""
        try:
            if not well:
                self.store.add(f"life/{self.rank}/left", 1)
            self.store.add(f"life/{self.rank}/out", 1)
            if self.store.add("life/out", 1) < self.world_size and self.rank == 0:
                deadline = time.monotonic() + (math.inf if well else LAST_WORDS_S)
                with suppress(StageFailed):  # this rank's work is done
                    self._wait(lambda: self.store.add("life/out", 0) >= self.world_size or time.monotonic() > deadline,
                               self._still_in, lambda: None)
        except RuntimeError:  # rank 0 is gone
            pass
        finally:
            self.ended.set()
            self.thread.join(BEAT_S)

    def _still_in(self) -> list[int]:
        return [rank for rank in range(1, self.world_size) if not self.store.add(f"life/{rank}/out", 0)]


_ours: Life | None = None
"""Of the process group of this process."""


@contextmanager
def signs_of_life(store: dist.Store, rank: int, world_size: int) -> Iterator[None]:
    """Give signs of life to the other ranks while the block lasts."""
    global _ours
    if world_size == 1:
        yield
        return
    _ours, well = Life(store, rank, world_size), False
    try:
        yield
        well = True
    finally:
        life, _ours = _ours, None
        life.leave(well)


def meet(meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait until all ranks are here, for as long as those that are missing live. Calls `meanwhile` now and then.

    Raises StageFailed where a missing rank ended, died or hangs.
    """
    if _ours is not None:
        _ours.meet(meanwhile)


def step_done() -> None:
    """Note that this rank got on by a step."""
    if _ours is not None:
        _ours.steps += 1
