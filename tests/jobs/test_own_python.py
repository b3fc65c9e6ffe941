"""Processes of our own find our modules, whatever lies in the current folder."""

import subprocess

from jobs.own_python import python_command


def test_no_file_of_the_current_folder_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("json", "queue", "jobs", "slurm", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    command = python_command("import json, queue, numpy, jobs.errors, slurm; print(sys.argv[1:])", "a", "b c")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "['a', 'b c']\n"
