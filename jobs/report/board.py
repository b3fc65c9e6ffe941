"""A run's TensorBoard log read back: curves and the last pictures, without what an interrupted attempt wrote too far."""

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
        """Time spent in training steps, from the logged speed: without saving, previews and starting."""
        seen, speed = self.scalars.get("samples", {}), self.scalars.get("images_per_second", {})
        steps = sorted(step for step in seen if speed.get(step, 0) > 0)
        if not steps:
            return None
        images = [seen[step] for step in steps]
        return sum((after - before) / speed[step] for before, after, step in zip([0.0, *images], images, steps))


def read_board(folder: Path) -> BoardLog:
    """The log in `folder`, attempts in the order of their files. Raises whatever a broken file makes tensorboard raise."""
    log = BoardLog()
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.session_log.status == SessionLog.START:  # a new attempt: later points of earlier ones are void
                log.scalars = {tag: {step: value for step, value in points.items() if step < event.step}
                               for tag, points in log.scalars.items()}
            for value in event.summary.value:
                if value.HasField("image"):
                    log.pictures[value.tag] = event.step, value.image.encoded_image_string
                elif value.HasField("simple_value"):
                    log.scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return log
