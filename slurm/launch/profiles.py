"""Cluster profiles: options that a site needs in every job, kept out of specs.

A profile NAME is the YAML file NAME.yaml in configs/clusters/ of the current folder or in ~/.config/iddpm/clusters/.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import UserError
from jobs.spec.sections import Count, Section, Text


def profile_folders() -> tuple[Path, Path]:
    """The folders with profiles; the first one that has a file of the name wins."""
    return Path("configs/clusters"), Path("~/.config/iddpm/clusters").expanduser()


def _harmless(value: str) -> str:
    # submitit writes these options into #SBATCH lines, where a quote or newline would end the line or run as a command.
    if not re.fullmatch(r"[A-Za-z0-9_.,:@%+&|()\[\]/-]+", value):
        raise ValueError("has a character that does not belong in an sbatch option")
    return value


Option = Annotated[Text, AfterValidator(_harmless)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Profile(Section):
    """One cluster. An option that is null is left to sbatch's own default."""

    partition: Option | None = None
    account: Option | None = None
    qos: Option | None = None
    constraint: Option | None = None
    gpu_request: Literal["gpus_per_node", "gres"] = "gpus_per_node"
    """How to ask for GPUs: --gpus-per-node=N or --gres=gpu:N."""
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory per node for stages whose spec has no mem_gb."""
    cpus_per_task: Count | None = None
    """Cores per process for stages with GPUs whose spec has no cpus_per_task. Not for stages without GPUs: there the number
    of threads changes the numerical results, so only the spec sets it."""
    signal_lead_s: Count = 120
    """Seconds between the signal to save and the time limit or preemption. SLURM may send the signal up to 60 s early."""
    max_array_size: Count | None = None
    """Largest job array; null: ask the cluster."""
    setup: list[Text] = []
    """Shell lines that run before the job, such as `module load cuda`. They are not quoted."""
    python: Text | None = None
    """Command that runs Python in the job, such as `apptainer exec image.sif python`; null: the Python that submits."""
    environment: dict[Variable, Text] = {}
    bench: Text | None = None
    """File that `iddpm bench` wrote on a node of this cluster, for planned times; null: the newest bench-*.json here."""


def load_profile(name: str | None) -> Profile:
    """The profile called `name`, or a path that ends in .yaml; all defaults for None.

    Raises UserError if there is no such file or it is not valid.
    """
    if name is None:
        return Profile()
    folders = profile_folders()
    files = [Path(name)] if name.endswith(".yaml") else [folder / f"{name}.yaml" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = sorted({found.stem for folder in folders for found in folder.glob("*.yaml")})
        raise UserError(f"--cluster {name}: no file {' or '.join(map(str, files))}; there are: {', '.join(known) or 'none'}")
    try:
        return Profile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({str(error).splitlines()[0]})") from error
    except ValidationError as error:
        raise UserError("\n".join(f"{file}: {_message(item)}" for item in error.errors())) from error


def _message(item: ErrorDetails) -> str:
    """One of pydantic's errors as a sentence for the user, with the key."""
    key, fields = str(item["loc"][0]), list(Profile.model_fields)
    if item["type"] == "extra_forbidden":
        near = get_close_matches(key, fields, n=1, cutoff=0.5)
        return f"{key}: unknown key; {f'did you mean `{near[0]}`?' if near else 'allowed: ' + ', '.join(fields)}"
    text = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{'.'.join(map(str, item['loc']))}: must be {text}" if item["msg"].startswith("Input") else f"{key}: {text}"
