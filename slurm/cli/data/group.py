"""`iddpm data`: the commands that make data sets, with progress and a summary.

The importers are imported by the command that needs them: `iddpm --help` must not wait for numpy and HDF5.
"""

import click

from slurm.cli.data.arrays import cifar10, digits, npz
from slurm.cli.data.files import folder


@click.group()
def data() -> None:
    """Make data sets. Each command writes one HDF5 file."""


for command in (cifar10, digits, folder, npz):
    data.add_command(command)
