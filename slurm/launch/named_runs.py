"""Find the jobs that a stage waits for because the spec of its run names other runs."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.waiting import named_run, references_of
from jobs.spec.stages import STAGES
from slurm.launch.job_arrays import Need
from slurm.launch.records import all_jobs
from slurm.launch.squeue import Job


def needs(runs: Iterable[RunDir], planned: Mapping[RunDir, Sequence[str]],
          live: Mapping[str, Job]) -> dict[tuple[RunDir, str], frozenset[Need]]:
    """Map (run, stage) to the stages of named runs that must succeed first, for the planned stages of `runs`.

    `planned`: the stages of each run that will be submitted now. `live`: the queue. Leaves out stages that need no other run,
    and named runs that are done. Raises UserError if a named run is neither done nor in the queue nor planned.
    """
    has_done = cache(lambda run, stage: run.spec_file.is_file() and run.is_done(stage))
    # The last job of a stage: where follow-ups resume it, the jobs before also end with success when they have saved.
    queue = cache(lambda study: {(run, stage): job for run, stage, job in all_jobs(study, live)})
    trainers = {run: run.trainer for run in planned}  # some are not made yet
    found: dict[tuple[RunDir, str], frozenset[Need]] = {}
    missing: dict[str, None] = {}
    for run in runs:
        for each in references_of(run):
            other = named_run(run, each)
            other = other if each.in_study else RunDir(other.path.resolve())
            other = trainers.get(other, other.trainer) if each.needs == STAGES[0] else other
            if each.stage not in planned[run] or has_done(other, each.needs):
                continue
            job = queue(other.path.parent).get((other.path.name, each.needs))
            if job is None and each.needs not in planned.get(other, ()):
                missing[f"{each.key}: {each.run} has not done its stage {each.needs}, and no job in the queue does it; submit "
                        f"its study first, or `iddpm requeue {other.path}`"] = None
            need = Need(other, each.needs, job.id if job else None)
            found[run, each.stage] = found.get((run, each.stage), frozenset()) | {need}
    if missing:
        raise UserError("\n".join(missing))
    return found
