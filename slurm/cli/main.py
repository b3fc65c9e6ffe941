"""The `iddpm` command line: its commands, options and help.

Each command imports its code when it runs: help must appear at once, and a login node must never load torch.
"""

import os
import sys
from pathlib import Path

import click

from jobs.errors import StageFailed, UserError
from jobs.parallel.launchers import forget_launchers
from jobs.spec.features import CHOICES
from jobs.spec.metrics import METRICS
from jobs.spec.stages import STAGES
from jobs.storage.disk_errors import explained
from jobs.storage.files import private_to_write
from jobs.terminal import guarded_output
from slurm.cli.cluster import cluster
from slurm.cli.data.group import data
from slurm.cli.make import make
from slurm.cli.paths import PATH, PATH_OR_NAME
from slurm.cli.stopped import Commands

RUNS = click.option("--runs", "runs_folder", type=PATH, default=Path("runs"), show_default=True,
                    help="Folder of all studies.")
SPEC = click.argument("spec", type=PATH)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key=value ...]")
STUDY = click.argument("study", type=PATH)
RUN = click.argument("run", type=PATH)
CLUSTER = click.option("--cluster", type=PATH_OR_NAME, metavar="NAME",
                       help="Profile: NAME.yaml in configs/clusters or ~/.config/iddpm/clusters.")
OUTPUT = click.argument("output", type=PATH)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="iddpm")
def cli() -> None:
    """Train, sample and evaluate improved denoising diffusion models from one YAML spec.

    \b
    iddpm check configs/cifar10.yaml              validate a spec, print its cost
    iddpm run configs/quickstart.yaml             do all stages of all runs on this machine
    iddpm run configs/cifar10.yaml train.lr=2e-4  ... with another value of one field
    iddpm data cifar10 cifar-10-python.tar.gz data/cifar10.h5
    """
    os.getcwd()  # raises FileNotFoundError where the folder was deleted, as `main` tells: torch would die of that


@cli.command()
@SPEC
@OVERRIDES
@RUNS
@click.option("--only", type=click.Choice(STAGES), help="Do this stage only.")
def run(spec: Path, overrides: tuple[str, ...], runs_folder: Path, only: str | None) -> None:
    """Do all stages of all runs of SPEC on this machine. Skips finished stages and resumes unfinished ones."""
    from slurm.cli.run import run_study
    sys.exit(run_study(spec, overrides, runs_folder, only))


@cli.command()
@SPEC
@OVERRIDES
def check(spec: Path, overrides: tuple[str, ...]) -> None:
    """Validate SPEC; print it with all defaults, and its cost. Writes nothing."""
    from slurm.cli.check import print_check
    print_check(spec, overrides)


@cli.command()
@click.argument("spec", type=PATH, required=False)
@OVERRIDES
@click.option("--quick", is_flag=True, help="Under a minute: fewer variants and repeats, one rank.")
@click.option("--compile", "compiled", is_flag=True, help="Measure torch.compile, too. Takes minutes.")
@click.option("--output", type=PATH, metavar="FILE.json", help="[default: bench-HOST.json]")
def bench(spec: Path | None, overrides: tuple[str, ...], quick: bool, compiled: bool, output: Path | None) -> None:
    """Measure how fast this machine trains and samples the network of SPEC (default: configs/quickstart.yaml)."""
    from slurm.cli.bench import bench_machine
    bench_machine(spec, overrides, quick, compiled, output)


@cli.command()
@SPEC
@OVERRIDES
@click.option("--bench", "bench_file", type=PATH, metavar="FILE.json",
              help="File that `iddpm bench` wrote.  [default: the newest bench-*.json here]")
@CLUSTER
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def plan(spec: Path, overrides: tuple[str, ...], bench_file: Path | None, cluster: str | None, as_json: bool) -> None:
    """Predict hours, jobs and disk of SPEC from the rates that `iddpm bench` measured. Writes nothing."""
    from slurm.cli.plan import print_plan
    print_plan(spec, overrides, bench_file, cluster, as_json)


