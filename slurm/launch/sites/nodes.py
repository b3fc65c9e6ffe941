"""Which nodes a cluster has, whatever their state: tells jobs that have to wait from jobs that no node can ever run."""

import re
from dataclasses import dataclass

from jobs.errors import StageFailed
from jobs.quantities import wall_time_s
from jobs.spec.resources import StageResources
from slurm.launch.profiles import SiteOptions
from slurm.launch.squeue import command

AVAILABLE = ("idle", "mixed", "allocated", "completing", "planned")
# `sbatch --test-only` looks for nodes that could start the job by now, and says this also where sbatch would queue the job.
NOT_NOW = ("Requested node configuration is not available", "Required node not available", "Requested nodes are busy",
           "Requested partition configuration not available now")
NEVER = "can not be satisfied"  # sbatch's words before the one above, about what no node has


@dataclass(frozen=True)
class Node:
    name: str
    state: str
    cpus: int
    memory_mb: int
    disk_mb: int
    gres: str

    @property
    def is_available(self) -> bool:
        return self.state.rstrip("*~#!%$@^-+") in AVAILABLE

    def gpus(self, kind: str = "") -> int:
        """The number of GPUs, or of those of one kind: the gres gpu:a100:4(S:0-1),nvme:1 has 4, all of the kind a100."""
        found = re.findall(r"(?:^|,)gpu(?::([^:,(]*[^:,(\d][^:,(]*))?:(\d+)", self.gres)
        return sum(int(count) for its_kind, count in found if kind in ("", its_kind))


def nodes_of(site: SiteOptions) -> list[Node]:
    """The nodes of the profile's partitions, or of the default one, each once. Raises StageFailed if sinfo does not answer."""
    fields = "NodeList:|,StateLong:|,CPUs:|,Memory:|,Disk:|,Gres:|,Partition:"
    where = [f"--partition={site.partition}"] * bool(site.partition) + [f"--nodes={site.nodelist}"] * bool(site.nodelist)
    lines = [line.split("|") for line in command("sinfo", "--noheader", "--Node", f"--Format={fields}", *where).splitlines()]
    found = {}
    for name, state, cpus, memory, disk, gres, partition in (line for line in lines if len(line) == 7):
        if site.partition or partition.strip().endswith("*"):  # * marks the default partition
            found[name] = Node(name, state, int(cpus), int(memory), int(disk), gres)
    return list(found.values())


def time_limit_s(site: SiteOptions) -> int | None:
    """The longest time limit of the profile's partitions, or of the default one; None where there is none, or it is unknown."""
    try:
        lines = command("sinfo", "--noheader", "--format=%P|%l", *[f"--partition={site.partition}"] * bool(site.partition))
    except StageFailed:
        return None
    limits = [limit.strip() for name, _, limit in (line.partition("|") for line in lines.splitlines())
              if site.partition or name.strip().endswith("*")]
    seconds = [wall_time_s(limit) for limit in limits]
    return None if None in seconds else max(filter(None, seconds), default=None)


def megabytes(size: str) -> float:
    """An amount in sbatch's words: 4G; a number alone is MB."""
    return int(size.rstrip("KMGT")) * {"K": 2 ** -10, "G": 2 ** 10, "T": 2 ** 20}.get(size[-1], 1)


def why_it_waits(resources: StageResources, cpus: int, site: SiteOptions) -> str | None:
    """Why jobs with these resources do not start now, although the cluster has the nodes; None if it has too few such nodes.

    `cpus`: cores of a process. sbatch itself refuses features that no node has, and jobs beyond the limits of a QOS.
    """
    memory_mb = 1024 * ((site.mem_gb if resources.mem_gb is None else resources.mem_gb) or 0)
    kind = re.search(r"(?:^|,)gpu:([^:,]*[^:,\d][^:,]*)", site.gres or "")
    try:
        nodes = nodes_of(site)
    except StageFailed:
        return None
    fitting = [node for node in nodes if node.cpus >= resources.tasks * cpus and node.memory_mb >= memory_mb
               and node.disk_mb >= megabytes(site.tmp or "0") and node.gpus(kind[1] if kind else "") >= resources.gpus_per_node]
    if len(fitting) < resources.fewest_nodes:
        return None
    away = sum(not node.is_available for node in fitting)
    return (f"{away:,} of the {len(fitting):,} nodes that could run it are down, drained or reserved" if away else
            "the nodes that could run it are busy, or their partition is closed")
