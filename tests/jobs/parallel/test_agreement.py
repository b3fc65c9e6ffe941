"""The group in which ranks agree to stop."""

import torch.distributed as dist

from jobs.parallel.agreement import Agreement
from jobs.parallel.group import COLLECTIVE_TIMEOUT
from jobs.parallel.interruption import Interruption


def test_ranks_wait_for_each_other_as_long_as_in_all_collectives(monkeypatch):
    asked = {}
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "new_group", lambda **options: asked.update(options))
    Agreement(Interruption())
    assert asked == {"backend": "gloo", "timeout": COLLECTIVE_TIMEOUT}
