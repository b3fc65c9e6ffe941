"""The command line. Nothing here imports torch, and nothing heavy is imported before a command needs it."""

import sys
from pathlib import Path

import click

from jobs.errors import StageFailed, UserError
from slurm.cli.cluster import cluster
from slurm.cli.data import data

RUNS = click.option("--runs", "runs_folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                    help="Folder of all studies.")
SPEC = click.argument("spec", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key=value ...]")
STUDY = click.argument("study", type=click.Path(path_type=Path))
RUN = click.argument("run", type=click.Path(path_type=Path))
CLUSTER = click.option("--cluster", metavar="NAME", help="Profile: NAME.yaml in configs/clusters or ~/.config/iddpm/clusters.")
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
    from slurm.cli.run import run_study
    sys.exit(run_study(spec, overrides, runs_folder, only))


@cli.command()
@SPEC
@OVERRIDES
def check(spec: Path, overrides: tuple[str, ...]) -> None:
    """Validate SPEC; print it resolved, with what it costs. Writes nothing."""
    from slurm.cli.check import print_check
    print_check(spec, overrides)


@cli.command()
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@OVERRIDES
@click.option("--quick", is_flag=True, help="Under a minute: fewer variants and repeats, one rank.")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile too; takes minutes.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.json", help="[default: bench-HOST.json]")
def bench(spec: Path | None, overrides: tuple[str, ...], quick: bool, compiled: bool, output: Path | None) -> None:
    """Measure how fast this machine trains and samples SPEC's network (configs/quickstart.yaml's if not given)."""
    from slurm.cli.bench import bench_machine
    bench_machine(spec, overrides, quick, compiled, output)


@cli.command()
@SPEC
@OVERRIDES
@click.option("--bench", "bench_file", type=click.Path(path_type=Path), metavar="FILE.json",
              help="What `iddpm bench` wrote; the newest bench-*.json here if not given.")
@CLUSTER
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def plan(spec: Path, overrides: tuple[str, ...], bench_file: Path | None, cluster: str | None, as_json: bool) -> None:
    """Hours, jobs and disk that SPEC will take, from what `iddpm bench` measured. Writes nothing."""
    from slurm.cli.plan import print_plan
    print_plan(spec, overrides, bench_file, cluster, as_json)


@cli.command()
@SPEC
@OVERRIDES
@RUNS
@CLUSTER
@click.option("--max-parallel", type=click.IntRange(1), metavar="N",
              help="GPUs that the whole study may use at once (processes, where its stages ask for none).")
@click.option("--dry-run", is_flag=True,
              help="Print the sbatch scripts, their dependencies and the most that they may cost; write nothing.")
def submit(spec: Path, overrides: tuple[str, ...], runs_folder: Path, cluster: str | None, max_parallel: int | None,
           dry_run: bool) -> None:
    """Do the same as SLURM jobs: submit what is neither done nor in the queue."""
    from slurm.launch.submit import Wanted, submit_study
    submit_study(spec, overrides, runs_folder, Wanted(cluster, max_parallel), dry_run)


@cli.command()
@click.argument("study", type=click.Path(path_type=Path), required=False)
@RUNS
@click.option("--watch", "-w", is_flag=True, help="Stay, and show every few seconds what has changed.")
@click.option("--all", "everything", is_flag=True, help="All rows, also of a study with thousands of runs.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(study: Path | None, runs_folder: Path, watch: bool, everything: bool, as_json: bool) -> None:
    """Where every run of STUDY (a directory runs/<study>; the newest if not given) stands."""
    from slurm.status.table import print_status
    print_status(study, runs_folder, as_json, watch, everything)


@cli.command()
@RUN
@click.option("--stage", type=click.Choice(["train", "sample", "evaluate"]), help="The newest stage that has one, if not given.")
@click.option("--rank", type=click.IntRange(0), default=0, show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Stay, and print what comes, also of the stages to come.")
def logs(run: Path, stage: str | None, rank: int, follow: bool) -> None:
    """Print the newest log of RUN."""
    from slurm.status.logs import print_log
    print_log(run, stage, rank, follow)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
def cancel(path: Path) -> None:
    """Take the jobs of a study or of one run out of SLURM's queue."""
    from slurm.launch.cancel import cancel
    cancel(path)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
def requeue(path: Path) -> None:
    """Get the jobs of a study or of one run going again: release held ones, restart running ones, submit failed ones."""
    from slurm.launch.requeue import requeue
    requeue(path)


def _stage_command(stage: str, text: str) -> None:
    @cli.command(name=stage, help=text)
    @RUN
    def command(run: Path) -> None:
        from slurm.cli.run import run_one_stage
        sys.exit(run_one_stage(run, stage))


_stage_command("train", "Train RUN (a directory runs/<study>/<run>) to its last iteration, from its newest checkpoint on.")
_stage_command("sample", "Compute the chunks of samples that RUN lacks, and gather them.")
_stage_command("evaluate", "Evaluate RUN's samples and bits/dim.")


@cli.command()
@RUN
def gather(run: Path) -> None:
    """Check RUN's chunks and gather them into samples.h5, samples.npz and pictures."""
    from slurm.cli.run import gather_run
    gather_run(run)


@cli.command()
@STUDY
@click.option("--markdown", is_flag=True, help="Print the table for a README as well.")
def report(study: Path, markdown: bool) -> None:
    """Write STUDY's report.html, one self-contained page, and its numbers as .json, .csv and .md."""
    from jobs.report.write import report
    page = report(study)
    if markdown:
        print((study / "report.md").read_text(encoding="utf-8"))
    print(page)


@cli.command()
@STUDY
@click.option("--port", type=click.IntRange(1, 65535), help="The first free one from 6006 on, if not given.")
def tensorboard(study: Path, port: int | None) -> None:
    """Show all runs of STUDY in TensorBoard."""
    from slurm.cli.tensorboard import show_board
    show_board(study, port)


@cli.command()
@click.argument("a", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("b", type=click.Path(path_type=Path), metavar="RUN")
def diff(a: Path, b: Path) -> None:
    """What differs between two runs: spec, code, packages, data, results."""
    from slurm.cli.diff import print_diff
    print_diff(a, b)


@cli.command()
@click.argument("samples")
@click.option("--reference", required=True, help="Data set (.h5, or `digits`), or .npz with images or with mu and sigma.")
@click.option("--features", default="pixels", show_default=True, help="`pixels`, `classifier`, or a TorchScript file.")
@click.option("--metrics", default="fid", show_default=True, help="fid,sfid,inception_score,precision_recall,kid")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@RUNS
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def score(samples: str, reference: str, features: str, metrics: str, batch_size: int, runs_folder: Path, as_json: bool) -> None:
    """Metrics of any SAMPLES: our .h5, an .npz with arr_0, or a folder of PNGs."""
    from slurm.cli.score import print_score
    print_score(samples, reference, features, metrics, runs_folder, batch_size, as_json)


@cli.command(name="import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--spec", required=True, type=click.Path(path_type=Path), help="Spec that describes the network.")
@OVERRIDES
@RUNS
def import_(checkpoint: Path, spec: Path, overrides: tuple[str, ...], runs_folder: Path) -> None:
    """Take a reference CHECKPOINT (a .pt state dict, or .safetensors) into a run that samples and evaluates."""
    from slurm.cli.weights import import_run
    import_run(checkpoint, spec, overrides, runs_folder)


@cli.command()
@RUN
@OUTPUT
@click.option("--ema-rate", type=float, help="Which average to export; the spec's sample.ema_rate if not given.")
@click.option("--raw", is_flag=True, help="Export the weights as trained, not an average.")
def export(run: Path, output: Path, ema_rate: float | None, raw: bool) -> None:
    """Write RUN's weights to OUTPUT: .safetensors with the spec inside, or the reference's .pt."""
    from slurm.cli.weights import export_run
    export_run(run, output, ema_rate, raw)


cli.add_command(data)
cli.add_command(cluster)


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
