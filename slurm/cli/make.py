"""`iddpm make`: pictures for a person from a trained run.

All imports of its work are inside functions: `iddpm --help` must not wait for numpy, and only the work itself loads torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from slurm.cli.paths import PATH, PATH_OR_NAME
from slurm.cli.stopped import STOPPED


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="New folder for the pictures.")
@click.option("--num", type=click.IntRange(1), metavar="N",
              help="How many pictures.  [default: one for each of --labels, or 16 new ones, 4 variants, 8 in a row]")
@click.option("--labels", metavar="3,3,8", help="Classes, which the pictures take in turn.  [default: all classes in turn]")
@click.option("--seed", type=click.IntRange(0), metavar="N",
              help="Equal seeds give equal pictures.  [default: a new one, which is printed]")
@click.option("--steps", type=click.IntRange(1), metavar="N",
              help="Steps of the chain; fewer are faster.  [default: those of the run's samples; --inpaint at most 250, "
                   "--interpolate and --encode at most 100]")
@click.option("--film", is_flag=True, help="Also show how the pictures come out of noise: film.gif, and ten stages in film.png.")
@click.option("--interpolate", nargs=2, type=PATH_OR_NAME, metavar="A B",
              help="A row from A to B. A number is a seed: the noise of which --seed makes its first picture. Anything else is "
                   "a picture; ./7 is one whose name is a number.")
@click.option("--from", "start", type=PATH, metavar="PICTURE", help="Variants of PICTURE: noise it, and denoise it.")
@click.option("--at", type=float, metavar="0.4",
              help="With --from: how much noise. Near 0 PICTURE stays, at 1 nothing of it stays.  [default: 0.5]")
@click.option("--inpaint", type=PATH, metavar="PICTURE", help="Make a part of PICTURE anew; all other pixels stay exactly.")
@click.option("--mask", type=PATH, metavar="MASK",
              help="With --inpaint: a picture as large as PICTURE. White is made anew, black stays.")
@click.option("--encode", type=PATH, metavar="PICTURE",
              help="The latent of PICTURE, and what becomes of it when it is decoded again.")
def make(run: Path, out: Path, num: int | None, labels: str | None, seed: int | None, steps: int | None, film: bool,
         interpolate: tuple[str, str] | None, start: Path | None, at: float | None, inpaint: Path | None, mask: Path | None,
         encode: Path | None) -> None:
    """Make pictures from RUN (a directory runs/<study>/<run>), on this machine and its GPU, if it has one.

    \b
    iddpm make RUN --out a --num 9 --steps 50     new pictures, by a short chain
    iddpm make RUN --out b --labels 3,3,8 --film  of classes; and a film of them
    iddpm make RUN --out c --interpolate 1 2      from the noise of seed 1 to 2's
    iddpm make RUN --out d --from cat.png --at 0.4            variants of cat.png
    iddpm make RUN --out d --from cat.png                     upsampler: enlarged
    iddpm make RUN --out e --inpaint cat.png --mask m.png     its white part anew
    iddpm make RUN --out f --encode cat.png                   its latent

    DIR/overview.png shows all, enlarged; picture-000.png and so on have the run's own size. PICTURE and MASK may be of any type
    that Pillow reads. A run with classes needs --labels wherever a picture is given, and for --interpolate. RUN is only read.
    """
    from jobs.making.request import Request, parsed_labels
    make_pictures(run, out, Request(
        labels=None if labels is None else parsed_labels(labels), num=num, seed=seed, steps=steps, film=film,
        interpolate=interpolate, start=start, at=at, inpaint=inpaint, mask=mask, encode=encode))


def make_pictures(run: Path, out: Path, request) -> None:
    """Make what the `jobs.making.request.Request` asks for, write the folder `out`, and print how.

    Raises UserError for requests that do not fit the run, as far as possible before torch is loaded.
    """
    from jobs.making.prepare import prepare
    from jobs.quantities import plural
    from jobs.run.directory import RunDir
    from jobs.run.progress import duration, note
    job = prepare(RunDir(run), request, out)
    for remark in job.remarks:
        note(remark)
    try:
        from jobs.making.make import make
        outcome = make(job, out)
    except KeyboardInterrupt:
        print("stopped; no picture was written")
        sys.exit(STOPPED)
    again = "" if job.seed is None else f"; seed {job.seed}"
    if not outcome.evaluations:
        print(f"{out}: these pictures are there already{again}")
        return
    print(f"{plural(outcome.pictures, 'picture')} in {duration(outcome.seconds)}, {outcome.evaluations:,} evaluations of the "
          f"network for each{again}")
    if outcome.remark:
        print(outcome.remark)
    print(out / "overview.png")
