"""`iddpm rm`: what it asks, what it refuses, what is gone afterwards; and runs that left the sweep."""

import json
import os
import pty
import subprocess
from pathlib import Path

import linear_kind
import pytest
from command_line import IDDPM, iddpm, iddpm_here
from small_checkpoints import save_untrained
from small_runs import SMALL_SPEC

import jobs.run.study.removal
from jobs.errors import UserError
from jobs.report.study import read_study
from jobs.run.study.freezing import freeze
from jobs.run.study.removal import remove_runs
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")  # without SLURM


def sweep(*seeds: int, **sections) -> list:
    """Freeze a sweep over these seeds into runs/small."""
    Path("sweep.yaml").write_text(json.dumps(SMALL_SPEC | {"sweep": {"grid": {"train.seed": list(seeds)}}} | sections))
    return freeze(load("sweep.yaml"), Path("runs"))


def names() -> list[str]:
    return list(read_json(Path("runs/small/study.json"))["runs"])


def everything() -> dict[str, bytes | str]:
    """All files below runs/ with their content, but locks."""
    return {str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() for path in sorted(Path("runs").rglob("*"))
            if (path.is_symlink() or path.is_file()) and "lock" not in path.name}


def test_without_a_terminal_nothing_is_removed_unless_yes_is_said():
    sweep(1, 2)
    before = everything()
    text = iddpm("rm", "runs/small", "seed=1", cwd=".", status=2, stdin=subprocess.DEVNULL)
    assert "seed=1" in text and "not trained" in text and "--yes removes without asking" in text and everything() == before
    text = iddpm("rm", "runs/small", "seed=1", "--yes", cwd=".")
    assert "1 run removed" in text and names() == ["seed=2"] and not Path("runs/small/seed=1").exists()
    assert {name: data for name, data in everything().items() if "seed=2" in name} == {
        name: data for name, data in before.items() if "seed=2" in name}


@pytest.mark.parametrize("answer, status, left", [("y\n", 0, ["seed=2"]), ("n\n", 1, ["seed=1", "seed=2"]),
                                                  ("\n", 1, ["seed=1", "seed=2"])])
