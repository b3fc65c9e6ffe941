"""What may change in the spec of a run that exists, and what then becomes of the run's results.

Free keys change neither weights nor samples. Two more may change because samples and training steps do not depend on how many
follow: `sample.num_samples`, and `train.iterations` unless a key of NEEDS_LENGTH is on. What was computed stays:

- the chunks of samples stay; samples.h5 is gathered again, and a last chunk that is shorter or longer now is made anew;
- the samples of an earlier last step become those of `sample.at`, and the checkpoint of that step is kept for good.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.progress import set_back
from jobs.run.provenance import recorded_provenance
from jobs.run.waiting import named_by
from jobs.spec.keys import value_at
from jobs.spec.kinds import draws_samples
from jobs.spec.reading.frozen import difference
from jobs.spec.samplings import Sampling, guided, steps_kept_for_good
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import make_dir, read_json, write_json

FREE_TO_CHANGE = ("resources", "train.log_interval", "train.save_interval", "train.keep_interval", "sample.at", "evaluate")
RULED = ("sample.num_samples", "train.iterations")
NEEDS_LENGTH = {"train.lr_anneal": "with train.lr_anneal each step's lr depends on the number of all steps"}
"""Keys that, where they are on, make every training step depend on train.iterations; and why."""
KEPT_STEPS = "kept_steps"
"""In provenance.json: the earlier last steps whose samples are kept."""


@dataclass(frozen=True)
class Change:
    """What freezing does to one run."""

    run: RunDir
    spec: Spec
    """To freeze."""
    is_new: bool = False
    redo: str | None = None
    """The first stage that the run has to do again, or to continue; None: no result is touched."""
    keeps: int | None = None
    """The earlier last step whose samples become those of sample.at."""
    regather: bool = False
    """Whether samples.h5 holds another number of samples than the spec asks for now."""
    careful: bool = False
    """Whether no stage of the run, or of the run that trains for it, may be at work, since it would not know of the change."""
    longer: bool = False
    """Whether the number of training steps changes."""
    shares: str | None = None
    """Of a new run, the run whose training it shares; see jobs/run/study/sharing.py."""
    relinks: bool = False
    """Whether the run that trained for it is gone: `shares` says which one does now."""

    @property
    def writes(self) -> bool:
        """Whether the frozen spec changes."""
        return self.is_new or self.relinks or self.spec != self.run.spec


def planned_change(run: RunDir, spec: Spec) -> Change:
    """Return what freezing `spec` in the directory `run` means. Raises UserError where it would change what was computed."""
    if not run.spec_file.is_file():
        return Change(run, spec, is_new=True)
    if run.known is not None:
        return Change(run, spec)
    old, spec = run.spec, _with_kept_steps(run, spec)
    if changed := difference(old, spec, ignore=(*FREE_TO_CHANGE, *RULED)):
        raise UserError("\n  ".join([f"run {run.path} exists with another spec:", *changed])
                        + "\nGive the study another name, or remove that run (`iddpm rm`).")
    reached = run.trained_steps()
    for problem in [*_length_problems(run, old, spec, reached), *_missing_steps(run, old, spec, reached)]:
        raise UserError(f"run {run.path}: {problem}")
    samples = _sampled(run)
    longer = old.train.iterations != spec.train.iterations
    recount = value_at(old, "sample.num_samples") != value_at(spec, "sample.num_samples")  # both None where none are drawn
    regather = bool(samples) and recount
    keeps = old.train.iterations if longer and reached >= old.train.iterations and _main_samples(run) else None
    redo = "train" if longer and reached else "sample" if regather else None
    for _, reference, other in named_by([run], run.path.parent.parent) if redo else ():
        if STAGES.index(reference.needs) >= STAGES.index(redo or STAGES[0]) and other.trained_steps():
            raise UserError(f"run {run.path}: run {other.path} names this run ({reference.key}) and has used its results, so it "
                            "keeps its number of steps and samples. Give the study another name")
    unsaved = steps_kept_for_good(old) != steps_kept_for_good(spec) and reached < old.train.iterations
    return Change(run, spec, redo=redo, keeps=keeps, regather=regather,
                  careful=longer or unsaved or recount, longer=longer)


def _length_problems(run: RunDir, old: Spec, new: Spec, reached: int) -> Iterator[str]:
    """Yield why training cannot get its new number of steps. `reached`: the step of the newest checkpoint."""
    before, after = old.train.iterations, new.train.iterations
    if before == after or not run.checkpoint_folders():
        return
    what = f"train.iterations: {before} -> {after}"
    if after < reached:
        yield (f"{what}: training is at step {reached} already, and cannot be shortened; `sample.at` takes samples of earlier "
               f"steps, here of {steps_there(run)}. Or give the study another name")
    for key, reason in NEEDS_LENGTH.items():
        if value_at(old, key):
            yield f"{what}: {reason}, so the {reached} steps that were trained belong to {before}. Give the study another name"
    if reached and "training.pt" not in read_json(run.checkpoint_folder(reached) / "manifest.json")["bytes"]:
        yield (f"{what}: its weights were imported without the optimiser's state, so training cannot continue; "
               "a new run with `train.init_from` can train them further")


def _missing_steps(run: RunDir, old: Spec, new: Spec, reached: int) -> Iterator[str]:
    """Yield the steps that the spec names now, that training has passed, and whose checkpoints are not there."""
    if not draws_samples(new):
        return
    named = {"sample.at": [step for step in new.sample.at if step != "last"]}
    for _, guide, place in guided(new):
        if guide.run is None and guide.step is not None:
            named[place("sample.guidance.at")] = [guide.step]
    for key, steps in named.items():
        gone = [step for step in steps if step not in steps_kept_for_good(old) and step <= reached
                and not (run.checkpoint_folder(step) / "manifest.json").is_file()]
        if gone:
            later = ", and later steps" if reached < new.train.iterations else ""
            yield (f"{key}: no checkpoint of step {', '.join(map(str, gone))} is there any more, and training is at step "
                   f"{reached}. {key} can name {steps_there(run)}{later}")


def steps_there(run: RunDir) -> str:
    """Return the steps whose checkpoints are there, in words."""
    steps = [folder.name.removeprefix("step-").lstrip("0") for folder in run.checkpoint_folders()]
    return f"step {', '.join(steps)}" if steps else "no step"


def _with_kept_steps(run: RunDir, spec: Spec) -> Spec:
    """Return `spec` with the earlier last steps of the run, whose samples are kept, in sample.at."""
    if not draws_samples(spec):
        return spec
    steps = [step for step in _kept_steps(run) if step not in spec.sample.at and step < spec.train.iterations]
    return _with_steps(spec, steps) if steps else spec


def _kept_steps(run: RunDir) -> list[int]:
    kept = recorded_provenance(run.path).get(KEPT_STEPS)
    return [step for step in kept if type(step) is int and step > 0] if isinstance(kept, list) else []


def _with_steps(spec: Spec, steps: list[int]) -> Spec:
    return spec.model_copy(update={"sample": spec.sample.model_copy(update={"at": [*steps, *spec.sample.at]})})


def _sampled(run: RunDir) -> list[Path]:
    """Return samples.h5 of every sampling that there ever was."""
    return [*run.samples.glob("samples.h5"), *run.samples.glob("*/samples.h5")]


def _main_samples(run: RunDir) -> list[Path]:
    """Return all files of the main sampling, if there is a sample among them."""
    files = [file for file in run.samples.glob("*") if file.is_file() and not file.name.startswith(".")]
    return files if any(file.suffix == ".h5" for file in files) else []


def make_room(change: Change) -> Spec:
    """Move or remove the results that the new spec does not fit. Return the spec to freeze then.

    The caller holds the run's lock, and freezes the spec afterwards: after a crash the old spec stands, and what is missing is
    gathered from the chunks, or evaluated, again.
    """
    run, spec = change.run, change.spec
    if change.redo is None:
        return spec
    run.evaluation.unlink(missing_ok=True)
    if change.keeps is not None:
        spec = _keep(run, spec, change.keeps)
    elif change.redo == "train" and draws_samples(spec) and run.trained_steps() == spec.train.iterations:
        _bring_back(run, spec)
    if change.regather:
        for file in [*_sampled(run), run.samples / "samples.npz", run.samples_png, run.samples / "samples-grid.png"]:
            file.unlink(missing_ok=True)
    if change.redo == "train" and not run.shares:
        set_back(run.progress, "train", run.trained_steps(), spec.train.iterations, "steps")
    else:
        set_back(run.progress, "sample", 0, spec.sample.num_samples, "samples")
    return spec


def _bring_back(run: RunDir, spec: Spec) -> None:
    """Make the kept samples of a step the main ones again: the longer training, which had not begun, was called off."""
    longer = RunDir(run.path, run.spec)
    folder = longer.samples_folder(Sampling(spec.train.iterations))
    if folder != run.samples and folder.is_dir() and not _main_samples(run):
        for found in folder.iterdir():
            found.replace(run.samples / found.name)


def _keep(run: RunDir, spec: Spec, step: int) -> Spec:
    """Move the samples of the earlier last step `step` to the folder that sample.at gives them. Return `spec` with that step."""
    spec = spec if step in spec.sample.at else _with_steps(spec, [step])
    kept = list(dict.fromkeys([*_kept_steps(run), step]))
    write_json(run.path / "provenance.json", recorded_provenance(run.path) | {KEPT_STEPS: kept})
    folder = make_dir(RunDir(run.path, spec).samples_folder(Sampling(step)))
    for found in _main_samples(run):
        found.replace(folder / found.name)
    return spec
