"""Any one file of a study may be anything at all: `status`, `diff` and `report` name it, and show the rest."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import iddpm_here
from finished_study import FID, finish

from jobs.report.exports import as_csv, as_json, as_markdown
from jobs.report.study import read_study
from jobs.run.failures import Failure, write_failure
from jobs.storage.files import write_json
from slurm.launch.records import Submission, record

pytestmark = pytest.mark.slow  # a minute: hundreds of studies

RUNS = list(FID)
BROKEN, LOST, WHOLE = RUNS[:3]
JSON = ("progress.json", "evaluation.json", "failure.json", "provenance.json", "data.json")
FILES = [*(f"{BROKEN}/{name}" for name in (*JSON, "spec.yaml", "stages.jsonl", "bits_per_dim.npz", "samples/samples.h5",
                                           "tensorboard/events.out.tfevents.0", "checkpoints/step-00000012/manifest.json")),
         "study.json", "held.json", "plan.json", "submissions/one.json"]
QUIET = FILES[8:11]  # files that only the page reads, or nobody while progress.json says that all is done
TEXTS = {
    "empty": b"", "null": b"null", "list": b"[]", "mapping": b"{}", "number": b"3", "text": b'"text"', "cut": b'{"stage": "tr',
    "latin-1": b'{"name": "\xe9"}', "binary": bytes(range(256)) * 20, "deep list": b"[" * 100_000,
    "deep": b'{"runs":' * 300 + b"1" + b"}" * 300, "huge number": b'{"time": 1' + b"0" * 5000 + b"}",
    "not finite": b"[NaN, Infinity, -Infinity]", "half a character": b'{"name": "\\ud800", "runs": {"\\udcff": {}}}',
    "yaml bomb": b"a: [[[[" * 20_000, "zeros": bytes(1 << 16)}

VALUES = [None, [], {}, "x", "\x1b[31m\r", -1, 1e308, float("nan"), [[1]], True, 10 ** 30]


def replaced_leaves(value, junk):
    """Copies of `value`, each with one leaf or branch replaced by the next of `junk`."""
    yield next(junk)
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            for changed in replaced_leaves(value[key], junk):
                copy = value.copy()
                copy[key] = changed
                yield copy


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


def gigabyte(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 30)


THINGS = {"folder": folder, "pipe": os.mkfifo, "link to nothing": lambda path: path.symlink_to("nowhere"),
          "link to itself": lambda path: path.symlink_to(path), "device": lambda path: path.symlink_to("/dev/zero"),
          "gigabyte": gigabyte}


@pytest.fixture
def small(runs, monkeypatch):
    """A study with a finished run that will be broken, one that failed, one that is finished, and one that has not begun."""
    study = runs[0].path.parent
    for run in runs[:3]:
        finish(run, FID[run.path.name])
        write_json(run.path / "data.json", {"images": 1500, "sha256": "ab" * 32})
        write_json(run.progress, {"stage": "evaluate", "state": "done", "done": 1, "total": 1, "unit": "x", "rate": None,
                                  "loss": 0.5, "heartbeat": 1e9, "host": "n1", "pid": 1})
        write_json(run.checkpoints / "step-00000012" / "manifest.json", {"step": 12, "bytes": {}, "sha256": {}})
    (study / LOST / "evaluation.json").unlink()
    write_failure(study / LOST, Failure("evaluate", "bad input", "no such file", "", 0, "n1", 0, 1e9))
    write_failure(study / BROKEN, Failure("evaluate", "bad input", "no such file", "", 0, "n1", 0, 1.0))
    record(study, Submission("one", "train", RUNS, 1.0, "7"))
    write_json(study / "plan.json", {"seconds_per_step": {BROKEN: {"train": 0.1}}})
    write_json(study / "held.json", {"time": 1e9, "kind": "bad input", "message": "no", "runs": [BROKEN], "jobs": []})
    events = next((study / BROKEN / "tensorboard").iterdir())
    events.rename(events.with_name("events.out.tfevents.0"))
    monkeypatch.chdir(study.parents[1])
    return Path("runs") / study.name


def put(file: Path, what) -> None:
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    if isinstance(what, bytes):
        file.write_bytes(what)
    else:
        what(file)


def check(study: Path, page: bool = False) -> str:
    """All output of the three commands. The other runs are there, in each."""
    status = iddpm_here("status", study)
    rows = json.loads("[{" + iddpm_here("status", study, "--json").partition("[{")[2])  # behind notes
    assert len(rows) == len(RUNS) and {row["run"]: row["state"] for row in rows}[WHOLE] == "done", status
    diff = iddpm_here("diff", study / BROKEN, study / WHOLE)
    assert "7" in diff or "fid" in diff
    read = read_study(study)
    report = json.dumps(as_json(read), allow_nan=False) + as_csv(read) + as_markdown(read)
    assert f'"{WHOLE}",metric,fid (pixels),,{FID[WHOLE]}\n' in report
    if page:
        iddpm_here("report", study)
        report += (study / "report.html").read_text(encoding="utf-8")
    return status + diff + report


@pytest.mark.parametrize("name", FILES)
def test_any_content(small, name):
    for place, junk in enumerate(TEXTS.values()):
        put(small / name, junk)
        text = check(small, page=place == FILES.index(name))
        assert Path(name).name in text or junk in (b"[]", b"{}", b"") or name in QUIET


@pytest.mark.parametrize("name", FILES)
def test_any_thing_in_its_place(small, name):
    for thing in THINGS.values():
        put(small / name, thing)
        check(small)
    check(small, page=True)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_any_value_deep_inside(small, name):
    whole, junk = json.loads((small / name).read_text()), itertools.cycle(VALUES)
    for changed in replaced_leaves(whole, junk):
        (small / name).write_text(json.dumps(changed))
        if name == "study.json" and len(changed.get("runs", ()) if isinstance(changed, dict) else ()) != len(RUNS):
            continue  # another study
        check(small)
