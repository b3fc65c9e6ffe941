"""Time the commands of a login node: python tests/benchmarks/commands.py [RUNS]

    --help, check, status   of a study of one run; nothing loads torch
    freeze, status --json   of a sweep of RUNS runs (10,000)
    submit, status, cancel  of that sweep on SLURM, such as that of `eval "$(iddpm cluster up)"`; left out where there is none

Times are medians of five with the extremes; of commands that can run only once, one time.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load

ROOT = Path(__file__).resolve().parent.parent.parent
IDDPM = Path(sys.executable).parent / "iddpm"
# Small networks: `submit` checks that the disk has room for all that the runs will store.
SWEEP = """extends: {quickstart}
name: sweep
model: {{num_channels: 8}}
sample: {{num_samples: 16, batch_size: 16}}
evaluate: {{respacings: []}}
sweep: {{grid: {{train.seed: [{seeds}], diffusion.loss: [simple, hybrid], train.lr: [1e-4, 2e-4]}}}}
"""


def timed(name: str, *arguments: str, folder: Path, times: int = 5) -> None:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        done = subprocess.run([IDDPM, *arguments], cwd=folder, capture_output=True, text=True)
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stdout + done.stderr
    spread = f" [{min(seconds):.2f}, {max(seconds):.2f}]" if times > 1 else ""
    print(f"{name:34s} {statistics.median(seconds):6.2f} s{spread}", flush=True)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        quickstart = os.path.relpath(ROOT / "configs" / "quickstart.yaml", folder)
        (folder / "one.yaml").write_text(f"extends: {quickstart}\nname: one\n")
        (folder / "sweep.yaml").write_text(SWEEP.format(quickstart=quickstart, seeds=", ".join(map(str, range(count // 4)))))
        freeze(load(folder / "one.yaml"), folder / "runs")
        for words in (["--help"], ["check", "one.yaml"], ["status", "one"]):
            timed(" ".join(words), *words, folder=folder)
        began = time.perf_counter()
        runs = freeze(load(folder / "sweep.yaml"), folder / "runs")
        print(f"{f'read and freeze {len(runs):,} runs':34s} {time.perf_counter() - began:6.2f} s", flush=True)
        timed(f"status --json of {len(runs):,} runs", "status", "sweep", "--json", folder=folder)
        if not shutil.which("sbatch") or subprocess.run(["sinfo"], capture_output=True).returncode:
            print("submit, status and cancel on SLURM: left out, there is none here")
            return
        shutil.rmtree(folder / "runs")
        timed("submit --dry-run of one run", "submit", "one.yaml", "--dry-run", folder=folder)
        try:
            timed(f"submit {len(runs):,} runs", "submit", "sweep.yaml", folder=folder, times=1)
            timed("submit again", "submit", "sweep.yaml", folder=folder, times=1)
            timed("status --json", "status", "sweep", "--json", folder=folder)
        finally:
            timed("cancel", "cancel", "runs/sweep", folder=folder, times=1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
