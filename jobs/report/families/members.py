"""The members of a study of several families: settings of the sweep that draw samples, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jobs.report.board import BoardLog
from jobs.report.cost import StageTime
from jobs.report.run import RunReport
from jobs.report.samplings.ways import FID, Way
from jobs.report.verdicts.points import Point
from jobs.spec.kinds import draws_samples, kind_of
from jobs.spec.sections import Spec


@dataclass(frozen=True, eq=False)
class Member:
    """One setting, with its ways to sample. Its runs differ in seeds alone."""

    point: Point
    title: str
    """Of its family: "GAN"."""
    ways: Sequence[Way]
    """By the weights of the last step; the main one first, none before the evaluation."""
    log: BoardLog | None
    times: Mapping[str, StageTime]
    """Of its first run, by stage."""

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def run(self) -> RunReport:
        """The first of its runs, which has a spec."""
        return self.point.runs[0]

    @property
    def spec(self) -> Spec:
        return self.run.known_spec

    @cached_property
    def best(self) -> Way | None:
        """The way with the lowest FID; None where no way has one."""
        measured = [(value, number, way) for number, way in enumerate(self.ways) if (value := way.value(FID)) is not None]
        return min(measured)[2] if measured else None

    @cached_property
    def step_seconds(self) -> float | None:
        """Wall time of a training step at the median logged speed; None where no speed is logged."""
        speeds = sorted(self.log.scalars.get("images_per_second", {}).values()) if self.log else []
        return self.spec.train.batch_size / speeds[len(speeds) // 2] if speeds and speeds[len(speeds) // 2] > 0 else None

    @property
    def training_seconds(self) -> float | None:
        """Wall time of all attempts at training together."""
        return self.times["train"].seconds if "train" in self.times else None


def members_of(points: Iterable[Point], ways: Mapping[str, Sequence[Way]], logs: Mapping[str, BoardLog],
               times: Mapping[str, Mapping[str, StageTime]]) -> list[Member]:
    """Return the members where the study has several families, else nothing.

    Kinds of model are families. So are objectives of one kind, where each setting has its own: otherwise the question of the
    sweep is what its settings do.
    """
    drawing = [point for point in points if (spec := point.runs[0].spec) and draws_samples(spec)]
    members = [_member(point, ways, logs, times) for point in drawing]
    kinds, titles = {member.spec.kind for member in members}, {member.title for member in members}
    return members if len(kinds) > 1 or len(titles) == len(members) > 1 else []


def _member(point: Point, ways: Mapping[str, Sequence[Way]], logs: Mapping[str, BoardLog],
            times: Mapping[str, Mapping[str, StageTime]]) -> Member:
    run = point.runs[0]
    own = [way for members in ways.values() for way in members if way.first.run in point.runs]
    return Member(point, kind_of(run.known_spec).description(run.known_spec).title, own, logs.get(run.name), times[run.name])
