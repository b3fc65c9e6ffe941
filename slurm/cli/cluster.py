"""`iddpm cluster`: the commands of the test bed."""

import os
from pathlib import Path

import click


@click.group()
def cluster() -> None:
    """A real SLURM on this machine (Debian or Ubuntu, as root), to try things before one has an account."""


def _home() -> Path:
    """That of the cluster which SLURM_CONF points to, if it is one of ours."""
    pointed = Path(os.environ.get("SLURM_CONF", "")).parent
    return pointed if (pointed / "testbed.json").is_file() else Path("~/.cache/iddpm/cluster").expanduser()


HOME = click.option("--home", type=click.Path(path_type=Path), default=_home,
                    show_default="SLURM_CONF's, or ~/.cache/iddpm/cluster",
                    help="Folder of the cluster; another folder is another cluster.")


@cluster.command()
@HOME
@click.option("--nodes", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="Per node; they need not exist.")
@click.option("--gpus", type=click.IntRange(0), default=2, show_default=True, help="Per node, in name only.")
@click.option("--accounting/--no-accounting", default=True, show_default=True, help="With slurmdbd, so that sacct answers.")
def up(home: Path, nodes: int, cpus: int, gpus: int, accounting: bool) -> None:
    """Start it; print the line that points SLURM's commands to it."""
    from slurm.testbed import daemons
    print(f"export SLURM_CONF={daemons.up(home, nodes, cpus, gpus, accounting).conf}")


@cluster.command()
@HOME
def down(home: Path) -> None:
    """Stop it, and whatever its jobs left running."""
    from slurm.testbed import daemons
    daemons.down(home)


@cluster.command()
@click.argument("node")
@HOME
def fail(node: str, home: Path) -> None:
    """Let NODE (n1, n2, ...) crash with all its processes; SLURM notices after 10 s."""
    from slurm.testbed import daemons
    daemons.fail(home, node)


@cluster.command()
@click.argument("node")
@HOME
def heal(node: str, home: Path) -> None:
    """Bring the crashed NODE back."""
    from slurm.testbed import daemons
    daemons.heal(home, node)
