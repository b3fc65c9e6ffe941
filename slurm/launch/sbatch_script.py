"""Write the sbatch script of a job array, with submitit's executor."""

import shlex
import sys
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from jobs.errors import UserError
from jobs.spec.resources import StageResources
from slurm.launch.in_job.requests import FOLLOW_UP, FOLLOW_UPS
from slurm.launch.job_arrays import REPORT, Array
from slurm.launch.profiles import Profile, SiteOptions
from slurm.launch.sites.options import has_gpus, with_gpus

# Ignore SIGTERM and SIGUSR2 until jobs.parallel.interruption has installed its handlers: a signal during `import torch` would
# end the job as failed. If such a job is preempted, SLURM kills it at the end of the grace time and requeues it.
IGNORE_EARLY_SIGNALS = """/bin/sh -c 'trap "" TERM USR2; exec "$@"' ignore-early-signals"""
BATCH_FUNCTIONS = "slurm/launch/in_job/batch.sh"  # in the snapshot of the code: what the script does around srun


def executor(array: Array, study: Path, profile: Profile, name: str, code: Path, dependency: str | None) -> SlurmExecutor:
    """submitit's executor for one array called `name`. Its jobs write logs to study/logs/NAME and run the code in `code`."""
    resources, logs = array.resources, study / "logs" / name
    # `python -m` finds packages in the current folder first: the job starts in the snapshot of the code, and
    # slurm.launch.in_job.job_entry changes to the folder of the submission.
    # submitit lets an environment variable choose the signal: jobs.parallel.interruption listens to SIGUSR2.
    options = {"kill-on-invalid-dep": "yes", "requeue" if profile.requeue else "no-requeue": True, "chdir": str(code),
               "signal": f"USR2@{profile.signal_lead_s}"}
    if resources.is_elastic:
        options["nodes"] = str(resources.nodes)  # in the place of submitit's own number
    site = profile.of_stage(array.stage)
    cpus = cores(array, profile)
    environment = dict(profile.environment)
    if not profile.requeue:
        environment |= {FOLLOW_UP: str(array.follow_up), FOLLOW_UPS: str(array.follow_ups_left)}
    exports = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    # --kill-on-bad-exit: when a rank dies, end the others, which would wait for it until the time limit.
    # --cpus-per-task: since SLURM 22.05 srun does not take it from the job.
    # --wait=0: ranks that are not needed end at once, and the site's WaitTime must not end the others after them.
    # --export: SLURM_EXPORT_ENV, which sbatch --export=NONE sets, would leave the tasks without PATH.
    srun = ["--kill-on-bad-exit=1", "--wait=0", f"--cpus-per-task={cpus}", "--export=ALL", *site.srun]
    parameters = {
        "job_name": name, "time": resources.minutes, "nodes": resources.most_nodes, "ntasks_per_node": resources.tasks,
        "cpus_per_task": cpus, "signal_delay_s": profile.signal_lead_s,
        "dependency": dependency, "stderr_to_stdout": True, "array_parallelism": array.at_once or array.size,
        "additional_parameters": options | _of_site(site) | _gpus(array, site) | _memory(resources, site),
        "srun_args": srun,
        "setup": [f". {shlex.quote(str(code / BATCH_FUNCTIONS))}", f"iddpm_begin {shlex.quote(str(logs))}", *exports,
                  *profile.setup],
        "teardown": _teardown(array, study, profile)}
    if resources.is_elastic:
        # With a number of tasks SLURM grants no more nodes than the fewest of the range would have tasks. So the job has one
        # task a node, with the cores of all, and srun starts the processes.
        parameters |= {"ntasks_per_node": None, "cpus_per_task": resources.tasks * cpus,
                       "srun_args": [f"--ntasks-per-node={resources.tasks}", *srun]}
    python = profile.python or shlex.quote(sys.executable)
    launcher = SlurmExecutor(logs, python=f"{IGNORE_EARLY_SIGNALS} {python}")
    # submitit's own wckey would be refused where wckeys are enforced.
    launcher.update_parameters(wckey=None, **{key: value for key, value in parameters.items() if value})
    return launcher


