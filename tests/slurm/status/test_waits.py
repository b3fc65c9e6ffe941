"""The runs that a stage waits for, in `iddpm status`: from files alone."""

import json
from pathlib import Path

import click
import linear_kind
import pytest
from recorded_slurm import by_name

from jobs.run.study.freezing import freeze
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.spec.references import Reference
from jobs.storage.files import write_json
from slurm.launch.squeue import Slurm
from slurm.status import waits
from slurm.status.run_state import RunStatus
from slurm.status.state import StudyStatus, study_status
from slurm.status.table import status_lines

SPEC = {"name": "study", "kind": "linear", "data": {"path": "digits", "image_size": 8, "channels": 1},
        "train": {"iterations": 12, "batch_size": 12}, "sample": {"num_samples": 10}}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A study of a teacher, its pupil, and a pupil of a run that lies elsewhere."""
    monkeypatch.setitem(KINDS, *linear_kind.ADD)
    monkeypatch.chdir(tmp_path)
    points = [{"name": "teacher"}, {"name": "pupil", "linear.teacher": "teacher"},
              {"name": "guest", "linear.teacher": "runs/other/run"}]
    Path("spec.yaml").write_text(json.dumps(SPEC | {"sweep": {"list": points}}))
    Path("other.yaml").write_text(json.dumps(SPEC | {"name": "other"}))
    freeze(load("spec.yaml", ()), Path("runs"))
    return Path("runs/study")


def waiting(study: Path) -> dict[str, list[str]]:
    return {run.run: [f"{each.run} {each.needs}" for each in run.waits_for] for run in study_status(study, Slurm()).runs
            if run.waits_for}


def progress(run: Path, stage: str, state: str) -> None:
    write_json(run / "progress.json", {"stage": stage, "state": state, "done": 1, "total": 2, "unit": "steps", "rate": None,
                                       "loss": None, "heartbeat": 5.0})


def test_a_run_waits_until_the_named_run_has_done_its_stage(study):
    both = {"pupil": ["teacher train"], "guest": ["runs/other/run train"]}
    assert waiting(study) == both
    progress(study / "teacher", "train", "interrupted")
    (other,) = freeze(load("other.yaml", ()), Path("runs"))
    assert waiting(study) == both
    progress(study / "teacher", "sample", "interrupted")
    assert waiting(study) == {"guest": ["runs/other/run train"]}
    write_json(other.checkpoints / "step-00000012" / "manifest.json", {"step": 12, "bytes": {}})
    assert waiting(study) == {}


def test_a_run_that_has_begun_waits_for_nobody(study):
    progress(study / "pupil", "train", "interrupted")
    assert waiting(study).keys() == {"guest"}


def test_where_the_queue_does_not_answer_files_tell(study, monkeypatch):
    (study / "submissions").mkdir()
    monkeypatch.setattr(Slurm, "live", lambda self: None)
    found = by_name(study_status(study, Slurm()))["pupil"]
    assert [each.key for each in found.waits_for] == ["linear.teacher"]


def test_specs_that_name_no_run_are_not_parsed(study, monkeypatch):
    parsed = []
    waits._references.cache_clear()
    monkeypatch.setattr(waits, "parse_frozen", lambda text, source: parsed.append(text))
    monkeypatch.setattr(waits, "references", lambda spec: [])
    study_status(study, Slurm())
    assert len(parsed) == 2
    waits._references.cache_clear()


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_long_names_fold_and_none_is_cut(width):
    name = "noise_schedule=cosine,loss=hybrid,lr=0.0001"
    facts = dict(stage="train", job="1", slurm="PENDING", node="n1", restarts=1, done=5, total=9, unit="steps", rate=None,
                 loss=0.1, eta_s=None, heartbeat_s=1.0, samples=4, metrics={}, failure=None)
    named = (Reference("a.b", name, "train", "sample"),)
    runs = [RunStatus("pupil", "pending", reason="Dependency", waits_for=named, **facts),
            RunStatus("b", "held", reason="JobHeldUser", **facts)]
    lines = [click.unstyle(line) for line in status_lines(StudyStatus(Path("s"), runs, None, []), width, 9)]
    assert width is None or all(len(line) <= width for line in lines)
    assert width or f"waits for {name} (sample)" in lines[4]
    head = lines[2]
    start, rows = head.index("why"), lines[4:next(place for place, line in enumerate(lines) if line.startswith("b "))]
    end = start + max(len(line[start:].split("  ")[0]) for line in rows)
    assert "".join(line[start:end] for line in rows).replace(" ", "") == f"waitsfor{name}(sample)"
