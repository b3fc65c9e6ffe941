"""How many jobs of a user a cluster takes, as SLURM's accounting tells it."""

import pytest

from jobs.errors import StageFailed
from slurm.launch.limits import Limits, with_queue_limit
from slurm.launch.profiles import Profile, Stages
from slurm.launch.sites import queue_limit

ANSWERS = {  # as SLURM 22.05 writes them
    "user": "us\n", "us": "|normal,small|small|40|\ngpu|normal||30|\n", "them": "|normal|||\n",
    "qos": "normal|||\nsmall|20||50\nlong|7||\npart|||5\n", "partition": "PartitionName=gpu\n   AllowQos=ALL QoS=part State=UP\n"}


@pytest.fixture(autouse=True)
def accounting(monkeypatch):
    def command(*words):
        assert words[:2] == ("scontrol", "show") or words[:3] == ("sacctmgr", "--noheader", "--parsable2")
        account = next((word.partition("=")[2] for word in words if word.startswith("account=")), None)
        return ANSWERS[account or words[2 if words[0] == "scontrol" else 4]]
    monkeypatch.setattr(queue_limit, "command", command)
    monkeypatch.setattr("getpass.getuser", lambda: "me")


@pytest.mark.parametrize("settings, limit", [
    ({}, 20), ({"account": "them"}, None), ({"qos": "normal"}, 40), ({"qos": "long"}, 7), ({"partition": "gpu"}, 5),
    ({"account": "them", "stages": Stages(report={"qos": "long"})}, 7)])
def test_the_least_of_association_qos_and_partition_counts(settings, limit):
    assert queue_limit.queue_limit(Profile(**settings)) == limit


def test_only_limits_that_hold_count_and_a_profile_knows_better(monkeypatch):
    assert with_queue_limit(Profile(), Limits(enforced=True)).max_queued == 20
    assert with_queue_limit(Profile(), Limits()).max_queued is None
    assert with_queue_limit(Profile(max_queued=9), Limits(enforced=True)).max_queued == 9


@pytest.mark.parametrize("error", [StageFailed("sacctmgr: not on the PATH"), KeyError("no such user")])
def test_without_accounting_there_is_no_limit(monkeypatch, error):
    def silent(*words):
        raise error
    monkeypatch.setattr(queue_limit, "command", silent)
    assert queue_limit.queue_limit(Profile()) is None
