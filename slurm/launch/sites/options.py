"""Which of sbatch's and srun's options a profile may set freely, and where the others are set."""

SPEC = "is the spec's: write resources.STAGE.{}"
OURS = "is set by iddpm, which depends on it"
# By option of sbatch: what sets it. Options that are keys of a profile are told apart in `slurm.launch.profiles`.
OWNED = {
    "time": SPEC.format("time"), "time-min": SPEC.format("time"), "nodes": SPEC.format("nodes"),
    "use-min-nodes": SPEC.format("nodes"), "mem": "is memory of a node: write mem_gb",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket", "ntasks-per-gpu"),
                    SPEC.format("tasks_per_node")),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"),
                    SPEC.format("gpus_per_node") + ", and the GPU's type as gres: gpu:TYPE"),
    "cpus-per-gpu": SPEC.format("cpus_per_task"), "mem-per-gpu": "is memory: write mem_gb or mem_per_cpu",
    **dict.fromkeys(("array", "dependency", "job-name", "output", "error", "input", "open-mode", "chdir", "signal", "requeue",
                     "no-requeue", "kill-on-invalid-dep", "wrap", "parsable", "quiet", "wait", "test-only", "hold", "help",
                     "usage", "version", "clusters"), OURS),
}
SRUN_OWNED = ("kill-on-bad-exit", "cpus-per-task", "export", "unbuffered", "label", "multi-prog", "pty", "jobid", "no-kill",
              "het-group", "exclusive", "overlap", "relative")


def refused_option(option: str) -> str | None:
    """Why a profile may not set this option of sbatch; None if it may."""
    return OWNED.get(option)


def refused_argument(argument: str) -> str | None:
    """Why a profile may not give srun this argument, such as --mpi=pmix; None if it may."""
    if argument[:1] == "-" and argument[1:2] != "-":
        return "write the long form of the option, such as --mpi=pmix"
    option = argument.removeprefix("--").partition("=")[0]
    return OURS if argument[:2] == "--" and (option in SRUN_OWNED or option in OWNED) else None


def has_gpus(gres: str) -> bool:
    """Whether generic resources such as `gpu:a100,nvme` name GPUs."""
    return any(part.split(":")[0] == "gpu" for part in gres.split(","))


def with_gpus(gres: str, gpus: int) -> str:
    """The generic resources with `gpus` as the number of GPUs: gpu:a100,nvme becomes gpu:a100:4,nvme; without GPUs nvme.

    Raises ValueError if a number is written that differs.
    """
    parts = []
    for part in gres.split(","):
        name, *rest = part.split(":")
        if name == "gpu":
            written = rest.pop() if rest and rest[-1].isdigit() else None
            if not gpus:
                continue
            if written is not None and int(written) != gpus:
                raise ValueError(f"asks for {written} GPUs, but the spec for {gpus}; leave the number out")
            part = ":".join([name, *rest, str(gpus)])
        parts.append(part)
    return ",".join(parts)
