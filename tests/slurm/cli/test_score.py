"""What `iddpm score` shows while it works."""

import time

import pytest

from jobs.run import progress
from slurm.cli.score import _Showing


@pytest.fixture
def lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0.1)
    return lambda: capsys.readouterr().err.splitlines()


def test_preparation_has_its_lines_and_each_set_is_counted_anew(lines):
    showing = _Showing(batch_size=10)
    time.sleep(1.2)
    assert lines()[0].startswith("score preparing (0:0")
    for size in (25, 40, 40):  # the sets may be equally large
        for start in range(0, size, 10):
            showing(size)
            assert (showing.done, showing.bar.total) == (start, size)
    time.sleep(1.2)
    showing.close()
    assert lines()[-1].startswith("score 30/40 images")
