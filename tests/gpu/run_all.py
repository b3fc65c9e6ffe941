"""What `make gpu` does: first lines about the machine, the tests of this folder, the bench. Logs are written to gpu-out/.

    python tests/gpu/run_all.py [--bench SECONDS] [--out FOLDER]

The exit status is 0 where all tests passed and the bench came to its end.
"""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PROCESSES = 10  # that test at the same time: most tests wait for the start of processes


def said(command: list[str], log: Path, environment: dict[str, str]) -> int:
    """Run `command`; show and write what it says. Return its exit status."""
    with open(log, "w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                                  env=environment, cwd=ROOT) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            file.write(line)
            file.flush()
    return process.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=float, default=480, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=Path("gpu-out"))
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "wheelhouse" / "site"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    if status := said([sys.executable, str(HERE / "first_minute.py")], out / "first.txt", environment):
        return status
    beside = ["-n", str(PROCESSES), "-p", "no:benchmark"] if find_spec("xdist") else []
    tests = said([sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-rA", "--durations=10",
                  *beside, str(HERE)], out / "tests.txt", environment)
    bench = said([sys.executable, str(HERE / "bench.py"), "--seconds", str(asked.bench), "--json", str(out / "bench.json")],
                 out / "bench.txt", environment)
    print(f"tests {'passed' if not tests else 'FAILED'}; logs and numbers: {asked.out}/")
    return tests or bench


if __name__ == "__main__":
    sys.exit(main())
