"""What sinfo says of nodes, and which of them could run a job."""

import pytest

from jobs.spec.resources import StageResources
from slurm.launch.profiles import SiteOptions
from slurm.launch.sites import nodes

SINFO = """\
n1|drained*|64|256000|1000|gpu:a100:4(S:0-1),nvme:1|gpu
n1|drained*|64|256000|1000|gpu:a100:4(S:0-1),nvme:1|all*
n2|idle|64|256000|0|gpu:h100:8|gpu
n3|down~|8|16000|1000|(null)|all*
"""


@pytest.fixture(autouse=True)
def sinfo(monkeypatch):
    monkeypatch.setattr(nodes, "command", lambda *words: SINFO if "--partition=gpu" not in words else
                        "".join(line + "\n" for line in SINFO.splitlines() if line.endswith("|gpu")))


def test_each_node_is_read_once_from_the_default_partition_or_the_profiles():
    assert [node.name for node in nodes.nodes_of(SiteOptions())] == ["n1", "n3"]
    first, second = nodes.nodes_of(SiteOptions(partition="gpu"))
    assert (first.gpus(), first.gpus("a100"), first.gpus("h100"), second.gpus()) == (4, 4, 0, 8)
    assert (first.is_available, second.is_available) == (False, True)


@pytest.mark.parametrize("text, partition, seconds", [
    ("gpu|15:00\nall*|1-00:00:00\n", None, 86400), ("gpu|15:00\n", "gpu", 900), ("gpu|15:00\nall*|infinite\n", "gpu,all", None),
    ("gpu|15:00\nlong|2-12:00:00\n", "gpu,long", 216000), ("", None, None), ("nonsense\n", "gpu", None)])
def test_the_time_limit_of_a_partition(monkeypatch, text, partition, seconds):
    monkeypatch.setattr(nodes, "command", lambda *words: text)
    assert nodes.time_limit_s(SiteOptions(partition=partition)) == seconds


@pytest.mark.parametrize("resources, cpus, site, waits", [
    ({}, 1, {}, "2 of the 2 nodes"), ({"mem_gb": 100}, 1, {}, "1 of the 1 nodes"), ({"mem_gb": 300}, 1, {}, None),
    ({}, 65, {}, None), ({}, 1, {"tmp": "1000"}, "2 of the 2 nodes"), ({}, 1, {"tmp": "1G"}, None), ({"nodes": 3}, 1, {}, None),
    ({"gpus_per_node": 4}, 1, {}, "1 of the 1 nodes"),
    ({"gpus_per_node": 5}, 1, {}, None), ({"gpus_per_node": 5}, 1, {"partition": "gpu"}, "are busy"),
    ({"gpus_per_node": 5}, 1, {"partition": "gpu", "gres": "gpu:a100"}, None),
    ({"gpus_per_node": 2}, 1, {"gres": "gpu:a100"}, "1 of the 1 nodes"), ({"mem_gb": 0}, 1, {"mem_gb": 999}, "2 of the 2 nodes")])
def test_jobs_wait_only_for_nodes_that_there_are(resources, cpus, site, waits):
    why = nodes.why_it_waits(StageResources(**resources), cpus, SiteOptions(**site))
    assert why is None if waits is None else waits in why
