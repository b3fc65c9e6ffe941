"""The copy of the code that jobs run: everything that modules read, and nothing else."""

import os
import subprocess
import sys

import pytest

from slurm.launch import snapshot as module
from slurm.launch.snapshot import snapshot

KEPT = ("diffusion/schedules.py", "diffusion/py.typed", "jobs/report/page.html", "jobs/report/page.css", "jobs/report/page.js",
        "jobs/data/digits.npz", "slurm/cli/main.py")
LEFT_OUT = ("setup.py", "tests/test_a.py", "jobs/notes.txt", "jobs/__pycache__/stage.cpython-311.pyc")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose files contain their own names."""
    for name in (*KEPT, *LEFT_OUT):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text(name)
    monkeypatch.setattr(module, "ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


def test_modules_and_the_files_beside_them_are_copied(checkout, tmp_path):
    folder = snapshot(tmp_path / "study")
    found = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert "commit" in found.pop("provenance.json")
    assert found == {name: name for name in KEPT}


def test_equal_code_has_one_copy_and_a_changed_template_another(checkout, tmp_path):
    first = snapshot(tmp_path / "study")
    assert snapshot(tmp_path / "study") == first
    (checkout / "jobs" / "report" / "page.html").write_text("changed")
    assert snapshot(tmp_path / "study") != first
    assert len(list((tmp_path / "study" / "code").iterdir())) == 2


@pytest.mark.slow
def test_a_report_can_be_written_by_the_copied_code(study):
    code = snapshot(study)
    assert not list(code.rglob("__pycache__"))
    script = ("import sys\nfrom pathlib import Path\nfrom jobs.report import write\n"
              "assert Path(write.__file__).is_relative_to(Path.cwd()), write.__file__\n"
              "write.report(Path(sys.argv[1]))")
    subprocess.run([sys.executable, "-c", script, study], cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, check=True)
    assert (study / "report.html").is_file()
