"""Time how much of evaluating N images is our code, not the feature extractor: python tests/benchmarks/evaluate.py [N]

The extractor is a stand-in with Inception's widths (2048, 2023, 1008) and about a twentieth of its work; with Inception our
share of the pass over the images is that much smaller. The work after the pass (eigenvalues, neighbours) has a time by metric.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from jobs.evaluation.extraction import extract
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.fid import GROUPS, distance_with_interval
from jobs.evaluation.metrics.frechet import frechet_distance
from jobs.evaluation.metrics.inception_score import inception_score
from jobs.evaluation.metrics.kid import kernel_distance
from jobs.evaluation.metrics.precision_recall import precision_and_recall
from jobs.parallel.group import process_group

WIDTHS = {"pool": 2048, "spatial": 2023, "probabilities": 1008}


def main(count: int, batch_size: int = 64) -> None:
    torch.set_num_threads(2)
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(),
                                 torch.nn.Conv2d(64, 128, 3, padding=1), torch.nn.ReLU(),
                                 torch.nn.Conv2d(128, 512, 3, stride=2, padding=1), torch.nn.AdaptiveAvgPool2d(2))
    spent = [0.0]

    def network(batch, wanted):
        began = time.perf_counter()
        pool = layers(batch.float() / 128 - 1).flatten(1)
        parts = {"pool": pool, "spatial": pool[:, :2023], "probabilities": pool[:, :1008].softmax(dim=1)}
        spent[0] += time.perf_counter() - began
        return parts
    features = Features("stand-in", None, "", False, network, WIDTHS)
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", 2) as group:
        for wanted in ({"pool"}, {"pool", "spatial", "probabilities", "rows"}):
            began, spent[0] = time.perf_counter(), 0.0
            found = extract(images, features, wanted, group, batch_size, groups=GROUPS, most_rows=50_000)
            whole = time.perf_counter() - began
            print(f"pass for {', '.join(sorted(wanted))}: {whole:.1f} s, "
                  f"{(whole - spent[0]) / count * 1e3:.2f} ms an image ours, "
                  f"{spent[0] / count * 1e3:.2f} ms the extractor's: {1 - spent[0] / whole:.0%}")
    reference, rows = found.pool.fitted(), found.rows
    for name, work in (("fid with interval", lambda: distance_with_interval(found.pool, reference)),
                       ("fid alone", lambda: frechet_distance(found.pool.fitted(), reference)),
                       ("sfid", lambda: frechet_distance(found.spatial.fitted(), found.spatial.fitted())),
                       ("inception_score", lambda: inception_score(found.probabilities)),
                       ("kid", lambda: kernel_distance(rows, rows)),
                       ("precision_recall", lambda: precision_and_recall(rows, rows))):
        began = time.perf_counter()
        work()
        print(f"{name}: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