def test_on_a_terminal_the_user_is_asked(answer, status, left):
    save_untrained(sweep(1, 2)[0], 4)
    terminal, theirs = pty.openpty()
    process = subprocess.Popen([IDDPM, "rm", "runs/small", "seed=1"], stdin=theirs, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    os.write(terminal, answer.encode())
    text = process.communicate(timeout=60)[0].decode()
    os.close(terminal)
    os.close(theirs)
    assert (process.returncode, names()) == (status, left)
    assert "trained to step 4, 1 checkpoint" in text and "remove? [y/N]" in text
    assert ("nothing removed" in text) == (status == 1)


def test_the_last_run_takes_the_study_with_it_but_no_file_of_the_user():
    sweep(1, 2)
    Path("runs/small/report.html").write_text("page")
    Path("runs/small/notes.txt").write_text("mine")
    iddpm_here("rm", "runs/small/seed=1", "--yes")  # the path of a run, as for cancel
    assert Path("runs/small/report.html").exists()
    text = iddpm_here("rm", "small", "seed=2", "-y")  # the study's name
    assert "but not notes.txt" in text and sorted(os.listdir("runs/small")) == ["notes.txt"]
    Path("runs/small/notes.txt").unlink()
    sweep(1, 2, 3)
    text = iddpm_here("rm", "runs/small", "--yes")
    assert "3 runs removed" in text and "runs/small: removed" in text and os.listdir("runs") == []


def test_runs_at_work_and_unknown_runs_are_refused_and_nothing_goes():
    runs = sweep(1, 2)
    before = everything()
    with runs[1].exclusively():
        assert "runs/small/seed=2: another process is at work on this run" in iddpm_here("rm", "runs/small", "-y", status=2)
    assert "has no run seed=3; did you mean seed=" in iddpm_here("rm", "runs/small", "seed=1", "seed=3", "-y", status=2)
    for name in ("../small/seed=1/..", "..", ".", "", "/etc", "seed=1/spec.yaml"):
        assert "has no run" in iddpm_here("rm", "runs/small", name, "-y", status=2)
    assert "not a study's directory" in iddpm_here("rm", "runs/other", "-y", status=2)
    assert everything() == before


def test_of_links_only_the_link_goes():
    runs = sweep(1, 2, 3)
    outside = Path("elsewhere").resolve()
    runs[0].path.rename(outside)
    runs[0].path.symlink_to(outside)
    (runs[1].path / "data").symlink_to(outside)  # a link inside a run
    Path("runs/small/dangling").symlink_to("nowhere")
    write_json(Path("runs/small/study.json"), read_json(Path("runs/small/study.json")) | {"runs": {
        name: {"differs": {}} for name in (*names(), "dangling")}})
    text = iddpm_here("rm", "runs/small", "seed=1", "seed=2", "dangling", "-y")
    assert f"a link to {outside}; only the link goes" in text and names() == ["seed=3"]
    assert (outside / "spec.yaml").is_file() and not runs[0].path.is_symlink() and not runs[1].path.exists()
    assert not Path("runs/small/dangling").is_symlink()

    Path("runs/small").rename("moved")
    Path("runs/small").symlink_to(Path("moved").resolve())
    assert "only the link is removed" in iddpm_here("rm", "runs/small", "-y")
    assert Path("moved/seed=3/spec.yaml").is_file() and os.listdir("runs") == []


@pytest.mark.parametrize("after", ["rename", "forget_runs"])
def test_a_removal_that_is_killed_leaves_no_half_run_and_is_completed(after, monkeypatch):
    runs = sweep(1, 2)
    save_untrained(runs[0], 4)

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed
    with monkeypatch.context() as patch, pytest.raises(Killed):
        removal = jobs.run.study.removal
        patch.setattr(*(removal, "forget_runs") if after == "rename" else (removal.shutil, "rmtree"), killed)
        remove_runs(Path("runs/small"), ["seed=1"])
    assert not Path("runs/small/seed=1").exists() and (names() == ["seed=2"]) == (after != "rename")
    assert any(name.endswith(".removed") for name in os.listdir("runs/small"))
    if after == "rename":
        iddpm_here("rm", "runs/small", "seed=1", "-y")
    else:
        iddpm_here("rm", "runs/small", "--left", "-y")
    assert names() == ["seed=2"] and not any(name.endswith(".removed") for name in os.listdir("runs/small"))


def test_a_run_that_another_run_names_stays(monkeypatch):
    monkeypatch.setitem(KINDS, *linear_kind.ADD)
    base = {"name": "study", "kind": "linear", "data": {"path": "digits", "image_size": 8, "channels": 1},
            "train": {"iterations": 12, "batch_size": 12}, "sample": {"num_samples": 10}}
    pupils = [{"name": "pupil", "linear.teacher": "teacher"}, {"name": "teacher"}]
    for name, sections in (("own.yaml", {"sweep": {"list": pupils}}),
                           ("other.yaml", {"name": "other", "linear": {"teacher": "runs/study/teacher"}})):
        Path(name).write_text(json.dumps(base | sections))
        freeze(load(name), Path("runs"))
    text = iddpm_here("rm", "runs/study", "teacher", "-y", status=2)
    assert "runs/study/teacher: run runs/other/run names this run" in text and Path("runs/study/teacher").is_dir()
    assert "runs/other/run names this run" in iddpm_here("rm", "runs/study", "-y", status=2)
    iddpm_here("rm", "runs/other", "-y")
    assert "runs/study/pupil names this run" in iddpm_here("rm", "runs/study", "teacher", "-y", status=2)
    iddpm_here("rm", "runs/study", "-y")
    assert not Path("runs/study").exists()


def test_a_broken_run_can_be_removed():
    runs = sweep(1, 2)
    runs[0].spec_file.write_text("broken: [")
    runs[1].spec_file.unlink()
    iddpm_here("rm", "runs/small", "seed=1", "seed=2", "-y")
    assert not Path("runs/small").exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"runs": {"../elsewhere": {}}}'])
