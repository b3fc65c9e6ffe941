from pathlib import Path

import pytest

from jobs.cost.bench import measure as measuring
from jobs.cost.bench import peaks as bench_peaks
from jobs.cost.bench.measure import for_one_rank
from jobs.cost.bench.timing import Repeats
from jobs.parallel.group import process_group
from jobs.spec.reading.file import load


@pytest.fixture
def short():
    """As few repeats as quartiles need."""
    return Repeats(rounds=3, slice_s=0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch, make_run, short):
    """With the small spec in small.yaml."""
    make_run()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "QUICK", short)
    monkeypatch.setattr(bench_peaks, "SQUARES", {"cpu": (32, 64)})
    monkeypatch.setattr(bench_peaks, "CONVOLUTIONS", {"cpu": ((1, 16, 8), (2, 16, 16))})
    return tmp_path


@pytest.fixture
def spec(folder):
    return for_one_rank(load(Path("small.yaml")).runs[0].spec)


@pytest.fixture
def group(tmp_path):
    with process_group(tmp_path / "meeting", threads=1) as found:
        yield found