@cli.command()
@SPEC
@OVERRIDES
@RUNS
@CLUSTER
@click.option("--max-parallel", type=click.IntRange(1), metavar="N",
              help="The most GPUs that the whole study may use at once (processes, for stages without GPUs).")
@click.option("--dry-run", is_flag=True,
              help="Print the sbatch scripts, their dependencies and the most that they may cost; write nothing.")
def submit(spec: Path, overrides: tuple[str, ...], runs_folder: Path, cluster: str | None, max_parallel: int | None,
           dry_run: bool) -> None:
    """Submit all stages of all runs of SPEC as SLURM jobs, except those that are done or in the queue."""
    from slurm.launch.submit import SubmitOptions, submit_study
    submit_study(spec, overrides, runs_folder, SubmitOptions(cluster, max_parallel), dry_run)


@cli.command()
@click.argument("study", type=PATH, required=False)
@RUNS
@click.option("--watch", "-w", is_flag=True, help="Stay, and update the table every few seconds.")
@click.option("--all", "everything", is_flag=True, help="Print all rows, even of a study with thousands of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def status(study: Path | None, runs_folder: Path, watch: bool, everything: bool, as_json: bool) -> None:
    """Print the state of every run of STUDY (a directory runs/<study>; default: the newest)."""
    from slurm.status.table import print_status
    print_status(study, runs_folder, as_json, watch, everything)


@cli.command()
@RUN
@click.option("--stage", type=click.Choice(STAGES), help="[default: the newest stage with a log]")
@click.option("--rank", type=click.IntRange(0), default=0, show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Stay, and print new lines, also of the next stages.")
def logs(run: Path, stage: str | None, rank: int, follow: bool) -> None:
    """Print the newest log of RUN."""
    from slurm.status.logs import print_log
    print_log(run, stage, rank, follow)


@cli.command()
@click.argument("path", type=PATH)
def cancel(path: Path) -> None:
    """Cancel the SLURM jobs of a study or of one run. Running stages save first."""
    from slurm.launch.cancel import cancel
    cancel(path)


@cli.command()
@click.argument("path", type=PATH)
def requeue(path: Path) -> None:
    """Continue the jobs of a study or of one run: release held jobs, restart running ones, submit failed ones."""
    from slurm.launch.requeue import requeue
    requeue(path)


@cli.command()
@STUDY
@click.argument("names", nargs=-1, metavar="[RUN ...]")
@RUNS
@click.option("--left", is_flag=True, help="Remove the runs that left the sweep: the spec no longer has them.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(study: Path, names: tuple[str, ...], runs_folder: Path, left: bool, yes: bool) -> None:
    """Remove runs of STUDY, or the whole study. Says what would go, and asks first.

    Refuses runs at work, with jobs in the queue, or named by other runs. Of a link, only the link is removed.
    """
    from slurm.cli.rm import remove
    sys.exit(remove(study, names, runs_folder, left, yes))


STAGE_HELP = {"train": "Train RUN (a directory runs/<study>/<run>) to its last iteration, from its newest checkpoint.",
              "sample": "Compute the missing chunks of samples of RUN, and gather them.",
              "evaluate": "Evaluate the samples and bits/dim of RUN."}


def _add_stage_command(stage: str) -> None:
    @cli.command(name=stage, help=STAGE_HELP[stage])
    @RUN
    def command(run: Path) -> None:
        from slurm.cli.run import run_one_stage
        sys.exit(run_one_stage(run, stage))


for name in STAGES:
    _add_stage_command(name)


@cli.command()
@RUN
def gather(run: Path) -> None:
    """Check the chunks of RUN and gather them into samples.h5, samples.npz and pictures."""
    from slurm.cli.run import gather_run
    gather_run(run)


@cli.command()
@STUDY
@click.option("--markdown", is_flag=True, help="Print the table for a README as well.")
def report(study: Path, markdown: bool) -> None:
    """Write the report of STUDY: report.html, one self-contained page, and its numbers as .json, .csv and .md."""
    from jobs.report.write import report
    page = report(study)
    if markdown:
        print((study / "report.md").read_text(encoding="utf-8"))
    print(page)


@cli.command()
@STUDY
@click.option("--port", type=click.IntRange(1, 65535), help="[default: the first free port from 6006 on]")
def tensorboard(study: Path, port: int | None) -> None:
    """Show all runs of STUDY in TensorBoard."""
    from slurm.cli.tensorboard import show_board
    show_board(study, port)


@cli.command()
@click.argument("a", type=PATH, metavar="RUN")
@click.argument("b", type=PATH, metavar="RUN")
def diff(a: Path, b: Path) -> None:
    """Print the differences between two runs: spec, code, packages, data, results."""
    from slurm.cli.diff import print_diff
    print_diff(a, b)


@cli.command()
@click.argument("samples", type=PATH_OR_NAME)
@click.option("--reference", required=True, type=PATH_OR_NAME, metavar="REF",
              help="Data set (.h5, or `digits`), or .npz with images or with mu and sigma.")
@click.option("--features", type=PATH_OR_NAME, metavar="NAME", default="pixels", show_default=True,
              help=f"{CHOICES}.")
@click.option("--metrics", default="fid", show_default=True, help=",".join(METRICS))
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@RUNS
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def score(samples: str, reference: str, features: str, metrics: str, batch_size: int, runs_folder: Path, as_json: bool) -> None:
    """Compute metrics of any SAMPLES: our .h5, an .npz with arr_0, or a folder of PNGs."""
    from slurm.cli.score import print_score
    print_score(samples, reference, features, metrics, runs_folder, batch_size, as_json)


@cli.command(name="import")
@click.argument("checkpoint", type=PATH)
@click.option("--spec", required=True, type=PATH, help="Spec that describes the network.")
@click.option("--step", type=click.IntRange(min=1),
              help="Training step of the weights, where the file does not tell it right; of a folder, the step to take.")
@OVERRIDES
@RUNS
def import_(checkpoint: Path, spec: Path, step: int | None, overrides: tuple[str, ...], runs_folder: Path) -> None:
    """Make a run from a CHECKPOINT of the reference code: a .pt state dict or .safetensors, to sample and evaluate it, or a run
    folder with model, averages and optimiser, to train on."""
    from slurm.cli.weights import import_run
    import_run(checkpoint, spec, overrides, runs_folder, step)


@cli.command()
@RUN
@OUTPUT
@click.option("--ema-rate", type=float, help="The average to export.  [default: the spec's sample.ema_rate]")
@click.option("--ema-sigma-rel", type=float, help="A power-function average of this length instead, made of the run's snapshots.")
@click.option("--raw", is_flag=True, help="Export the weights themselves, not an average.")
@click.option("--at", "step", type=click.IntRange(1), metavar="STEP", help="Training step.  [default: the last one]")
def export(run: Path, output: Path, ema_rate: float | None, ema_sigma_rel: float | None, raw: bool, step: int | None) -> None:
    """Write the weights of RUN to OUTPUT: .safetensors with the spec inside, or .pt as the reference code reads it."""
    from slurm.cli.weights import export_run
    export_run(run, output, ema_rate, ema_sigma_rel, raw, step)


cli.add_command(data)
cli.add_command(cluster)
cli.add_command(make)


def main() -> None:
    """Run the `iddpm` command. Bad input is one message and exit status 2; a failed stage is one message and 1."""
    forget_launchers()  # `iddpm` starts its own ranks
    private_to_write()
    with guarded_output():
        _run()


def _run() -> None:
    try:
        cli()
    except UserError as error:
        print(f"iddpm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except StageFailed as error:
        print(f"iddpm: failed: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        sys.exit(0)
    except OSError as error:  # of a file or folder: the system's answer is a complete message
        reason = explained(error)
        if error.filename is None and reason is error:
            raise
        print(f"iddpm: error: {f'{error.filename}: {error.strerror}' if reason is error else reason}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
