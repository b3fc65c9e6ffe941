"""Cluster profiles: what a site wants in every submission, kept out of specs.

A profile NAME is the YAML file NAME.yaml in configs/clusters/ below the current folder or in ~/.config/iddpm/clusters/.
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

FOLDERS = (Path("configs/clusters"), Path("~/.config/iddpm/clusters").expanduser())


def _harmless(value: str) -> str:
    # submitit writes these into #SBATCH lines, where a quote or newline would end the line or run as a command.
    if not re.fullmatch(r"[A-Za-z0-9_.,:@%+&|()\[\]/-]+", value):
        raise ValueError("has a character that does not belong in an sbatch option")
    return value


Option = Annotated[Text, AfterValidator(_harmless)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Profile(Section):
    """One cluster. Everything has a default that sbatch fills in."""

    partition: Option | None = None
    account: Option | None = None
    qos: Option | None = None
    constraint: Option | None = None
    gpu_request: Literal["gpus_per_node", "gres"] = "gpus_per_node"
    """How the site wants GPUs asked for: --gpus-per-node=N or --gres=gpu:N."""
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """For stages whose spec is silent."""
    cpus_per_task: Count | None = None
    """Cores for each GPU's process, where the spec is silent. Without GPUs the spec says: there threads change the arithmetic."""
    signal_lead_s: Count = 120
    """How long before a time limit or preemption a job is told; SLURM may be up to 60 s early."""
    max_array_size: Count | None = None
    """null: asked of the cluster."""
    setup: list[Text] = []
    """Shell lines before the job, such as `module load cuda`; they run as they are."""
    python: Text | None = None
    """Command that runs Python in the job, such as `apptainer exec image.sif python`; null: this one."""
    environment: dict[Variable, Text] = {}
    bench: Text | None = None
    """What `iddpm bench` wrote on one of its nodes, for `iddpm plan` and to compare with; null: the newest bench-*.json here."""


def load_profile(name: str | None) -> Profile:
    """The profile called `name`; the empty one for None. Raises UserError where there is none or it is not valid."""
    if name is None:
        return Profile()
    files = [Path(name)] if name.endswith(".yaml") else [folder / f"{name}.yaml" for folder in FOLDERS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = sorted({found.stem for folder in FOLDERS for found in folder.glob("*.yaml")})
        raise UserError(f"--cluster {name}: no file {' or '.join(map(str, files))}; there are: {', '.join(known) or 'none'}")
    try:
        return Profile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({str(error).splitlines()[0]})") from error
    except ValidationError as error:
        raise UserError("\n".join(f"{file}: {_complaint(item)}" for item in error.errors())) from error


def _complaint(item: ErrorDetails) -> str:
    key, fields = str(item["loc"][0]), list(Profile.model_fields)
    if item["type"] == "extra_forbidden":
        near = get_close_matches(key, fields, n=1, cutoff=0.5)
        return f"{key}: unknown key; {f'did you mean `{near[0]}`?' if near else 'allowed: ' + ', '.join(fields)}"
    said = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{'.'.join(map(str, item['loc']))}: must be {said}" if item["msg"].startswith("Input") else f"{key}: {said}"
