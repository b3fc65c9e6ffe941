"""`iddpm cluster`: start, stop and disturb a real SLURM on one Debian or Ubuntu machine, for first steps and for tests.

Its daemons are slurmctld, slurmdbd with MariaDB, munged, and one slurmd for each node; the GPUs exist in name only. All files
are in one folder, the cluster's home, and each home has its own ports: several clusters can run side by side. Needs root
(munged and slurmd do).
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.storage.files import make_dir, read_json, write_json
from slurm.testbed.config import Testbed, write_config

PACKAGES = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "slurmdbd": "slurmdbd", "munged": "munge",
            "mariadbd": "mariadb-server"}
START_S = 30


def up(home: Path, nodes: int, cpus: int, gpus: int, accounting: bool = True) -> Testbed:
    """Start the daemons of the cluster in `home` that do not run yet; wait until all nodes are ready.

    Raises UserError without root, or if a cluster with other numbers is running in `home`; StageFailed if a daemon does not
    start.
    """
    home = home.absolute()
    if os.geteuid() != 0:
        raise UserError("iddpm cluster: needs root, as munged and slurmd do")
    _install_packages()
    cluster = _describe(home, nodes, cpus, gpus, accounting)
    for folder in ("run", "log", "state", "spool", "munge", "mysql", *(f"spool/{name}" for name in cluster.names)):
        make_dir(home / folder)
    home.chmod(0o755)
    _name_nodes(cluster)
    write_config(cluster)
    write_json(home / "testbed.json", asdict(cluster) | {"home": str(home)})
    _start_munge(cluster)
    if accounting:
        _start_accounting(cluster)
    if not _alive(cluster, "slurmctld"):
        _run(cluster, "slurmctld")
    _wait_for(cluster, "slurmctld", lambda: _ok(cluster, "scontrol", "ping"))
    for name in cluster.names:
        if not _alive(cluster, f"slurmd-{name}"):
            _run(cluster, "slurmd", "-N", name)
    _wait_for(cluster, "slurmd", lambda: _idle_nodes(cluster) == nodes)
    return cluster


def down(home: Path) -> None:
    """Stop all daemons and all processes of jobs. The folder stays; `up` starts the cluster again."""
    cluster = load(home)
    for name in cluster.names:
        fail(home, name)
    for daemon in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
        _stop(cluster, daemon, signal.SIGTERM)


def fail(home: Path, node: str) -> None:
    """Let a node crash: kill its slurmd, step daemons and jobs. SLURM notices after SlurmdTimeout."""
    cluster = _with_node(home, node)
    victims = [pid for step in _step_daemons(cluster, node) for pid in (step, *_descendants(step))]
    _stop(cluster, f"slurmd-{node}", signal.SIGKILL)
    for pid in victims:
        _kill(pid, signal.SIGKILL)
    for pid in victims:
        _wait_until_gone(pid)


def heal(home: Path, node: str) -> None:
    """Start the crashed node again."""
    cluster = _with_node(home, node)
    if not _alive(cluster, f"slurmd-{node}"):
        _run(cluster, "slurmd", "-N", node)


def load(home: Path) -> Testbed:
    """The cluster in the folder `home`. Raises UserError if there is none."""
    file = home.absolute() / "testbed.json"
    if not file.is_file():
        raise UserError(f"{home}: no cluster here; `iddpm cluster up` makes one")
    facts = read_json(file)
    return Testbed(**facts | {"home": Path(facts["home"])})


def _with_node(home: Path, node: str) -> Testbed:
    cluster = load(home)
    if node not in cluster.names:
        raise UserError(f"{node}: not a node of this cluster; it has {', '.join(cluster.names)}")
    return cluster


def _describe(home: Path, nodes: int, cpus: int, gpus: int, accounting: bool) -> Testbed:
    """The cluster in `home` if it has these numbers, else a new one with free ports. Raises UserError if another one runs."""
    if (home / "testbed.json").exists():
        before = load(home)
        if (before.nodes, before.cpus, before.gpus, before.accounting) == (nodes, cpus, gpus, accounting):
            return before
        if _alive(before, "slurmctld"):
            raise UserError(f"{home}: a cluster of {before.nodes} nodes x {before.cpus} CPUs, {before.gpus} GPUs is running; "
                            "`iddpm cluster down` first")
    names = ["slurmctld", "slurmdbd", "mariadb", *(f"n{number}" for number in range(1, nodes + 1))]
    return Testbed(home, nodes, cpus, gpus, accounting, dict(zip(names, _free_ports(len(names)), strict=True)))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]
    finally:
        for candidate in sockets:
            candidate.close()


def _install_packages() -> None:
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise UserError(f"iddpm cluster: needs the packages {', '.join(missing)}")
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *missing]):
        subprocess.run(["apt-get", *command], check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


def _name_nodes(cluster: Testbed) -> None:
    """Add the node names to /etc/hosts: srun looks them up although slurm.conf has their addresses."""
    hosts = Path("/etc/hosts")
    known = hosts.read_text().split()
    missing = [name for name in cluster.names if name not in known]
    if missing:
        with open(hosts, "a") as file:
            file.writelines(f"127.0.0.1 {name}\n" for name in missing)


def _start_munge(cluster: Testbed) -> None:
    if _alive(cluster, "munged"):
        return
    home, key = cluster.home, cluster.home / "munge" / "key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
    key.parent.chmod(0o700)
    _run(cluster, "munged", "--force", f"--socket={cluster.socket}", f"--key-file={key}", f"--pid-file={home}/run/munged.pid",
         f"--log-file={home}/log/munged.log", f"--seed-file={home}/munge/seed")


def _start_accounting(cluster: Testbed) -> None:
    home, database = cluster.home, ["mariadb", "--no-defaults", "-S", f"{cluster.home}/run/mysql.socket"]
    if not _alive(cluster, "mariadbd"):
        # MariaDB removes all temporary tables in its tmpdir when it starts. In /tmp these could belong to another cluster.
        (home / "tmp").mkdir(exist_ok=True)
        if not (home / "mysql" / "mysql").exists():
            _run(cluster, "mariadb-install-db", "--user=root", f"--datadir={home}/mysql", f"--tmpdir={home}/tmp",
                 "--skip-test-db")
        _run(cluster, "setsid", "--fork", "mariadbd", "--no-defaults", "--user=root", f"--datadir={home}/mysql",
             f"--tmpdir={home}/tmp", f"--socket={home}/run/mysql.socket", f"--pid-file={home}/run/mariadbd.pid",
             f"--log-error={home}/log/mariadb.log", f"--port={cluster.ports['mariadb']}", "--bind-address=127.0.0.1",
             "--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900")
        _wait_for(cluster, "mariadbd", lambda: _ok(cluster, *database, "-e", "select 1"))
        _run(cluster, *database, "-e", "".join(
            f"create user if not exists 'slurm'@'{host}' identified by 'slurm'; "
            f"grant all on slurm_acct_db.* to 'slurm'@'{host}';" for host in ("%", "localhost")))
    if not _alive(cluster, "slurmdbd"):
        _run(cluster, "slurmdbd")
    _wait_for(cluster, "slurmdbd", lambda: _ok(cluster, "sacctmgr", "-n", "-i", "list", "cluster"))


def _environment(cluster: Testbed) -> dict[str, str]:
    return os.environ | {"SLURM_CONF": str(cluster.conf)}


def _run(cluster: Testbed, *command: str) -> None:
    """Run a command to its end (daemons go to the background by themselves). Raises StageFailed if it fails."""
    with open(cluster.home / "log" / "commands.log", "ab") as log:  # a file, because a daemon would keep a pipe open
        done = subprocess.run(command, env=_environment(cluster), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if done.returncode:
        raise StageFailed(f"iddpm cluster: {command[0]} failed (status {done.returncode}); see {cluster.home}/log")


def _ok(cluster: Testbed, *command: str) -> bool:
    return subprocess.run(command, env=_environment(cluster), capture_output=True, timeout=START_S).returncode == 0


def _idle_nodes(cluster: Testbed) -> int:
    listed = subprocess.run(["sinfo", "-h", "-N", "-p", "main", "-t", "idle,mix,alloc"], env=_environment(cluster),
                            capture_output=True, text=True)
    return len(listed.stdout.splitlines())


def _wait_for(cluster: Testbed, daemon: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > deadline:
            raise StageFailed(f"iddpm cluster: {daemon} did not start in {START_S} s; see {cluster.home}/log")
        time.sleep(0.1)


def _pid(cluster: Testbed, daemon: str) -> int | None:
    """Id of the daemon's process; None if it does not run. After a kill, the number in the file may be another program's."""
    try:
        pid = int((cluster.home / "run" / f"{daemon}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (OSError, ValueError):
        return None
    ours = f"SLURM_CONF={cluster.conf}".encode() in environment.split(b"\0") or daemon in ("munged", "mariadbd")
    return pid if Path(command).name == daemon.split("-")[0] and ours else None


def _alive(cluster: Testbed, daemon: str) -> bool:
    return _pid(cluster, daemon) is not None


def _stop(cluster: Testbed, daemon: str, number: int) -> None:
    pid = _pid(cluster, daemon)
    if pid is not None:
        _kill(pid, number)
        _wait_until_gone(pid)
    (cluster.home / "run" / f"{daemon}.pid").unlink(missing_ok=True)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            os.readlink(f"/proc/{pid}/exe")
        except OSError:  # a zombie has no executable either
            return
        time.sleep(0.02)


def _step_daemons(cluster: Testbed, node: str) -> list[int]:
    """The slurmstepd processes of the node: they have its log file open."""
    log, found = str(cluster.home / "log" / f"slurmd-{node}.log"), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "slurmstepd" and any(
                    os.readlink(file) == log for file in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in children] + [below for child in children for below in _descendants(int(child))]
