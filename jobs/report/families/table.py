"""The numbers of each family side by side: of quality, of a sample's price, and of training."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.report.cost import growths
from jobs.report.diffusion_facts import layers_of
from jobs.report.families.members import Member
from jobs.report.samplings.ways import FID, Way

DOUBLED = ("image size", "num_channels", "image channels")
"""The first words of what `growths` doubles."""


@dataclass(frozen=True)
class Line:
    """One member at its sampling with the lowest FID. None: no such number, or not measured."""

    member: Member
    way: Way | None
    fid: float | None
    forward_flops: int | None
    """Of the network that samples, one image."""
    sample_flops: float | None
    """Of one sample: an evaluation of a guide counts by the FLOP of the guide's own network."""
    sample_seconds: float | None
    """Of one process, for one sample."""
    parameters: int | None
    """Of the network that samples."""
    trained_parameters: int | None
    """Of all networks that are trained."""
    step_flops: int | None
    step_seconds: float | None
    training_flops: int | None
    training_seconds: float | None
    growth: tuple[float | None, ...]
    """The factor by which forward_flops grow when each of DOUBLED doubles."""


def lines_of(members: Sequence[Member]) -> list[Line]:
    return [_line(member) for member in members]


def _line(member: Member) -> Line:
    cost, way = member.run.cost, member.best or next(iter(member.ways), None)
    grown = {growth.doubled: growth.flops for growth in growths(member.spec)}
    growth = tuple(next((flops for what, flops in grown.items() if what.startswith(name)), None) for name in DOUBLED)
    return Line(member, way, way.value(FID) if way else None, cost.forward_flops if cost else None,
                cost.forward_flops * way.first.worth if cost and way else None, way.process_seconds if way else None,
                sampling_parameters(member), cost.parameters if cost else None, cost.training_step_flops if cost else None,
                member.step_seconds, cost.training_flops if cost else None, member.training_seconds, growth)


def sampling_parameters(member: Member) -> int:
    """Return the parameters of the network that samples."""
    return sum(layer.parameters for layer in layers_of(member.spec))
