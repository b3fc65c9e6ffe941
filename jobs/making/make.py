"""Make pictures for a person from a trained run: what `iddpm make` does once torch is loaded."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.kinds.protocol import model_of
from jobs.making.folder import is_made, write_folder
from jobs.making.prepare import Job
from jobs.making.studio import Studio
from jobs.making.walking import Watch
from jobs.making.works import WORKS
from jobs.parallel.determinism import repeating
from jobs.parallel.group import Group, process_group
from jobs.parallel.precision import computing_in
from jobs.run.progress import Bar
from jobs.sampling.weights import guide_of, load_guide, load_sampled
from jobs.spec.samplings import Sampling


@dataclass(frozen=True)
class Outcome:
    """What was done, for one line."""

    pictures: int
    evaluations: int
    """Of the network for each picture. 0: the pictures were there already."""
    seconds: float
    remark: str


def make(job: Job, out: Path) -> Outcome:
    """Make the pictures of `job` and write the folder `out`; nothing is written before all of them are made.

    Raises UserError where `out` holds other pictures, StageFailed for values that are not finite.
    """
    began, threads = time.monotonic(), torch.get_num_threads()  # all cores, or OMP_NUM_THREADS
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", threads) as group, \
            computing_in(job.spec.sample.precision, group.device), repeating(job.spec.sample.deterministic, group.device):
        network = model_of(job.run.spec).network(job.run.spec)
        sampling = Sampling(job.step)
        weights_sha256, named = load_sampled(job.run, network, sampling), guide_of(job.run, sampling)
        guide = load_guide(job.run, named) if named else None
        record = _record(job, weights_sha256, guide.facts if guide else None, group, threads)
        if is_made(out, record):
            return Outcome(0, 0, 0.0, "")
        bar = Bar("make", 0, "steps")
        try:
            studio = Studio(job, network.to(group.device).eval(), guide.network.to(group.device) if guide else None,
                            group.device, Watch(bar, job.request.film, job.request.steps is None))
            made = WORKS[job.request.work](studio)
        finally:
            bar.close()
    write_folder(out, made, studio.watch.frames, record)
    return Outcome(len(made.pictures), studio.watch.evaluations, time.monotonic() - began, made.remark)


def _record(job: Job, weights_sha256: str, guide: dict | None, group: Group, threads: int) -> dict[str, Any]:
    """All that the pictures depend on: equal records, equal bytes."""
    request = job.request
    return {"run": str(job.run.path), "step": job.step, "weights_sha256": weights_sha256, "guide": guide,
            "sample": job.spec.sample.model_dump(mode="json", exclude={"num_samples", "batch_size", "seed", "at", "compile",
                                                                     "low_res"}),
            "work": request.work, "count": job.count, "labels": job.labels, "seed": job.seed, "steps": request.steps,
            "at": job.at, "interpolate": request.interpolate, "film": request.film,
            "given": {name: picture.sha256 for name, picture in job.given.items()}, "mask": job.mask_sha256,
            "device": group.device_name, "threads": threads if group.device.type == "cpu" else None,
            "torch": torch.__version__}
