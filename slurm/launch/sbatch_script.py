"""The sbatch script of an array, through submitit's executor."""

import shlex
import sys
from pathlib import Path

from submitit import SlurmExecutor

from slurm.launch.job_arrays import Array
from slurm.launch.profiles import Profile

# A job that is told to stop while Python is still loading would be ended by the signal, as failed. It does not hear it until
# jobs.parallel.interruption listens: after a preemption SLURM then kills it when its time is up, and requeues it.
DEAF_AT_FIRST = """sh -c 'trap "" TERM USR2; exec "$@"' deaf-at-first"""
# srun would take these over from a job that submits, and put our processes on its cores.
INHERITED = ("SLURM_CPU_BIND", "SLURM_CPU_BIND_LIST", "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_VERBOSE", "SLURM_MEM_BIND")


def executor(array: Array, study: Path, profile: Profile, name: str, code: Path, dependency: str | None) -> SlurmExecutor:
    """submitit's executor for one array; logs go to study/logs/NAME, the code is taken from the folder `code`."""
    resources = array.resources
    # Python's -m looks into the current folder first; slurm.launch.job_entry goes back to the folder of the submission.
    options = {"kill-on-invalid-dep": "yes", "requeue": True, "chdir": str(code)}
    if resources.gpus_per_node and profile.gpu_request == "gres":
        options["gres"] = f"gpu:{resources.gpus_per_node}"
    memory = resources.mem_gb or profile.mem_gb
    cpus = resources.cpus_per_task or (profile.cpus_per_task if resources.gpus_per_node else None) or 1
    exports = [f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()]
    parameters = {
        "job_name": name, "partition": profile.partition, "account": profile.account, "qos": profile.qos,
        "constraint": profile.constraint, "time": resources.minutes, "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks, "cpus_per_task": cpus,
        "gpus_per_node": resources.gpus_per_node if profile.gpu_request == "gpus_per_node" else None,
        "mem": f"{memory * 1024:.0f}MB" if memory else None, "signal_delay_s": profile.signal_lead_s,
        "dependency": dependency, "stderr_to_stdout": True, "array_parallelism": array.at_once or array.size,
        "additional_parameters": options,
        # A rank that dies must not leave the others waiting for it until the time limit; and srun forgets the job's
        # --cpus-per-task (SLURM 22.05 and later).
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        "setup": [f"unset {' '.join(INHERITED)}", *exports, *profile.setup]}
    python = profile.python or shlex.quote(sys.executable)
    launcher = SlurmExecutor(study / "logs" / name, python=f"{DEAF_AT_FIRST} {python}")
    launcher.update_parameters(**{key: value for key, value in parameters.items() if value})
    return launcher


def script(launcher: SlurmExecutor, size: int) -> str:
    """The text that sbatch gets for an array of `size` elements."""
    if size > 1:
        launcher.parameters["map_count"] = size
    return launcher._make_submission_file_text(launcher._submitit_command_str, "dry-run")


def dependency(array: Array, ids: list[str]) -> str | None:
    """What `array` waits for in sbatch's words; `ids` of the plan's arrays so far."""
    terms = []
    own = array.after_own_queued if array.after_own is None else ids[array.after_own]
    if own is not None:
        # aftercorr: element i waits for element i, not for the whole array.
        terms.append(f"{'aftercorr' if array.size > 1 else 'afterok'}:{own}")
    ended = [*array.after_queued, *(ids[place] for place in array.after_all)]
    if ended:
        terms.append(f"afterany:{':'.join(ended)}")
    return ",".join(terms) or None