def test_a_study_whose_list_is_broken_can_be_removed(content):
    sweep(1, 2)
    Path("elsewhere").mkdir()
    Path("runs/small/study.json").write_text(content)
    iddpm_here("rm", "runs/small", "seed=1", "-y")
    assert not Path("runs/small/seed=1").exists() and Path("runs/small/seed=2").exists()
    iddpm_here("rm", "runs/small", "-y")
    assert not Path("runs/small").exists() and Path("elsewhere").is_dir()


def test_a_run_that_is_removed_while_a_sweep_is_worked_on_spoils_nothing(monkeypatch):
    sweep(1, 2)
    began = []

    def stage(run, stage):
        if not began:
            remove_runs(Path("runs/small"), ["seed=2"])
        began.append(run.path.name)
        _ = run.spec
    monkeypatch.setattr("slurm.cli.run._do_with_named_runs", stage)
    text = iddpm_here("run", "sweep.yaml", status=2)
    assert "seed=2: runs/small/seed=2: not a run's directory" in text and "not evaluated" in text and "report.html" in text
    assert names() == ["seed=1"]


# Points that left the sweep

def test_runs_that_left_the_sweep_are_named_and_dropped_on_demand():
    sweep(1, 2, 3)
    iddpm_here("status", "runs/small")
    sweep(2)
    text = iddpm_here("status", "runs/small")
    assert "left the sweep: seed=1, seed=3; `iddpm rm runs/small --left` drops them, and asks first" in text
    assert "3 runs: 1 new, 2 left" in text
    shown = json.loads((status := iddpm_here("status", "runs/small", "--json"))[status.index("["):status.rindex("]") + 1])
    assert {run["run"]: run["state"] for run in shown} == {"seed=1": "left", "seed=2": "new", "seed=3": "left"}
    iddpm_here("rm", "runs/small", "--left", "-y")
    assert names() == ["seed=2"] and "left" not in iddpm_here("status", "runs/small").replace("runs/small", "")
    assert "no run left the sweep" in iddpm_here("rm", "runs/small", "--left", "-y")
    with pytest.raises(UserError, match="do not name runs"):
        from slurm.cli.rm import remove
        remove(Path("runs/small"), ["seed=2"], Path("runs"), True, True)


def test_a_run_that_left_the_sweep_counts_in_no_verdict(study):
    first = read_study(study)
    best = next(run for run in first.runs if run.name == "noise_schedule=cosine,loss=hybrid")
    assert first.main is best
    content = read_json(study / "study.json")
    content["runs"][best.name]["left"] = True
    write_json(study / "study.json", content)
    second = read_study(study)
    assert second.main is not None and second.main.name == "noise_schedule=cosine,loss=simple"
    assert all(best.name not in {run.name for run in group} for effect in second.effects for group in effect.groups)
    assert any("left the sweep" in remark for run in second.runs for remark in run.remarks)
    assert {run.name for run in second.runs} == {run.name for run in first.runs}


@pytest.mark.slow
def test_run_names_what_left_the_sweep_and_leaves_it_alone(tmp_path):
    small = SMALL_SPEC | {"evaluate": {"metrics": []}, "train": SMALL_SPEC["train"] | {"iterations": 2}}
    sweep(1, 2, **small)
    Path("parent.yaml").write_text(json.dumps(small | {"sweep": {"grid": {"train.seed": [2, 3]}}}))
    Path("sweep.yaml").write_text("extends: parent.yaml\n")
    assert "the sweep is inherited from parent.yaml:1, which sweep.yaml extends" in iddpm("check", "sweep.yaml", cwd=tmp_path)
    text = iddpm("run", "sweep.yaml", "--only", "train", cwd=tmp_path)
    assert "note: the sweep is inherited from parent.yaml:1" in text
    assert ("note: 1 run of runs/small left the sweep, since sweep.yaml has no such point any more; nothing is done for it: "
            "seed=1;") in text
    assert names() == ["seed=1", "seed=2", "seed=3"] and not (tmp_path / "runs/small/seed=1/checkpoints").exists()
    assert (tmp_path / "runs/small/seed=3/checkpoints/step-00000002").is_dir()
