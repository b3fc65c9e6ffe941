"""Paths on the command line and in specs and profiles: homes, and folders that cannot be used."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
from paths import ROOT
from small_runs import SMALL_SPEC

from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from slurm.cli.main import cli
from slurm.cli.paths import ExpandedPath
from slurm.launch.profiles import load_profile

NAMES = ("name", "node", "names")  # arguments that are no paths


def commands(group, prefix=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def test_every_argument_that_is_a_path_knows_homes():
    for name, command in commands(cli):
        for parameter in command.params:
            assert not isinstance(parameter.type, click.Path) or isinstance(parameter.type, ExpandedPath), (name, parameter.name)
            if isinstance(parameter, click.Argument) and parameter.name not in (*NAMES, "overrides"):
                assert isinstance(parameter.type, ExpandedPath), (name, parameter.name)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_homes_in_specs_and_profiles(home):
    spec = SMALL_SPEC | {"data": SMALL_SPEC["data"] | {"path": "~/a.h5"}}
    home.mkdir()
    (home / "base.yaml").write_text(json.dumps(spec))
    Path("s.yaml").write_text('extends: ~/base.yaml\nevaluate: {features: ~/net.pt, nll_data: "~/test.h5"}\n')
    found = load("s.yaml").runs[0].spec
    assert (found.data.path, found.evaluate.reference, found.evaluate.features, found.evaluate.nll_data) == tuple(
        str(home / name) for name in ("a.h5", "a.h5", "net.pt", "test.h5"))
    found = load("s.yaml", ("evaluate.reference=~/b.h5",)).runs[0].spec
    assert found.evaluate.reference == str(home / "b.h5")
    Path("p.yaml").write_text("bench: ~/bench.json\n")
    assert load_profile("p.yaml").bench == str(home / "bench.json")


@pytest.mark.parametrize(("text", "where"), (("data: {path: ~nobody-here/a.h5}", "s.yaml:1: data.path"),
                                             ("extends: ~nobody-here/a.yaml", "s.yaml:1: extends")))
def test_an_unknown_home_in_a_spec_is_named_with_its_line(home, text, where):
    from jobs.errors import UserError
    Path("s.yaml").write_text(text + "\n")
    with pytest.raises(UserError) as error:
        load("s.yaml")
    assert f"{where}: ~nobody-here/" in str(error.value) and "no user `nobody-here`" in str(error.value)


def iddpm(*arguments, prefix=(), cwd=None, **environment):
    return subprocess.run([*prefix, sys.executable, "-m", "slurm.cli.main", *arguments], capture_output=True, text=True, cwd=cwd,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment)


@pytest.mark.slow
def test_no_folder_is_called_tilde_and_runs_may_not_be_a_link_to_nowhere(home):
    home.mkdir()
    Path("s.yaml").write_text(json.dumps(SMALL_SPEC))
    done = iddpm("run", "s.yaml", "--runs=~nobody-here/x")
    assert done.returncode == 2 and "no user `nobody-here`" in done.stderr
    Path("runs").symlink_to("/nonexistent/scratch")
    done = iddpm("run", "s.yaml")
    assert (done.returncode, done.stderr) == (2, "iddpm: error: runs: a link to /nonexistent/scratch, which does not exist\n")
    assert sorted(os.listdir()) == ["home", "runs", "s.yaml"]


# Another user, who may read everything, as a colleague may, and write nothing of ours.
COLLEAGUE = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME")


@pytest.fixture
def open_folder():
    """A folder that other users can read: pytest's own are private."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.root
def test_a_colleagues_run_can_be_read_and_no_more(open_folder):
    (open_folder / "small.yaml").write_text(json.dumps(SMALL_SPEC))
    run = freeze(load(open_folder / "small.yaml"), open_folder / "runs")[0]
    (run.path / "lock").touch()
    before = sorted(str(file) for file in open_folder.rglob("*"))
    for command in (("status", str(run.path.parent)), ("diff", str(run.path), str(run.path))):
        done = iddpm(*command, prefix=COLLEAGUE, cwd=open_folder)
        assert (done.returncode, done.stderr) == (0, "")
    for command in (("train", str(run.path)), ("run", "small.yaml"), ("report", str(run.path.parent))):
        done = iddpm(*command, prefix=COLLEAGUE, cwd=open_folder)
        said = done.stdout + done.stderr
        assert done.returncode == 2 and "Traceback" not in said and "not writable (Permission denied" in said, said
    assert sorted(str(file) for file in open_folder.rglob("*")) == before


@pytest.mark.slow
def test_a_deleted_folder_and_one_whose_name_is_a_pattern(tmp_path):
    (tmp_path / "s.yaml").write_text(json.dumps(SMALL_SPEC))
    gone = tmp_path / "gone"
    script = f"import os, sys; os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n" \
             "sys.argv = ['iddpm', *sys.argv[1:]]; from slurm.cli.main import main; main()"
    for command in (("status",), ("run", str(tmp_path / "s.yaml")), ("score", "a", "--reference", "digits")):
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert (done.returncode, done.stderr) == (2, "iddpm: error: the current folder has been deleted; change to one that "
                                                     "exists\n")
    pattern = tmp_path / "50%j ü\n\"x'"
    pattern.mkdir()
    done = iddpm("run", str(tmp_path / "s.yaml"), "evaluate.nll_data=null", "evaluate.nll_examples=0", cwd=pattern)
    assert done.returncode == 2 and "%j in a path stands for the number of a job" in done.stdout
