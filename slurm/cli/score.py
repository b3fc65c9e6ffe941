"""`iddpm score`: print metrics of any samples, as a table or as JSON."""

import json
import os
import threading
import time
from pathlib import Path

from rich import box
from rich.table import Table

from jobs.errors import UserError
from jobs.run.pace import Pace
from jobs.run.progress import Bar, duration
from jobs.spec.metrics import METRICS
from slurm.cli.console import console


def print_score(samples: str, reference: str, features: str, metrics: str, runs_folder: Path, batch_size: int,
                as_json: bool) -> None:
    """Compare `samples` with `reference`. `metrics`: names with commas between them.

    Raises UserError for unknown metrics, and for samples, references and features that do not fit together.
    """
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    if not names or (unknown := [name for name in names if name not in METRICS]):
        raise UserError(f"--metrics: {', '.join(unknown) if names else 'none given'}; there are {', '.join(METRICS)}")
    from jobs.data.compared import open_compared
    opened = open_compared(samples, reference, names, features)  # before torch, which takes seconds to load
    from jobs.evaluation.score import score
    showing = _Showing(batch_size)
    try:
        result = score(samples, reference, features, names, runs_folder / ".cache", batch_size, len(os.sched_getaffinity(0)),
                       showing, opened=opened)
    finally:
        showing.close()
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("", overflow="fold")
    for name, found in zip(result["headline"], result["metrics"].values(), strict=True):
        table.add_row(name, f"{found['value']:.5g}", "\n".join(_details(found)))
    console().print(table)
    images = result["reference"]["images"]
    against = reference if images is None else f"{images:,} images of {reference}"
    print(f"{result['samples']:,} samples of {samples} against {against}\nfeatures: {result['features']['note']}")
    for remark in result["remarks"]:
        print(remark)


class _Showing:
    """Shows how far the features of the reference, and then of the samples, are. Called before each batch of a set.

    A thread shows it, so that long preparation, such as training the classifier, has its lines too.
    """

    def __init__(self, batch_size: int):
        self.batch_size, self.done, self.pace = batch_size, 0, Pace()
        self.bar, self.began, self.ended = Bar("score", 0, "images"), time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._show, daemon=True)
        self.thread.start()

    def __call__(self, images: int) -> None:
        """`images`: how many are in the set at hand."""
        self.done += self.batch_size
        if images != self.bar.total or self.done >= images:  # the next set
            self.bar.total, self.done = images, 0
            self.pace.restart()
        self.pace.add(self.done)

    def _show(self) -> None:
        while not self.ended.wait(0.5):
            preparing = "" if self.bar.total else f"preparing ({duration(time.monotonic() - self.began)})"
            self.bar.show(self.done, self.pace.rate(), preparing)

    def close(self) -> None:
        """Show nothing further."""
        self.ended.set()
        self.thread.join()
        self.bar.close()


def _details(found: dict) -> list[str]:
    """The lines beside the value of a metric: interval, deviations and a note, as far as the metric has them."""
    lines = []
    if (interval := found.get("interval")) is not None:
        lines.append(f"{interval[0]:.5g} to {interval[1]:.5g}")
    for name in ("infinity", "standard_error", "standard_deviation"):
        if found.get(name) is not None:
            lines.append(f"{name.replace('_', ' ')} {found[name]:.5g}")
    return lines + ([found["note"]] if found.get("note") else [])
