"""The test bed: a real SLURM on this machine. Needs root and the Debian packages that `make test` installs."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import UserError
from slurm.testbed import daemons

# One after another: each cluster wants much of the machine.
pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

IDDPM = Path(sys.executable).parent / "iddpm"


def slurm(cluster, *command) -> str:
    return subprocess.run(command, env=os.environ | {"SLURM_CONF": str(cluster.conf)}, capture_output=True, text=True,
                          check=True, timeout=60).stdout


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.2)
    return value


@pytest.fixture
def home(tmp_path):
    yield tmp_path / "cluster"
    if (tmp_path / "cluster" / "testbed.json").exists():
        daemons.down(tmp_path / "cluster")


def test_a_cluster_runs_a_job_on_two_nodes_loses_one_and_goes_on(home):
    printed = subprocess.run([IDDPM, "cluster", "up", "--home", home, "--nodes", "2"], capture_output=True, text=True, check=True)
    assert printed.stdout == f"export SLURM_CONF={home}/slurm.conf\n"
    cluster = daemons.load(home)
    assert sorted(slurm(cluster, "srun", "-N2", "printenv", "SLURMD_NODENAME").split()) == ["n1", "n2"]
    assert "gpu:2" in slurm(cluster, "sinfo", "-h", "-o", "%G")

    job = slurm(cluster, "sbatch", "--parsable", "-w", "n2", "-o", "/dev/null", "--requeue", "--wrap", "sleep 300").strip()
    until(lambda: "RUNNING" in slurm(cluster, "squeue", "-h", "-j", job, "-o", "%T"))
    # SLURM calls a job running a moment before its process is there.
    sleeping = until(lambda: [pid for pid in Path("/proc").glob("[0-9]*") if _is_job(pid, job)])
    daemons.fail(home, "n2")
    assert not [pid for pid in sleeping if (pid / "exe").exists()]
    until(lambda: "down" in slurm(cluster, "sinfo", "-h", "-n", "n2", "-o", "%T"))
    until(lambda: "PENDING" in slurm(cluster, "squeue", "-h", "-j", job, "-o", "%T"))
    daemons.heal(home, "n2")
    until(lambda: "idle" in slurm(cluster, "sinfo", "-h", "-n", "n2", "-o", "%T"))
    slurm(cluster, "scancel", job)
    until(lambda: "CANCELLED" in slurm(cluster, "sacct", "-n", "-X", "-j", job, "-o", "State"))


def _is_job(process: Path, job: str) -> bool:
    try:
        return f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_two_clusters_do_not_know_of_each_other_and_killed_ones_come_up_again(home, tmp_path):
    other = tmp_path / "other"
    first, second = daemons.up(home, 1, 2, 0), daemons.up(other, 1, 2, 0, accounting=False)
    try:
        job = slurm(first, "sbatch", "--parsable", "-o", "/dev/null", "--hold", "--wrap", "true").strip()
        assert job in slurm(first, "squeue", "-h") and slurm(second, "squeue", "-h") == ""
        with pytest.raises(UserError, match="a cluster of 1 nodes x 2 CPUs, 0 GPUs is running"):
            daemons.up(home, 2, 2, 0)
        for daemon in ("slurmctld", "slurmdbd", "mariadbd", "munged"):  # as a machine that loses power
            os.kill(int((home / "run" / f"{daemon}.pid").read_text()), 9)
        again = daemons.up(home, 1, 2, 0)
        assert set(slurm(second, "sinfo", "-h", "-o", "%T").split()) == {"idle"}
        assert slurm(again, "srun", "hostname")
    finally:
        daemons.down(other)


def test_clusters_may_start_at_the_same_moment(home, tmp_path):
    homes = [home, tmp_path / "other"]
    with ThreadPoolExecutor(2) as both:
        clusters = list(both.map(lambda place: daemons.up(place, 1, 2, 0), homes))
    try:
        assert {"tmp", "mysql"} <= {file.name for file in homes[1].iterdir()}
        assert all(slurm(cluster, "sacctmgr", "-n", "list", "cluster").strip() for cluster in clusters)
    finally:
        daemons.down(homes[1])


def test_what_cannot_be_is_refused(home):
    with pytest.raises(UserError, match="no cluster here"):
        daemons.down(home)
