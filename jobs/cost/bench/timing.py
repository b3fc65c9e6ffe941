"""Timing several pieces of work in turns, so that other load on the machine slows all of them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

Work = Callable[[], object]
"""Does one step."""
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Repeats:
    """How often each piece of work is timed."""

    rounds: int
    slice_s: float
    """Seconds for which a piece of work is repeated in each round, about."""


FULL, QUICK = Repeats(rounds=9, slice_s=0.4), Repeats(rounds=5, slice_s=0.12)


def rates_in_turns(works: Mapping[Name, Work], repeats: Repeats, device: torch.device) -> dict[Name, list[float]]:
    """Steps per second of each of `works` in each round. Each must have done its first, slow steps before."""
    steps = {name: max(1, round(repeats.slice_s / seconds_of(work, 1, device))) for name, work in works.items()}
    rates: dict[Name, list[float]] = {name: [] for name in works}
    for _ in range(repeats.rounds):
        for name, work in works.items():
            rates[name].append(steps[name] / seconds_of(work, steps[name], device))
    return rates


def seconds_of(work: Work, steps: int, device: torch.device) -> float:
    """Seconds that `steps` steps take, from an idle device until the device is idle again."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done everything that was started on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
