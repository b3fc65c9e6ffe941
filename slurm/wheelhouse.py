"""Collect the wheels that a machine without internet lacks: python -m slurm.wheelhouse --python 3.12 --without torch,numpy

`make wheelhouse` calls this. The versions are those of constraints.txt; what only packages in `--without` need is left out, too.
Needs pip and packaging on the machine that has internet, and nothing but pip on the other one.
"""

import argparse
import configparser
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TESTING = ("pytest", "pytest-timeout")  # what `make gpu` needs besides
MOST_MB = 60
GLIBC = range(5, 29)  # 2.5 to 2.28: a wheel for an older one works with a newer one


def main() -> int:
    """Collect the wheels; print their size and the line that installs them. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", metavar="3.12",
                        help="version of Python on the other machine; python3.12 is fine, too")
    parser.add_argument("--without", default="", metavar="torch,numpy", help="packages that the other machine has")
    parser.add_argument("--machine", default=platform.machine(), help="the other machine's processor, as `uname -m` prints it")
    parser.add_argument("--folder", type=Path, default=Path("wheelhouse"))
    asked = parser.parse_args()
    version = re.fullmatch(r"(?:.*python)?(3\.\d+)", asked.python)
    if version is None or int(version[1][2:]) < 10:
        return complain(f"PYTHON={asked.python}: name the Python of the other machine, 3.10 or later, such as PYTHON=3.12")
    without = {canonicalize_name(name) for name in re.split(r"[,\s]+", asked.without) if name}
    environment = {"python_version": version[1], "python_full_version": f"{version[1]}.0", "sys_platform": "linux",
                   "platform_system": "Linux", "platform_machine": asked.machine, "os_name": "posix", "extra": "",
                   "implementation_name": "cpython", "platform_python_implementation": "CPython"}
    try:
        collect(asked.folder, direct(ROOT), pins(ROOT, environment), without, environment)
    except subprocess.CalledProcessError as error:
        return complain(f"pip found no wheel for Python {version[1]} on {asked.machine}: see above. Where the other machine has "
                        f"that package, add its name: WITHOUT={','.join([*sorted(without), 'NAME'])}", error.returncode)
    return report(asked.folder, version[1])


def complain(problem: str, status: int = 2) -> int:
    print(f"wheelhouse: {problem}", file=sys.stderr)
    return status


def direct(root: Path) -> list[str]:
    """Return the names of the packages that setup.cfg asks for, and those of the tests on a GPU."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    return [canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")] + [*TESTING]


def pins(root: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return the version of each package in constraints.txt for such an environment."""
    lines = [line.partition("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in wanted
            if each.marker is None or each.marker.evaluate(environment)}


def collect(folder: Path, names: Iterable[str], versions: dict[str, str], without: Collection[str],
            environment: dict[str, str]) -> None:
    """Download the wheels of `names`, and of all that they need, to `folder`, which is emptied first.

    A package without an entry in `versions` comes in its newest version. Raises CalledProcessError where pip has no wheel.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    known, new = set(without), set(names) - set(without)
    while new:
        before = set(folder.glob("*.whl"))
        download(folder, [f"{name}=={versions[name]}" if name in versions else name for name in sorted(new)], environment)
        known |= new
        new = {name for wheel in set(folder.glob("*.whl")) - before for name in needs(wheel, environment)} - known


def download(folder: Path, wanted: list[str], environment: dict[str, str]) -> None:
    """Let pip download these wheels alone, without what they need."""
    machine = environment["platform_machine"]
    platforms = [*(f"manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)), f"manylinux2014_{machine}",
                 f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--only-binary=:all:", "--implementation", "cp", "--python-version", environment["python_version"],
                    *(f"--platform={name}" for name in platforms), "--dest", str(folder), *wanted], check=True)


def needs(wheel: Path, environment: dict[str, str]) -> Iterator[str]:
    """Yield the names of the packages that a wheel needs in such an environment."""
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = BytesParser().parsebytes(file.read(name))
    for line in metadata.get_all("Requires-Dist", []):
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(environment):
            yield canonicalize_name(wanted.name)


def report(folder: Path, version: str) -> int:
    """Print how many wheels there are, and how to install them. Return 2 where they are too large to carry."""
    sizes = {wheel.name: wheel.stat().st_size / 1e6 for wheel in folder.glob("*.whl")}
    name = folder.name
    print(f"{folder}: {len(sizes)} wheels, {sum(sizes.values()):.1f} MB. On the other machine, with {name}/ beside the code:\n"
          f"  python{version} -m pip install --no-index --no-deps --target {name}/site {name}/*.whl\n"
          f"  export PYTHONPATH=$PWD:$PWD/{name}/site; python{version} -m slurm.cli.main run configs/quickstart.yaml")
    if sum(sizes.values()) <= MOST_MB:
        return 0
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    return complain(f"more than {MOST_MB} MB. The largest are {', '.join(largest)}: name in WITHOUT what the other machine has")


if __name__ == "__main__":
    sys.exit(main())
