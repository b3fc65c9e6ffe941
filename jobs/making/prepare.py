"""Everything that `iddpm make` can refuse before it loads torch and the weights."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.making.given import Given, read_mask, read_picture
from jobs.making.request import DEFAULT_AT, Request, as_seed
from jobs.run.directory import RunDir
from jobs.run.guides import guide_run
from jobs.spec.kinds import draws_samples, editing_kind, given_kind, given_of, kind_of
from jobs.spec.sections import Spec
from jobs.storage.files import sha256_of_file

if TYPE_CHECKING:
    import numpy as np

RECORD = "make.json"


@dataclass(frozen=True, eq=False)
class Job:
    """A request that fits a run."""

    run: RunDir
    request: Request
    spec: Spec
    """The run's, with the chain of --steps."""
    step: int
    """Training step of the weights."""
    classes: int | None
    """How many classes the network, or the classifier that guides it, knows; None: there are none."""
    labels: tuple[int, ...] | None
    """None: there are no classes, or all of them take turns."""
    count: int
    """Pictures to make; of each row, where rows are made."""
    seed: int | None
    """None where nothing is drawn at random."""
    at: float | None
    """How far the picture of --from is noised; None where it is enlarged instead."""
    given: dict[str, Given] = field(default_factory=dict)
    """The given pictures by their names as the user wrote them."""
    anew: np.ndarray | None = None
    """Where the picture of --inpaint is made anew: bool [S, S]."""
    mask_sha256: str | None = None

    @property
    def remarks(self) -> list[str]:
        """What the user should know before the pictures are made."""
        last, found = self.run.spec.train.iterations, []
        if self.step < last:
            found.append(f"{self.run.path}: training is at step {self.step:,} of {last:,}; the weights of that step are used")
        return found + [picture.remark for picture in self.given.values() if picture.remark]


def prepare(run: RunDir, request: Request, out: Path) -> Job:
    """Check that `run` can do what is asked, and read the given pictures. Raises UserError for everything that cannot be."""
    request.check()
    spec = run.spec
    if not draws_samples(spec):
        raise UserError(f"{run.path}: is of kind {spec.kind}, which makes no pictures")
    made_of = given_of(spec)
    if made_of:
        _check_enlarging(request, run, made_of.key)
    check_folder(out, run)
    if chains := editing_kind(spec) or given_kind(spec):
        if request.steps is not None:
            try:
                spec = chains.shortened(spec, request.steps)
            except ValueError as error:
                raise UserError(f"--steps {request.steps}: {error}") from error
    elif request.work != "new" or request.steps is not None:
        option = "steps" if request.work == "new" else request.work
        raise UserError(f"--{option}: {run.path} is of kind {spec.kind}, of which `iddpm make` shows new pictures only")
    guide = kind_of(spec).guide(spec)
    classes = spec.data.classes or (guide_run(run, guide).spec.data.classes if guide else None)
    labels = request.labels_for(classes, run.path)
    step = run.trained_steps()
    if not step:
        raise UserError(f"{run.path}: has no weights yet; `iddpm train {run.path}` trains it")
    names = [str(path) for path in (request.start, request.inpaint, request.encode) if path is not None]
    names += [end for end in request.interpolate or () if as_seed(end) is None]
    data = spec.data.model_copy(update={"image_size": made_of.size}) if made_of else spec.data
    given = {name: read_picture(Path(name), data) for name in names}
    anew = read_mask(request.mask, given[str(request.inpaint)]) if request.mask else None
    random = request.work not in ("interpolate", "encode")
    seed = None if not random else secrets.randbelow(1_000_000) if request.seed is None else request.seed
    at = (DEFAULT_AT if request.at is None else request.at) if request.work == "from" and not made_of else None
    return Job(run, request, spec, min(step, spec.train.iterations), classes, labels, request.count(labels), seed, at, given,
               anew, sha256_of_file(request.mask) if request.mask else None)


def _check_enlarging(request: Request, run: RunDir, key: str) -> None:
    """Raise UserError for a request that a run of a kind that makes pictures of given ones cannot do."""
    what = f"{run.path} is of kind {run.spec.kind}, which makes pictures of smaller ones"
    if request.work == "new":
        raise UserError(f"{what}: give --from PICTURE; `iddpm sample {run.path}` takes those that {key} names")
    if request.work != "from" or request.at is not None:
        option = "at" if request.work == "from" else request.work
        raise UserError(f"--{option}: {what} with --from PICTURE alone: leave --{option} out")


def is_a_run(folder: Path) -> bool:
    """Return whether `folder` is that of a run. A user's own spec may be named spec.yaml, too."""
    return all((folder / name).is_file() for name in ("spec.yaml", "provenance.json"))


def check_folder(out: Path, run: RunDir) -> None:
    """Raise UserError unless `out` can become the folder of the pictures, or may be one of an earlier call."""
    if inside := next((folder for folder in (out.resolve(), *out.resolve().parents) if is_a_run(folder)), None):
        raise UserError(f"--out {out}: lies in the folder of a run, {inside}, in which only the run itself writes; name another")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: not a folder; name a new folder")
    if out.resolve() == Path.cwd().resolve():
        raise UserError(f"--out {out}: the current folder; name a new folder")
    above = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "cannot be written" if above.is_dir() else "is no folder"
        raise UserError(f"--out {out}: cannot be made, because {above} {why}")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise UserError(f"--out {out}: has files in it that `iddpm make` did not write; name a new folder")
