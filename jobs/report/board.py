"""Read a run's TensorBoard log: curves, and the last picture of each name.

An interrupted attempt may log more steps than it saves. The next attempt repeats these steps, so their first values are left out.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog


@dataclass
class BoardLog:
    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    """Tag -> step -> value."""
    pictures: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Tag -> the last step, and its PNG."""

    @property
    def training_seconds(self) -> float | None:
        """Time spent in training steps, by the logged speed. Without saving, previews and starting."""
        seen, speed = self.scalars.get("samples", {}), self.scalars.get("images_per_second", {})
        steps = sorted(step for step in seen if speed.get(step, 0) > 0)
        if not steps:
            return None
        before = [0.0, *(seen[step] for step in steps[:-1])]
        return sum((seen[step] - earlier) / speed[step] for step, earlier in zip(steps, before, strict=True))


def board_files(folder: Path) -> list[Path]:
    """The files of the log in `folder`, in the order in which they were written."""
    return sorted(folder.glob("events.out.tfevents.*"))


def read_board(folder: Path) -> BoardLog:
    """Read the log in `folder`. A broken file raises whatever tensorboard raises."""
    log = BoardLog()
    for file in board_files(folder):
        add_events(log, file)
    return log


def add_events(log: BoardLog, file: Path) -> None:
    """Add what is in `file` to `log`. What stands before a broken place is added before tensorboard raises for it."""
    for event in LegacyEventFileLoader(str(file)).Load():
        if event.session_log.status == SessionLog.START:  # a new attempt, which repeats the steps from here
            log.scalars = {tag: {step: value for step, value in points.items() if step < event.step}
                           for tag, points in log.scalars.items()}
        for value in event.summary.value:
            if value.HasField("image"):
                log.pictures[value.tag] = event.step, value.image.encoded_image_string
            elif value.HasField("simple_value"):
                log.scalars.setdefault(value.tag, {})[event.step] = value.simple_value
