"""`iddpm data`: the commands that make data sets, with progress and a summary, and one that shows them.

The importers are imported by the command that needs them: `iddpm --help` must not wait for numpy and HDF5.
"""

import click

from slurm.cli.data.arrays import cifar10, cifar100, digits, imagenet_npz, mnist, npz
from slurm.cli.data.files import folder, zip_
from slurm.cli.data.large import imagenet, lsun, parquet, webdataset
from slurm.cli.data.show import show


@click.group()
def data() -> None:
    """Make data sets: each command writes one HDF5 file, but `show`, which looks into one."""


for command in (cifar10, cifar100, digits, imagenet_npz, mnist, npz,  # arrays
                folder, zip_,  # image files
                imagenet, lsun, parquet, webdataset,  # large collections
                show):
    data.add_command(command)
