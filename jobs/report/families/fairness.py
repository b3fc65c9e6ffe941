"""What was not fair between families: what the records know of it, and what they do not."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs.quantities import amount
from jobs.report.families.members import Member
from jobs.report.families.sentences import figure_of, seconds_text
from jobs.report.samplings.ways import FID
from jobs.report.verdicts.points import label

SECTION = "train"
"""Every kind has the section."""
NOT_OF_LEARNING = {"log_interval", "save_interval", "keep_interval", "seed", "compile", "gradient_checkpointing", "microbatch",
                   "ema_snapshots"}
"""Keys of it that change no result, or only the random numbers."""


def settings_that_differ(members: Sequence[Member]) -> dict[str, list[str]]:
    """Return those keys of the section `train` in which members differ, each with the values of the members."""
    dumped = [getattr(member.spec, SECTION).model_dump() for member in members]
    keys = [key for key in dict.fromkeys(key for one in dumped for key in one) if key not in NOT_OF_LEARNING]
    found = {key: [label(one[key]) if key in one else "–" for one in dumped] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def not_fair(members: Sequence[Member]) -> list[str]:
    """Return sentences on parameters, computation, time and tuning."""
    return [*_known(members), *_unknown(members)]


def _known(members: Sequence[Member]) -> Iterator[str]:
    costs = {member.name: cost for member in members if (cost := member.run.cost)}
    yield from _range("Parameters, of all networks that are trained", {name: cost.parameters for name, cost in costs.items()},
                      lambda value: f"{value:,.0f}")
    yield from _range("Training, counted", {name: cost.training_flops for name, cost in costs.items()},
                      lambda value: f"{amount(value)}FLOP")
    yield from _range("Training, wall time", {member.name: seconds for member in members if (seconds := member.training_seconds)},
                      seconds_text)
    yield from _range("Images that training saw", {member.name: member.spec.train.iterations * member.spec.train.batch_size
                                                   for member in members}, lambda value: f"{value:,.0f}")
    yield from _tries(members)
    yield from _places(members)


def _tries(members: Sequence[Member]) -> Iterator[str]:
    """Of how many samplings the best one counts."""
    tries = {member.name: len(measured) for member in members
             if (measured := [way for way in member.ways if way.value(FID) is not None])}
    if len(set(tries.values())) > 1:
        each = ", ".join(f"{count} ({name})" for name, count in tries.items())
        yield (f"FID of a family is the lowest of its samplings: {each}. The lowest of several noisy values is "
               "too low by about the noise.")


def _range(what: str, values: dict[str, float], text: Callable[[float], str]) -> Iterator[str]:
    """The least and the most of what members spent."""
    if len(values) < 2:
        return
    least, most = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
    if values[least] == values[most]:
        yield f"{what}: {text(values[least])} in each."
    else:
        yield (f"{what}: {text(values[least])} ({least}) to {text(values[most])} ({most}), a factor of "
               f"{figure_of(values[most] / values[least])}.")


def _places(members: Sequence[Member]) -> Iterator[str]:
    """Where training ran: times on unlike devices do not compare."""
    devices: dict[str, Any] = {member.name: member.times["train"].device for member in members if "train" in member.times}
    if len(set(devices.values())) > 1:
        yield f"They were trained on unlike devices: {', '.join(f'{name} on {device}' for name, device in devices.items())}."


def _unknown(members: Sequence[Member]) -> Iterator[str]:
    differ = settings_that_differ(members)
    chosen = f"; they differ in {', '.join(differ)} of the section {SECTION}" if differ else ""
    yield (f"Tuning: the settings of each family were written by hand{chosen}. No record says how many settings were tried "
           "before these, nor how much better each family would become with more trials.")
    if not any(member.point.repeated for member in members):
        yield "Each family was trained with one seed. A GAN's result may change more with the seed than that of the others."
    yield ("Not known from the records: what else the machine did while wall times were taken, and whether more training would "
           "change the order. The curves over training time show which families were still improving.")
