"""`iddpm cluster`: the commands of the test bed, a real SLURM on this machine."""

import os
from pathlib import Path

import click

from slurm.cli.paths import PATH


@click.group()
def cluster() -> None:
    """A real SLURM on this machine (Debian or Ubuntu, as root), to try things without a cluster account."""


def _home() -> Path:
    """The folder of the cluster that SLURM_CONF points to, if `iddpm cluster up` made it; else the default folder."""
    pointed = Path(os.environ.get("SLURM_CONF", "")).parent
    return pointed if (pointed / "testbed.json").is_file() else Path("~/.cache/iddpm/cluster")


HOME = click.option("--home", type=PATH, default=_home,
                    show_default="SLURM_CONF's, or ~/.cache/iddpm/cluster",
                    help="Folder of the cluster. Another folder is another cluster.")


@cluster.command()
@HOME
@click.option("--nodes", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True,
              help="Per node; may be more than this machine has.")
@click.option("--gpus", type=click.IntRange(0), default=2, show_default=True,
              help="Per node; SLURM allocates them, but they do not exist.")
@click.option("--accounting/--no-accounting", default=True, show_default=True, help="With slurmdbd, so that sacct works.")
def up(home: Path, nodes: int, cpus: int, gpus: int, accounting: bool) -> None:
    """Start the cluster; print the line that points SLURM's commands to it."""
    from slurm.testbed import daemons
    print(f"export SLURM_CONF={daemons.up(home, nodes, cpus, gpus, accounting).conf}")


@cluster.command()
@HOME
def down(home: Path) -> None:
    """Stop the cluster, and all processes of its jobs."""
    from slurm.testbed import daemons
    daemons.down(home)


@cluster.command()
@click.argument("node")
@HOME
def fail(node: str, home: Path) -> None:
    """Let NODE (n1, n2, ...) crash with all its processes. SLURM notices after 10 s."""
    from slurm.testbed import daemons
    daemons.fail(home, node)


@cluster.command()
@click.argument("node")
@HOME
def heal(node: str, home: Path) -> None:
    """Bring the crashed NODE back."""
    from slurm.testbed import daemons
    daemons.heal(home, node)
