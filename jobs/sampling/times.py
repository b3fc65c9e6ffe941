"""How long samples take: each attempt adds a line for each sampling to the run's sampling.jsonl, which the report reads.

The stage as a whole also starts, looks for chunks and gathers: for a model of one evaluation that is nearly all of its time.
"""

import contextlib
import json

from jobs.parallel.group import Group
from jobs.run.directory import RunDir
from jobs.spec.samplings import Sampling, samplings


class ChunkTimes:
    """The seconds and samples of whole chunks, added up over all ranks."""

    def __init__(self, run: RunDir, group: Group):
        self.run, self.group = run, group
        self.numbers = {sampling: number for number, sampling in enumerate(samplings(run.spec))}
        self.warm = False

    def add(self, sampling: Sampling, rows: int, seconds: float) -> None:
        """Count a chunk of `rows` samples. A rank's first chunk is counted apart: it also warms up."""
        name = f"{self.numbers[sampling]} {'warm' if self.warm else 'first'}"
        self.group.store.add(f"microseconds of {name}", round(1e6 * seconds))
        self.group.store.add(f"samples of {name}", rows)
        self.warm = True

    def write(self) -> None:
        """Add what all ranks have counted to sampling.jsonl; for the main rank. First chunks count where there are no others."""
        lines = []
        for sampling, number in self.numbers.items():
            for name in (f"{number} warm", f"{number} first"):
                if samples := self.group.store.add(f"samples of {name}", 0):
                    seconds = self.group.store.add(f"microseconds of {name}", 0) / 1e6
                    folder = self.run.samples_folder(sampling).relative_to(self.run.path)
                    lines.append({"folder": str(folder), "step": sampling.step, "samples": samples, "process_seconds": seconds,
                                  "device": self.group.device_name})
                    break
        with contextlib.suppress(OSError), open(self.run.sampling_times, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
