"""`sample.guidance` of a spec: one of three kinds, and what rules each out."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from jobs.spec.fields import Count, EmaRate
from jobs.spec.references import TrainedRun
from jobs.spec.sections import Section


def _interval(value: Any) -> Any:
    if (isinstance(value, list) and len(value) == 2 and all(type(end) in (int, float) for end in value)
            and 0 <= value[0] < value[1] < float("inf")):
        return [float(end) for end in value]
    raise ValueError("must be [low, high] with 0 <= low < high, in sigma = sqrt((1 - alpha_bar) / alpha_bar), such as [0.3, 3]")


Scale = Annotated[float, Field(ge=0, le=1_000_000)]
Interval = Annotated[list[float], BeforeValidator(_interval)]


class ClassifierFree(Section):
    """Ho & Salimans 2022: the network with the class against the network without one."""

    UNGUIDED: ClassVar[float] = 1.0
    """The scale that is no guidance."""

    kind: Literal["classifier_free"]
    scale: Scale
    """1: no guidance; the paper's w is scale - 1."""
    interval: Interval | None = None
    """Noise levels sigma at which there is guidance, ends included; null: all."""

    @property
    def strength(self) -> float:
        """0: no guidance."""
        return self.scale - self.UNGUIDED


class ClassifierGuidance(Section):
    """Dhariwal & Nichol 2021: the gradient of a classifier of noisy images."""

    UNGUIDED: ClassVar[float] = 0.0

    kind: Literal["classifier"]
    run: TrainedRun
    """A run of kind: noisy_classifier."""
    scale: Scale
    """0: no guidance."""
    interval: Interval | None = None
    """As in classifier-free guidance."""

    @property
    def strength(self) -> float:
        """0: no guidance."""
        return self.scale - self.UNGUIDED


class Autoguidance(Section):
    """Karras et al. 2024: the network against a weaker one of the same task."""

    UNGUIDED: ClassVar[float] = 1.0

    kind: Literal["autoguidance"]
    run: TrainedRun | None = None
    """The run of the weaker network; null: this run."""
    at: Count | None = None
    """Training step of the weaker network, whose checkpoint is kept for good; null: the last one of its run."""
    ema_rate: EmaRate | None = None
    """The average of the weaker network; null: as sample.ema_rate, that of the other run where `run` names one."""
    scale: Scale
    """1: no guidance."""
    interval: Interval | None = None
    """As in classifier-free guidance."""

    @property
    def strength(self) -> float:
        """0: no guidance."""
        return self.scale - self.UNGUIDED


Guidance = Annotated[ClassifierFree | ClassifierGuidance | Autoguidance, Field(discriminator="kind")]
