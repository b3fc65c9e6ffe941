"""`make wheelhouse`: which wheels are collected, and what is refused. A pip that makes wheels stands for the real one."""

import subprocess
import zipfile

import pytest
from paths import ROOT

from slurm import wheelhouse

NEEDS = {"a": ["b>=1", "big"], "b": ["c; python_version < '3.11'", "d; extra == 'more'", "a"], "c": [], "big": ["only-big"],
         "e": ["tool"], "tool": []}


@pytest.fixture
def collected(monkeypatch, tmp_path):
    """collected("3.12", ["a"], "big") -> names and versions that pip was asked for."""
    asked = []

    def pip(command, check):
        folder = tmp_path / "house"
        assert check and str(folder) in command and "--no-deps" in command
        for wanted in command[command.index(str(folder)) + 1:]:
            asked.append(wanted)
            name = wanted.partition("==")[0]
            with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as file:
                file.writestr(f"{name}-1.dist-info/METADATA",
                              f"Name: {name}\n" + "".join(f"Requires-Dist: {need}\n" for need in NEEDS[name]))
    monkeypatch.setattr(subprocess, "run", pip)

    def collect(version, names, without=()):
        asked.clear()
        environment = {"python_version": version, "platform_machine": "x86_64", "extra": ""}
        wheelhouse.collect(tmp_path / "house", names, {"a": "1", "b": "2", "c": "3"}, set(without), environment)
        return asked
    return collect


def test_all_that_is_needed_comes_in_the_pinned_version_but_what_is_there_and_what_only_that_needs(collected):
    assert collected("3.12", ["a"], ["big"]) == ["a==1", "b==2"]
    assert collected("3.10", ["a"], ["big"]) == ["a==1", "b==2", "c==3"]
    assert collected("3.12", ["e"]) == ["e", "tool"]  # without a pin: the newest


def test_every_package_that_setup_cfg_asks_for_is_pinned_for_every_python():
    for minor in (10, 11, 12):
        pins = wheelhouse.pins(ROOT, {"python_version": f"3.{minor}", "extra": ""})
        assert set(wheelhouse.direct(ROOT)) <= set(pins) and pins["numpy"][0] == "2"
    assert {"torch", "pydantic", "submitit", "pytest"} <= set(wheelhouse.direct(ROOT))


def test_a_house_that_is_too_large_to_carry_names_the_largest_wheels(tmp_path, monkeypatch, capsys):
    (tmp_path / "small-1-py3-none-any.whl").write_bytes(b"x" * 10)
    assert wheelhouse.report(tmp_path, "3.12") == 0
    assert f"--target {tmp_path.name}/site {tmp_path.name}/*.whl" in capsys.readouterr().out
    monkeypatch.setattr(wheelhouse, "MOST_MB", 1e-6)
    assert wheelhouse.report(tmp_path, "3.12") == 2
    assert "small-1-py3-none-any.whl" in capsys.readouterr().err


def test_what_is_no_version_of_python_is_refused(monkeypatch, capsys):
    for version in ("3.9", "3", "pypy"):
        monkeypatch.setattr("sys.argv", ["wheelhouse", "--python", version])
        assert wheelhouse.main() == 2
        assert f"PYTHON={version}: name the Python of the other machine" in capsys.readouterr().err
