"""The command line. Nothing here imports torch, and nothing heavy is imported before a command needs it."""

import sys
from pathlib import Path

import click

from jobs.errors import StageFailed, UserError

RUNS = click.option("--runs", "runs_folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                    help="Folder of all studies.")
SPEC = click.argument("spec", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key=value ...]")
RUN = click.argument("run", type=click.Path(path_type=Path))
OUTPUT = click.argument("output", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="iddpm")
def cli() -> None:
    """Train, sample and evaluate improved denoising diffusion models from one YAML spec.

    \b
    iddpm check configs/cifar10.yaml              what would it do, and cost?
    iddpm run configs/quickstart.yaml             all stages of all runs, on this machine
    iddpm run configs/cifar10.yaml train.lr=2e-4  the same with a field changed
    iddpm data cifar10 cifar-10-python.tar.gz data/cifar10.h5
    """


@cli.command()
@SPEC
@OVERRIDES
@RUNS
@click.option("--only", type=click.Choice(["train", "sample", "evaluate"]), help="Do this stage and leave the others.")
def run(spec: Path, overrides: tuple[str, ...], runs_folder: Path, only: str | None) -> None:
    """Do all stages of all runs of SPEC on this machine; skip what is done, go on with what is not."""
    from slurm.run import run_study
    sys.exit(run_study(spec, overrides, runs_folder, only))


@cli.command()
@SPEC
@OVERRIDES
def check(spec: Path, overrides: tuple[str, ...]) -> None:
    """Validate SPEC; print it resolved, with what it costs. Writes nothing."""
    from slurm.check import print_check
    print_check(spec, overrides)


@cli.command()
@SPEC
@OVERRIDES
@RUNS
@click.option("--cluster", metavar="NAME", help="Profile: NAME.yaml in configs/clusters or ~/.config/iddpm/clusters.")
@click.option("--dry-run", is_flag=True, help="Print the sbatch scripts and what they may cost; submit and write nothing.")
def submit(spec: Path, overrides: tuple[str, ...], runs_folder: Path, cluster: str | None, dry_run: bool) -> None:
    """Do the same as SLURM jobs: submit what is neither done nor in the queue."""
    from slurm.submit import submit_study
    submit_study(spec, overrides, runs_folder, cluster, dry_run)


@cli.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(study: Path, as_json: bool) -> None:
    """Where every run of STUDY (a directory runs/<study>) stands."""
    from slurm.status import print_status
    print_status(study, as_json)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
def cancel(path: Path) -> None:
    """Take the jobs of a study or of one run out of SLURM's queue."""
    from slurm.cancel import cancel
    cancel(path)


def _stage_command(stage: str, text: str) -> None:
    @cli.command(name=stage, help=text)
    @RUN
    def command(run: Path) -> None:
        from slurm.run import run_one_stage
        sys.exit(run_one_stage(run, stage))


_stage_command("train", "Train RUN (a directory runs/<study>/<run>) to its last iteration, from its newest checkpoint on.")
_stage_command("sample", "Compute the chunks of samples that RUN lacks, and gather them.")
_stage_command("evaluate", "Evaluate RUN's samples and bits/dim.")


@cli.command()
@RUN
def gather(run: Path) -> None:
    """Check RUN's chunks and gather them into samples.h5, samples.npz and pictures."""
    from slurm.run import gather_run
    gather_run(run)


@cli.command(name="import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--spec", required=True, type=click.Path(path_type=Path), help="Spec that describes the network.")
@OVERRIDES
@RUNS
def import_(checkpoint: Path, spec: Path, overrides: tuple[str, ...], runs_folder: Path) -> None:
    """Take a reference CHECKPOINT (a .pt state dict, or .safetensors) into a run that samples and evaluates."""
    from slurm.transfer import import_run
    import_run(checkpoint, spec, overrides, runs_folder)


@cli.command()
@RUN
@OUTPUT
@click.option("--ema-rate", type=float, help="Which average to export; the spec's sample.ema_rate if not given.")
@click.option("--raw", is_flag=True, help="Export the weights as trained, not an average.")
def export(run: Path, output: Path, ema_rate: float | None, raw: bool) -> None:
    """Write RUN's weights to OUTPUT: .safetensors with the spec inside, or the reference's .pt."""
    from slurm.transfer import export_run
    export_run(run, output, ema_rate, raw)


@cli.group()
def cluster() -> None:
    """A real SLURM on this machine (Debian or Ubuntu, as root), to try things before one has an account."""


HOME = click.option("--home", type=click.Path(path_type=Path), default=Path("~/.cache/iddpm/cluster").expanduser,
                    show_default="~/.cache/iddpm/cluster", help="Folder of the cluster; another folder is another cluster.")


@cluster.command()
@HOME
@click.option("--nodes", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="Per node; they need not exist.")
@click.option("--gpus", type=click.IntRange(0), default=2, show_default=True, help="Per node, in name only.")
@click.option("--accounting/--no-accounting", default=True, show_default=True, help="With slurmdbd, so that sacct answers.")
def up(home: Path, nodes: int, cpus: int, gpus: int, accounting: bool) -> None:
    """Start it; print the line that points SLURM's commands to it."""
    from slurm import testbed
    print(f"export SLURM_CONF={testbed.up(home, nodes, cpus, gpus, accounting).conf}")


@cluster.command()
@HOME
def down(home: Path) -> None:
    """Stop it, and whatever its jobs left running."""
    from slurm import testbed
    testbed.down(home)


@cluster.command()
@click.argument("node")
@HOME
def fail(node: str, home: Path) -> None:
    """Let NODE (n1, n2, ...) crash with all its processes; SLURM notices after 10 s."""
    from slurm import testbed
    testbed.fail(home, node)


@cluster.command()
@click.argument("node")
@HOME
def heal(node: str, home: Path) -> None:
    """Bring the crashed NODE back."""
    from slurm import testbed
    testbed.heal(home, node)


@cli.group()
def data() -> None:
    """Make data sets: each command writes one HDF5 file."""


@data.command()
@OUTPUT
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def digits(output: Path, split: str) -> None:
    """scikit-learn's handwritten digits, 8x8. (Specs can also say `path: digits` without a file.)"""
    from slurm.make_data import digits
    digits(output, split)


@data.command()
@click.argument("archive", type=click.Path(path_type=Path))
@OUTPUT
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def cifar10(archive: Path, output: Path, split: str) -> None:
    """CIFAR-10 from its python ARCHIVE, cifar-10-python.tar.gz, or the folder it unpacks to."""
    from slurm.make_data import cifar10
    cifar10(archive, output, split)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@OUTPUT
@click.option("--image-size", type=click.IntRange(min=1), required=True,
              help="Side in pixels; images are shrunk, then cropped.")
@click.option("--labels", type=click.Choice(["subfolder", "prefix", "none"]), default="none", show_default=True,
              help="Where an image's class is written: its first sub-folder, or its file name up to the first '_'.")
@click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)
@click.option("--on-error", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
              help="With images that are broken or too small: write nothing and name them, or leave them out.")
def folder(folder: Path, output: Path, image_size: int, labels: str, channels: str, on_error: str) -> None:
    """All images below FOLDER: jpg, png, gif, webp, bmp."""
    from slurm.make_data import folder as make
    make(folder, output, image_size, labels, int(channels), on_error)


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@OUTPUT
def npz(source: Path, output: Path) -> None:
    """An .npz with arr_0 (or images) uint8 [N, H, W, C] and, if it has them, arr_1 (or labels)."""
    from slurm.make_data import npz
    npz(source, output)


def main() -> None:
    """The `iddpm` command: bad input is one message and exit status 2, a failed stage one message and 1."""
    try:
        cli()
    except UserError as error:
        print(f"iddpm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except StageFailed as error:
        print(f"iddpm: failed: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.exit(0)


if __name__ == "__main__":
    main()
