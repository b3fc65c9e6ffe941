"""Write the files of the test bed: slurm.conf, gres.conf, slurmdbd.conf, and a cluster profile that plays a container."""

import os
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from jobs.storage.files import write_text


@dataclass(frozen=True)
class Testbed:
    """The options that a cluster was started with, as in home/testbed.json."""

    home: Path
    nodes: int
    cpus: int
    gpus: int
    accounting: bool
    ports: dict[str, int]

    @property
    def conf(self) -> Path:
        return self.home / "slurm.conf"

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def socket(self) -> Path:
        return self.home / "run" / "munge.socket"


def write_config(cluster: Testbed) -> None:
    """Write the files into the home folder of the cluster."""
    home, ports = cluster.home, cluster.ports
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 20 * 0.8)
    host = socket.gethostname().split(".")[0]
    accounting = f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports['slurmdbd']}
AccountingStoragePass={cluster.socket}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1""" if cluster.accounting else "\nAccountingStorageType=accounting_storage/none"
    nodes = "\n".join(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[name]} CPUs={cluster.cpus} "
                      f"RealMemory={memory} Gres=gpu:{cluster.gpus}" for name in cluster.names)
    write_text(cluster.conf, f"""# Made by `iddpm cluster up`; the next one overwrites changes.
ClusterName=testbed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports['slurmctld']}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={cluster.socket}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/run/slurmctld.pid
SlurmdPidFile={home}/run/slurmd-%n.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdLogFile={home}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=5
MinJobAge=600
ReturnToService=2
JobRequeue=1
MaxArraySize=10001
MaxJobCount=50000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal{accounting}
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=30 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=off State=UP
""")
    for number in range(cluster.gpus):
        (home / f"gpu{number}").touch()
    lines = [f"NodeName={name} Name=gpu File={home}/gpu[0-{cluster.gpus - 1}]\n" for name in cluster.names]
    write_text(home / "gres.conf", "".join(lines) if cluster.gpus else "")
    write_text(home / "slurmdbd.conf", f"""AuthType=auth/munge
AuthInfo=socket={cluster.socket}
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports['slurmdbd']}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports['mariadb']}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={home}/log/slurmdbd.log
PidFile={home}/run/slurmdbd.pid
""")
    (home / "slurmdbd.conf").chmod(0o600)
    write_text(home / "container.yaml", f"""# A cluster profile: as in a container, Python runs where SLURM's programs are not.
python: env PATH=/nowhere {shlex.quote(sys.executable)}
signal_lead_s: 60
""")