def _teardown(array: Array, study: Path, profile: Profile) -> list[str]:
    """The lines after srun. The report, the last job of a wave, submits the next wave, in the folder of the submission."""
    if array.stage != REPORT or profile.max_queued is None:
        return ["iddpm_end $?"]
    words = " ".join(map(shlex.quote, (sys.executable, str(study), str(Path.cwd()))))
    return ["iddpm_status=$?", f"iddpm_next_wave {words}", "iddpm_end $iddpm_status"]


# Keys of a profile that are options of sbatch as they stand.
AS_THEY_STAND = ("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "exclusive", "licenses",
                 "wckey", "comment", "mail_type", "mail_user", "nice", "tmp")


def _of_site(site: SiteOptions) -> dict[str, Any]:
    """The site's options by sbatch's names. True is an option without a value."""
    named = {key.replace("_", "-"): getattr(site, key) for key in AS_THEY_STAND}
    return {option: value for option, value in (named | site.sbatch).items() if value is not None and value is not False}


def _gpus(array: Array, site: SiteOptions) -> dict[str, Any]:
    """How to ask for the GPUs of one node, and for what else the node must have. Raises UserError if the profile contradicts."""
    gpus = array.resources.gpus_per_node
    if site.gpu_request == "gres" and not (site.gres and has_gpus(site.gres)):
        gres = ",".join(filter(None, ["gpu" if gpus else None, site.gres]))
    else:
        gres = site.gres or ""
    try:
        gres = with_gpus(gres, gpus)
    except ValueError as error:
        raise UserError(f"cluster profile: gres: {site.gres} {error} (resources.{array.stage}.gpus_per_node)") from error
    options = {"gpus-per-node": gpus} if gpus and not has_gpus(gres) else {}
    return options | ({"gres": gres} if gres else {})


def _memory(resources: StageResources, site: SiteOptions) -> dict[str, Any]:
    """The memory: the spec's, else the profile's. SLURM takes 0 for all memory of a node, so the least amount is 1 MB."""
    memory = site.mem_gb if resources.mem_gb is None else resources.mem_gb
    if memory is not None:
        return {"mem": f"{max(round(memory * 1024), 1)}MB" if memory else "0"}
    return {"mem-per-cpu": site.mem_per_cpu} if site.mem_per_cpu else {}


def cores(array: Array, profile: Profile) -> int:
    """Cores of one process: the spec's, else the profile's for stages with GPUs, else one."""
    resources = array.resources
    return resources.cpus_per_task or (profile.of_stage(array.stage).cpus_per_task if resources.gpus_per_node else None) or 1


def script(launcher: SlurmExecutor, size: int) -> str:
    """The text that sbatch gets for an array of `size` elements."""
    if size > 1:
        launcher.parameters["map_count"] = size
    # Private: submitit has no public way to get the script without submitting it. setup.cfg bounds its version; the tests
    # of job arrays read this text.
    return launcher._make_submission_file_text(launcher._submitit_command_str, "dry-run")


def dependency(array: Array, ids: list[str]) -> str | None:
    """The --dependency option of `array`; None if it may start at once. `ids`: job ids of the plan's arrays so far."""
    terms = []
    own = array.after_own_queued if array.after_own is None else ids[array.after_own]
    if own is not None:
        # aftercorr: element i waits for element i, not for the whole array.
        terms.append(f"{'aftercorr' if array.size > 1 else 'afterok'}:{own}")
    named = [*array.after_named_queued, *(ids[index] if element is None else f"{ids[index]}_{element}"
                                          for index, element in array.after_named)]
    if named:
        terms.append(f"afterok:{':'.join(named)}")
    ended = [*array.after_queued, *(ids[index] for index in array.after_all)]
    if ended:
        terms.append(f"afterany:{':'.join(ended)}")
    return ",".join(terms) or None
