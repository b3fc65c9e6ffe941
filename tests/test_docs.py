"""The documents name what exists: files, names in files, rooms, commands, keys of specs."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from click import Group
from paths import ROOT

from jobs.spec.keys import keys_of, types_at
from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.reading.file import load
from slurm.cli.main import cli
from slurm.launch.profiles import Profile

PACKAGES = ("diffusion", "jobs", "slurm")
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"{package}/README.md" for package in PACKAGES)]
RECIPES = ("Add a kind of model", "Add a sampler", "Add a metric", "Add an importer", "Add a parameterisation")
FOLDERS = (*PACKAGES, "tests", "configs")
PATH = re.compile(r"[\w][\w.-]*(/[\w.-]+)*/?")
SUFFIXES = (".py", ".md", ".yaml", ".cfg", ".toml", ".txt", ".html", ".npz")
MADE = ("runs/", "data/", "samples", "report", "bits_per_dim.npz", ".venv", "wheelhouse", "gpu-out")  # written by commands


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """The code in backticks outside blocks, on one line each."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def is_path(span: str) -> bool:
    return bool(PATH.fullmatch(span)) and not span.startswith(MADE) and (
        span.endswith((*SUFFIXES, "/")) or span.startswith(tuple(f"{folder}/" for folder in FOLDERS)))


def exists(path: str, document: str) -> bool:
    """`path` counts from the top or from the document's folder; CAPITALS stand for a name, and the folder before must exist."""
    known = [part for part in path.rstrip("/").split("/")]
    made_up = [index for index, part in enumerate(known) if re.fullmatch(r"[A-Z]+(\.\w+)?", part.removesuffix(".md"))
               and part not in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    path = "/".join(known[:made_up[0]]) if made_up else path
    return any((folder / path).exists() for folder in (ROOT, (ROOT / document).parent, ROOT / "configs"))


def names_in(file: Path) -> set[str]:
    """Functions, classes, methods and variables of a module; methods and fields as CLASS.NAME too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}" for child in node.body for name in _defined(child)}
        found |= _defined(node)
    return found


def _defined(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def named_in_files(text: str) -> list[tuple[str, str]]:
    """Pairs of "`NAME` in `path`" and of "`NAME` (`path`)"."""
    return re.findall(r"`([\w.]+)`\s+(?:in\s+|\()`([\w./-]+\.py)`", text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document):
    paths = [span for span in spans(text_of(document)) if is_path(span)]
    assert paths and not [path for path in paths if not exists(path, document)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file(document):
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(document))
    assert not [link for link in links if not ((ROOT / document).parent / link).is_file()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_name_is_in_the_file_that_is_said_to_have_it(document):
    pairs = named_in_files(text_of(document))
    for name, path in pairs:
        file = next(folder / path for folder in (ROOT, (ROOT / document).parent) if (folder / path).is_file())
        assert name in names_in(file), f"{document}: {name} in {path}"
    assert len(pairs) > 10 or document != "CONTRIBUTING.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_dotted_name_of_our_modules_exists(document):
    dotted = [span for span in spans(text_of(document)) if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", span)]
    assert not [span for span in dotted if span not in keys() and not resolves(span)]


def keys() -> tuple[str, ...]:
    return tuple(key for kind in KINDS for key in keys_of(kind_named(kind).written))


def resolves(dotted: str) -> bool:
    """Whether `dotted` is a module or folder, or a name in a module."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            return length == len(parts) or ".".join(parts[length:]) in names_in(path.with_suffix(".py"))
    return ROOT.joinpath(*parts).is_dir()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_is_in_the_readme_of_its_package(package):
    text, top = text_of(f"{package}/README.md"), ROOT / package
    rooms = {f"{file.parent.relative_to(top)}/" for file in top.rglob("*.py") if file.parent != top}
    rooms |= {file.name for file in top.glob("*.py") if file.stem != "__init__"}
    assert rooms and not [room for room in rooms if f"`{room}`" not in text]
    assert len(text.splitlines()) <= 40, "more than a screen"


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_are_listed_from_low_to_high(package):
    order = next(ast.literal_eval(node.value) for node in ast.parse((ROOT / "tests/test_rooms.py").read_text()).body
                 if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ORDER")
    rows = re.findall(r"^\| (`.*?) \|", text_of(f"{package}/README.md"), re.MULTILINE)
    listed = [re.sub(r"\.py$", "", name).split("/")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert list(dict.fromkeys(listed)) == order[package]


def test_every_recipe_has_at_most_five_numbered_steps():
    sections = dict(re.findall(r"^## (.+?)\n\n(.*?)(?=^## |\Z)", text_of("CONTRIBUTING.md"), re.DOTALL | re.MULTILINE))
    for recipe in RECIPES:
        steps = sections[recipe].strip().splitlines()
        assert [step[:3] for step in steps] == [f"{number}. " for number in range(1, len(steps) + 1)] and len(steps) <= 5, recipe


def commands_in(text: str) -> list[list[str]]:
    """The words after each `iddpm` in code: [["train|sample", "RUN"], ...]."""
    code = [line for block in blocks(text) for line in block.splitlines()] + spans(text)
    command = re.compile(r"\biddpm ([a-z|]+(?: [a-z0-9|][a-z0-9|-]*)?)")
    return [found.split() for line in code for found in command.findall(line.split("#")[0])]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_one_of_the_command_line(document):
    for words in commands_in(text_of(document)):
        names = words[0].split("|")
        assert set(names) <= set(cli.commands), f"{document}: iddpm {words[0]}"
        group = cli.commands[names[0]]
        if isinstance(group, Group) and words[1:]:
            assert set(words[1].split("|")) <= set(group.commands), f"{document}: iddpm {' '.join(words)}"


def test_the_readme_names_every_command():
    text = text_of("README.md")
    named = {name for words in commands_in(text) for name in words[0].split("|")}
    assert set(cli.commands) <= named | {"logs", "cancel", "requeue", "cluster"} & set(re.findall(r"iddpm (\w+)", text))
    kinds_of_data = {words[1] for words in commands_in(text) if words[0] == "data" and words[1:]}
    assert kinds_of_data == set(cli.commands["data"].commands)


def test_the_spec_of_the_readme_is_valid(tmp_path):
    block = next(block for block in blocks(text_of("README.md")) if block.startswith("extends:"))
    shutil.copy(ROOT / "configs/cifar10.yaml", tmp_path)
    (tmp_path / "spec.yaml").write_text(block)
    study = load(tmp_path / "spec.yaml")
    assert [run.name for run in study.runs][0] == "noise_schedule=linear,loss=hybrid" and len(study.runs) == 4


def test_every_key_in_the_text_of_the_readme_is_a_key_of_specs():
    written = kind_named("diffusion").written
    sections = [name for name in written.model_fields if "." in "".join(key for key in keys() if key.startswith(f"{name}."))]
    named = {span.split("=")[0].split(":")[0] for span in spans(text_of("README.md"))}
    dotted = {span for span in named if re.fullmatch(rf"({'|'.join(sections)})(\.[a-z_]+)+", span)}
    kinds = [kind_named(kind).written for kind in KINDS]
    assert len(dotted) > 8 and not [key for key in dotted if not any(types_at(each, key.split(".")) for each in kinds)]


def test_the_profile_of_the_readme_has_options_of_profiles():
    block = next(block for block in blocks(text_of("README.md")) if block.startswith("partition:"))
    named = re.findall(r"^(\w+):", block, re.MULTILINE)
    assert len(named) > 5 and set(named) <= set(Profile.model_fields)
