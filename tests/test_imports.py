"""The house's import rules, and that the login node never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

ALLOWED = {"diffusion": {"diffusion"}, "jobs": {"diffusion", "jobs"}, "slurm": {"diffusion", "jobs", "slurm"}}
MATHEMATICS = {"torch", "numpy", "diffusion"} | set(sys.stdlib_module_names)


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        wrong = imported(file) & set(ALLOWED) - ALLOWED[package]
        assert not wrong, f"{file} imports {wrong}"


def test_diffusion_needs_torch_and_numpy_only():
    for file in (ROOT / "diffusion").rglob("*.py"):
        assert imported(file) <= MATHEMATICS, file


def loaded_by(code: str) -> set[str]:
    result = subprocess.run([sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True,
                            cwd=ROOT, check=True)
    return {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}


def test_help_loads_nothing_heavy():
    loaded = loaded_by("from click.testing import CliRunner\nfrom slurm.cli.main import cli\n"
                       "assert CliRunner().invoke(cli, ['run', '--help']).exit_code == 0")
    assert not loaded & {"torch", "numpy", "pydantic", "rich", "h5py", "submitit", "yaml"}


def test_the_command_line_never_loads_torch():
    files = [file for file in sorted((ROOT / "slurm").rglob("*.py")) if file.stem != "__init__"]
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    assert "slurm.cli.main" in modules and "slurm.launch.submit" in modules
    assert "torch" not in loaded_by(f"import {', '.join(modules)}")


def test_checking_a_spec_does_not_load_torch():
    loaded = loaded_by("from pathlib import Path\nfrom slurm.cli.check import print_check\n"
                       "print_check(Path('configs/schedules-sweep.yaml'), ())")
    assert "torch" not in loaded
