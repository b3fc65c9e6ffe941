"""The order of the rooms: a folder of code imports its own files and those of rooms below, and nothing runs in circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from paths import ROOT

# From low to high. A room imports itself and the rooms before it. A file at the top of a package counts as a room.
ORDER = {
    "diffusion": ["lookup", "schedules", "respacing", "coefficients", "parameterisation", "loss_weights",
                  "gaussian", "timestep_samplers", "objectives", "losses", "ema", "posthoc_ema", "baselines", "networks",
                  "samplers", "editing", "guidance"],
    "jobs": ["errors", "quantities", "randomness", "finite", "terminal", "own_python", "storage",
             "spec", "parallel", "data", "run", "kinds",
             "training", "sampling", "making", "evaluation", "stage", "cost", "report"],
    "slurm": ["wheelhouse", "testbed", "launch", "status", "cli"],
}
MOST_FILES = 16
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file
           for package in ORDER for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"}


def imports_of(file: Path) -> set[str]:
    """Our modules that `file` imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(MODULES)


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_place_and_is_small():
    for package, order in ORDER.items():
        assert {room_of(module) for module in MODULES if module.startswith(f"{package}.")} == set(order)
    folders = {file.parent for file in MODULES.values()}
    for folder in folders:
        assert len([file for file in folder.iterdir() if file.is_file()]) <= MOST_FILES, f"{folder}: ask which rooms it is two of"


def test_no_room_imports_a_higher_one():
    for module, file in MODULES.items():
        package, order = module.split(".")[0], ORDER[module.split(".")[0]]
        for other in imports_of(file):
            if other.startswith(f"{package}."):
                assert order.index(room_of(other)) <= order.index(room_of(module)), f"{file} imports {other}"


def test_no_imports_run_in_circles():
    list(TopologicalSorter({module: imports_of(file) for module, file in MODULES.items()}).static_order())  # CycleError
