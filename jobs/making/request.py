"""What a user asks `iddpm make` for, checked as far as that needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.storage.names import shortened

NEW, VARIANTS, ROW = 16, 4, 8  # pictures that are made if the user names no number: new ones, of a given picture, of a row
MOST, MOST_SEED = 10_000, 10 ** 18
DEFAULT_AT = 0.5


@dataclass(frozen=True)
class Request:
    """The options of one call of `iddpm make`; None or false: not given."""

    labels: tuple[int, ...] | None = None
    num: int | None = None
    seed: int | None = None
    steps: int | None = None
    film: bool = False
    interpolate: tuple[str, str] | None = None
    """Two ends: numbers are seeds, anything else is the name of a picture."""
    start: Path | None = None
    """The picture of --from."""
    at: float | None = None
    inpaint: Path | None = None
    mask: Path | None = None
    encode: Path | None = None

    @property
    def work(self) -> str:
        """The option that says what to make: interpolate, from, inpaint or encode; "new" if none of them is given."""
        return self._given()[0] if self._given() else "new"

    def _given(self) -> list[str]:
        values = {"interpolate": self.interpolate, "from": self.start, "inpaint": self.inpaint, "encode": self.encode}
        return [name for name, value in values.items() if value is not None]

    def check(self) -> None:
        """Raise UserError for options that exclude or need each other."""
        given, work = self._given(), self.work
        for wrong, message in (
            (len(given) > 1, " and ".join(f"--{name}" for name in given) + " exclude each other: name one of them"),
            (self.at is not None and work != "from", "--at says how far --from PICTURE is noised: give --from, too"),
            (self.at is not None and not 0 < self.at <= 1, f"--at {self.at}: write a number above 0 and at most 1"),
            (self.mask is not None and work != "inpaint", "--mask says what --inpaint PICTURE makes anew: give --inpaint, too"),
            (work == "inpaint" and self.mask is None,
             "--inpaint needs --mask MASK, a picture that is white where pixels are made anew and black where they stay"),
            (self.film and work in ("interpolate", "encode"),
             f"--film and --{work} exclude each other: a film shows new pictures, or those of --from and --inpaint"),
            (self.seed is not None and work in ("interpolate", "encode"), f"--{work} draws nothing at random: leave --seed out"),
            ((self.num or 0) * (len(self.labels or "1") if work == "interpolate" else 1) > MOST,
             f"--num {self.num} is too many: at most {MOST:,} pictures are made at a time"),
            (self.seed is not None and self.seed >= MOST_SEED, f"--seed {self.seed}: at most 18 digits"),
            (self.num is not None and work == "encode", "--encode makes one picture: leave --num out"),
            (self.num == 1 and work == "interpolate", "--num 1: a row of --interpolate has at least its 2 ends"),
        ):
            if wrong:
                raise UserError(message)

    def labels_for(self, classes: int | None, run: Path) -> tuple[int, ...] | None:
        """The labels to use for a network with so many classes (None: without any); None where the classes shall take turns.

        Raises UserError for labels that the network does not have, and where a given picture needs a class to be understood.
        """
        if classes is None:
            if self.labels is not None:
                raise UserError(f"--labels: {run} is not conditioned on classes (data.class_cond is false): leave --labels out")
            return None
        if self.labels is None:
            if self.work != "new":
                raise UserError(f"--{self.work}: {run} is conditioned on {classes:,} classes: name one, such as --labels 0")
            return None
        for label in self.labels:
            if label >= classes:
                raise UserError(f"--labels {label}: {run} has {classes:,} classes, 0 to {classes - 1}")
        if self.work == "encode" and len(self.labels) > 1:
            raise UserError("--encode takes one class: name one in --labels")
        if self.work != "interpolate" and len(self.labels) > (self.num or MOST):
            raise UserError(f"--labels names {len(self.labels)} classes, and --num {self.num} is less")
        return self.labels

    def count(self, labels: tuple[int, ...] | None) -> int:
        """How many pictures to make; of one row, where rows are made."""
        if self.num is not None:
            return self.num
        if self.work == "interpolate":
            return ROW
        return len(labels) if labels else NEW if self.work == "new" else VARIANTS


def parsed_labels(text: str) -> tuple[int, ...]:
    """The classes in "3,3,8". Raises UserError for any other text."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise UserError(f"--labels {shortened(text)}: `{shortened(word)}` is no class; write whole numbers with commas, "
                            "such as 3,3,8")
    if len(words) > MOST:
        raise UserError(f"--labels names {len(words):,} classes; at most {MOST:,}")
    return tuple(map(int, words))


def as_seed(end: str) -> int | None:
    """The seed that an end of --interpolate names; None where it is the name of a picture."""
    return int(end) if re.fullmatch(r"[0-9]{1,18}", end) else None
