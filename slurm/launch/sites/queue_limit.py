"""How many jobs of this user a cluster takes at once: the limits of QOS and association, from SLURM's accounting."""

import getpass

from jobs.errors import StageFailed
from slurm.launch.profiles import Profile, SiteOptions, Stages
from slurm.launch.squeue import command


def queue_limit(profile: Profile) -> int | None:
    """The most jobs of this profile that may be in the queue; None where SLURM has no such limit, or does not tell it."""
    sites = [profile.of_stage(stage) for stage in Stages.model_fields]
    try:
        user = getpass.getuser()
        found = [limit for site in sites for limit in _limits(user, site)]
    except (StageFailed, OSError, KeyError, ValueError):  # no accounting, no such user, or a form of answer that we do not know
        return None
    return min(found, default=None)


def _limits(user: str, site: SiteOptions) -> list[int]:
    account = site.account or _table("user", f"name={user}", fields="DefaultAccount")[0][0]
    found, qualities = [], set()
    for partition, qos, default, *limits in _table("assoc", f"user={user}", f"account={account}",
                                                   fields="Partition,QOS,DefaultQOS,MaxSubmitJobs,GrpSubmitJobs"):
        if partition in ("", site.partition):
            found += limits
            qualities.add(site.qos or default or (qos if "," not in qos else "normal"))
    for name, *limits in _table("qos", fields="Name,MaxSubmitJobsPU,MaxSubmitJobsPA,GrpSubmitJobs"):
        found += limits if name in qualities | {_partition_qos(site.partition)} else []
    return [int(limit) for limit in found if limit]


def _partition_qos(partition: str | None) -> str:
    """The QOS of a partition, whose limits hold too; of several partitions, or the default one, none."""
    if not partition or "," in partition:
        return ""
    words = command("scontrol", "show", "partition", partition).split()
    return next((word.partition("=")[2] for word in words if word.startswith("QoS=")), "")


def _table(*what: str, fields: str) -> list[list[str]]:
    lines = command("sacctmgr", "--noheader", "--parsable2", "show", *what, f"format={fields}").splitlines()
    return [line.split("|") for line in lines if line.count("|") == fields.count(",")]
