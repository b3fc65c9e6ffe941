"""Types of a spec's fields and sections: what a value may be, and the message where it is something else."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema

from jobs.errors import UserError
from jobs.quantities import clock, wall_time_s
from jobs.storage.paths import expanded


@dataclass(frozen=True)
class OneOf:
    """Marks a text field that takes one of the `names` of a table: Annotated[str, OneOf(SAMPLERS)]."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


@dataclass(frozen=True)
class OfAllSamplings:
    """Marks a key of `sample` that all samplings of a run share, and says why: evaluate.samplings must not name it."""

    reason: str


def _integral(value: Any) -> Any:
    """Read 5e5, a float in YAML, as the count 500000."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _respacing_text(value: Any) -> Any:
    """Read `timestep_respacing: 250` as "250"."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _plain_text(value: str) -> str:
    if re.search("[\x00-\x1f\x7f-\x9f]", value):
        raise ValueError("control characters (newline, tab, ...) are not allowed")
    return value


def _expanded(path: str) -> str:
    try:
        return expanded(path)
    except UserError as error:
        raise ValueError(str(error)) from error


def is_name(value: Any) -> bool:
    """Return whether `value` may name a study or a run."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    return value


def _training_step(value: Any) -> Any:
    value = _integral(value)
    if value == "last" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("must be a training step (1, 2, ...) or last")


def _nodes(value: Any) -> Any:
    """Read "1-4" as a range of nodes, and "4-4" as 4."""
    value = _integral(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    ends = re.fullmatch(r"0*(\d{1,6})-0*(\d{1,6})", value) if isinstance(value, str) else None
    if ends and 1 <= int(ends[1]) <= int(ends[2]):
        return value if int(ends[1]) < int(ends[2]) else int(ends[1])
    raise ValueError("must be a number of nodes (1, 2, ...) or a range such as 1-4")


def _compile(value: Any) -> Any:
    if value is False or value in ("blocks", "default", "max-autotune"):
        return value
    raise ValueError("must be false, blocks, default or max-autotune")


def _clipping(value: Any) -> Any:
    if isinstance(value, bool) or value == "dynamic":
        return value
    raise ValueError("must be true, false or dynamic")


def _gradient_checkpointing(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, list) and value and all(type(entry) is int for entry in value)):
        return value
    raise ValueError("must be true, false or a list of resolutions, such as [32, 16]")


def _wall_time(value: Any) -> Any:
    """Read a time in one of SLURM's forms, in seconds, as h:mm:ss."""
    if not isinstance(value, int | str) or isinstance(value, bool):
        return value
    seconds = wall_time_s(str(value))
    if seconds is None:
        raise ValueError('write time as SLURM does: "2:30:00" is hours, "30:00" or 30 is minutes, "1-12" is days-hours; '
                         'a job needs a limit')
    if not 60 <= seconds <= MAX_TIME_S:
        raise ValueError("must be between one minute and 365 days")
    return clock(seconds)


MOST = 10 ** 12  # of anything countable: beyond every use, and small enough for exact arithmetic
MAX_TIME_S = 365 * 86400
Count = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=MOST)]
Seed = Annotated[int, BeforeValidator(_integral), Field(ge=0, lt=2 ** 63)]
Gigabytes = Annotated[float, Field(ge=0, le=1_000_000)]
"""Memory of a node. 0: all that the node has, as SLURM understands --mem=0."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Line = Annotated[str, AfterValidator(_plain_text), Field(max_length=4096)]
Text = Annotated[Line, Field(min_length=1)]
File = Annotated[Text, AfterValidator(_expanded)]
"""A path, with ~ and ~user replaced, or a name that stands for one, such as `digits`."""
Name = Annotated[str, AfterValidator(_name)]
EmaRate = Annotated[float, Field(gt=0, lt=1)]
SigmaRel = Annotated[float, Field(ge=1e-6, lt=0.2886)]
"""The length of a power-function average as a share of training; the mean of all weights has 0.2887."""
Nodes = Annotated[int | str, BeforeValidator(_nodes)]
TrainingStep = Annotated[int | Literal["last"], BeforeValidator(_training_step)]
Compile = Annotated[Literal[False, "blocks", "default", "max-autotune"], BeforeValidator(_compile)]
Clipping = Annotated[bool | Literal["dynamic"], BeforeValidator(_clipping)]
GradientCheckpointing = Annotated[bool | list[int], BeforeValidator(_gradient_checkpointing)]
Respacing = Annotated[str, BeforeValidator(_respacing_text), AfterValidator(_plain_text), Field(max_length=4096)]
WallTime = Annotated[str, BeforeValidator(_wall_time)]
"""How long a job may take: read in SLURM's forms, kept as h:mm:ss."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    younger: ClassVar[frozenset[str]] = frozenset()
    """Keys that some samples were made without. Their defaults are what was done before the keys existed."""

    def identity(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return these settings, but `exclude`, as part of the samples' identity: younger keys only where they differ from their
        defaults, so that older samples stay what they are."""
        defaults = {key: type(self).model_fields[key].default for key in self.younger}
        return {key: value for key, value in self.model_dump(exclude=set(exclude)).items()
                if key not in defaults or getattr(self, key) != defaults[key]}
