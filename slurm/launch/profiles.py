"""Cluster profiles: options that a site needs in every job, kept out of specs.

A profile NAME is the YAML file NAME.yaml in configs/clusters/ of the current folder or in ~/.config/iddpm/clusters/.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import UserError
from jobs.spec.fields import Count, CountOrZero, File, Gigabytes, Line, Section, Text
from jobs.spec.reading.complaints import in_words
from jobs.spec.reading.location import with_location
from jobs.spec.reading.sweep import Complaint
from jobs.spec.reading.yaml_nodes import MAX_PATH, Entry, read_text, refuse, shortened
from jobs.spec.reading.yaml_tree import KeyPath, plain, read_tree
from slurm.launch.sites.options import has_gpus, refused_argument, refused_option


def profile_folders() -> list[Path]:
    """The folders with profiles; the first one that has a file of the name wins."""
    home = Path("~/.config/iddpm/clusters")
    try:
        return [Path("configs/clusters"), home.expanduser()]
    except RuntimeError:  # a user without a home
        return [Path("configs/clusters")]


# Types of fields

def _one_word(value: str) -> str:
    # submitit writes these options into #SBATCH lines, where a quote or newline would end the line or run as a command.
    if not re.fullmatch(r"[A-Za-z0-9_.,:;@%+&|()*=~^!/\[\]-]+", value):
        raise ValueError("has a character that does not belong in an sbatch option")
    return value


def _one_line(value: str) -> str:
    # sbatch takes a backslash as an escape even inside quotes, so that the rest of the line could run as a command.
    if not value.isprintable() or set(value) & set("'\"\\`$") or value != value.strip():
        raise ValueError("must be one line without quotes, backslashes, $, and spaces at its ends")
    return value


def _value(value: Any) -> str | bool:
    """Read the value of a free option: text, or true for an option without a value."""
    if value is True:
        return True
    if not isinstance(value, str) or not value or len(value) > 1000:
        raise ValueError("must be text, a number, or true for an option without a value")
    return _one_line(value)


def _exclusive(value: Any) -> bool | str:
    if isinstance(value, bool) or value in ("user", "mcs", "topo"):
        return value
    raise ValueError("must be true, false, user, mcs or topo")


def _in_quotes(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        raise ValueError(f'must be text; put it in quotes: "{str(value).lower() if value is not None else "null"}"')
    return value


def _size(value: str) -> str:
    if not re.fullmatch("[0-9]{1,12}[KMGT]?", value):
        raise ValueError("must be a number of MB, or a number with K, M, G or T behind it, such as 4G")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,199}", value):
        raise ValueError("must be the name of a variable: letters, digits and _, no digit first")
    return value


def _flag(value: str) -> str:
    if not re.fullmatch("[a-z][a-z-]{1,39}", value):
        raise ValueError("must be the long name of an option of sbatch, such as cpu-freq")
    return value


Option = Annotated[Text, AfterValidator(_one_word)]
FreeText = Annotated[Text, AfterValidator(_one_line)]
Size = Annotated[Text, AfterValidator(_size)]
Variable = Annotated[str, AfterValidator(_variable)]
Flag = Annotated[str, AfterValidator(_flag)]


class SiteOptions(Section):
    """What a site may want in a job. An option that is null is left to sbatch's own default."""

    partition: Option | None = None
    account: Option | None = None
    qos: Option | None = None
    constraint: Option | None = None
    reservation: Option | None = None
    nodelist: Option | None = None
    exclude: Option | None = None
    exclusive: Annotated[bool | str, BeforeValidator(_exclusive)] = False
    """true: whole nodes; or `user`, `mcs`, `topo`, as sbatch has them."""
    licenses: Option | None = None
    wckey: Option | None = None
    comment: FreeText | None = None
    mail_type: Option | None = None
    mail_user: Option | None = None
    nice: Annotated[int, Field(ge=-2147483645, le=2147483645)] | None = None
    tmp: Size | None = None
    """The least disk space in a node's temporary folder."""
    gpu_request: Literal["gpus_per_node", "gres"] | None = None
    """How to ask for GPUs: --gpus-per-node=N, the default, or --gres=gpu:N."""
    gres: Option | None = None
    """Generic resources of each node. The number of GPUs is the spec's: gpu:a100 becomes gpu:a100:N, and is left out for stages
    without GPUs."""
    mem_gb: Gigabytes | None = None
    """Memory of each node for stages whose spec has no mem_gb; 0: all that the node has."""
    mem_per_cpu: Size | None = None
    """Memory of each core, instead of mem_gb, for stages whose spec has no mem_gb."""
    cpus_per_task: Count | None = None
    """Cores per process for stages with GPUs whose spec has no cpus_per_task. Not for stages without GPUs: there the number
    of threads changes the numerical results, so only the spec sets it."""
    sbatch: dict[Flag, Annotated[str | bool, BeforeValidator(_value)]] = {}
    """Other options of sbatch."""
    srun: list[FreeText] = []
    """Arguments of srun."""


class Stages(Section):
    """Options that differ between stages. A key here replaces the profile's key; null takes it away."""

    train: SiteOptions = SiteOptions()
    sample: SiteOptions = SiteOptions()
    evaluate: SiteOptions = SiteOptions()
    report: SiteOptions = SiteOptions()


# Keys of which a stage has at most one: a stage that sets the first takes the second away, and the other way round.
EITHER = (("mem_gb", "mem_per_cpu"), ("gres", "gpu_request"))


class Profile(SiteOptions):
    """One cluster."""

    stages: Stages = Stages()
    signal_lead_s: Count = 120
    """Seconds between the signal to save and the time limit or preemption. SLURM may send the signal up to 60 s early."""
    max_array_size: Count | None = None
    """Largest job array; null: ask the cluster."""
    max_queued: Count | None = None
    """The most jobs that you may have in the queue, such as a QOS's MaxSubmitJobsPerUser: the study then goes in waves."""
    requeue: bool = True
    """Whether SLURM puts a job back into the queue. Where the site forbids that, follow-up jobs resume a stage."""
    follow_ups: Annotated[CountOrZero, Field(le=100)] = 3
    """Only with `requeue: false`: how many jobs stand behind each job of a stage. A follow-up of a stage that is done ends at
    once."""
    setup: list[Text] = []
    """Shell lines that run before the job, such as `module load cuda`. They are not quoted."""
    python: Text | None = None
    """Command that runs Python in the job, such as `apptainer exec image.sif python`; null: the Python that submits."""
    environment: dict[Variable, Annotated[Line, BeforeValidator(_in_quotes)]] = {}
    bench: File | None = None
    """File that `iddpm bench` wrote on a node of this cluster, for planned times; null: the newest bench-*.json here."""

    @property
    def follow_ups_used(self) -> int:
        """`follow_ups`, or none where jobs may be requeued."""
        return 0 if self.requeue else self.follow_ups

    def of_stage(self, stage: str) -> SiteOptions:
        """The options of the jobs of one stage, or of the report."""
        own: SiteOptions = getattr(self.stages, stage)
        given = {name: getattr(own, name) for name in own.model_fields_set}
        options = {name: getattr(self, name) for name in SiteOptions.model_fields}
        for pair in EITHER:
            if any(given.get(name) is not None for name in pair):
                options |= dict.fromkeys(pair)
        return SiteOptions(**options | given | {"sbatch": self.sbatch | own.sbatch})


# Reading a profile

def load_profile(name: str | None) -> Profile:
    """The profile called `name`, or a path that ends in .yaml; all defaults for None.

    Raises UserError with file and line of every mistake, or if there is no such file.
    """
    if name is None:
        return Profile()
    folders = profile_folders()
    files = [Path(name)] if name.endswith(".yaml") else [folder / f"{name}.yaml" for folder in folders]
    file = next((file for file in files if is_there(file)), None)
    if file is None:
        known = sorted({found.stem for folder in folders if folder.is_dir() for found in folder.glob("*.yaml")})
        raise UserError(f"--cluster {shortened(name)}: no file {' or '.join(shortened(str(file), MAX_PATH) for file in files)}; "
                        f"there are: {', '.join(known) or 'none'}")
    tree = read_tree(read_text(file), str(file), "with keys such as partition:")
    try:
        profile = Profile.model_validate(_values(tree))
    except ValidationError as error:
        refuse([with_location(tree, None, _complaint(item)) for item in error.errors(include_url=False)])
    if wrong := [*_dates(tree, ()), *_contradictions(profile)]:
        refuse([with_location(tree, None, complaint) for complaint in wrong])
    return profile


def is_there(path: Path) -> bool:
    """Return whether anything has this path: a folder or a pipe gets a message of its own."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _values(tree: Entry, section: type[Section] = Profile) -> dict[str, Any]:
    """Return the plain values, with numbers as they are written where an option is text: SLURM's account may be 007."""
    values = {}
    for key, entry in tree.value.items():
        kind = section.model_fields[key].annotation if key in section.model_fields else None
        if kind in (Stages, SiteOptions) and isinstance(entry.value, dict):
            values[key] = _values(entry, kind)
        else:
            values[key] = _as_text(entry) if _takes_text(kind) else plain(entry)
    return values


def _takes_text(kind: Any) -> bool:
    return kind is str or any(_takes_text(inner) for inner in get_args(kind))


def _as_text(entry: Entry) -> Any:
    if isinstance(entry.value, dict):
        return {key: _as_text(inner) for key, inner in entry.value.items()}
    if isinstance(entry.value, list):
        return [_as_text(inner) for inner in entry.value]
    is_number = isinstance(entry.value, int | float) and not isinstance(entry.value, bool)
    return entry.written if is_number else entry.value


def _complaint(item: ErrorDetails) -> Complaint:
    path = tuple(part for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        section = Profile if len(path) == 1 else Stages if len(path) == 2 else SiteOptions
        near = get_close_matches(str(path[-1]), section.model_fields, n=1, cutoff=0.5)
        allowed = f"did you mean `{near[0]}`?" if near else f"allowed: {', '.join(section.model_fields)}"
        return path, f"unknown key; {allowed}"
    return path, in_words(item, Profile)


def _dates(entry: Entry, path: KeyPath) -> Iterator[Complaint]:
    """Yield a complaint for each word that other readers of YAML take for a date."""
    if isinstance(entry.value, dict | list):
        for key, inner in entry.value.items() if isinstance(entry.value, dict) else enumerate(entry.value):
            yield from _dates(inner, (*path, key))
    elif isinstance(entry.value, str) and re.fullmatch(r"\d{4}-\d\d?-\d\d?([Tt ].*)?", entry.written):
        yield path, f'looks like a date; put text in quotes: "{shortened(entry.written)}"'


def _contradictions(profile: Profile) -> Iterator[Complaint]:
    """Yield what no single key shows."""
    places: list[tuple[KeyPath, SiteOptions]] = [((), profile)]
    places += [(("stages", stage), getattr(profile.stages, stage)) for stage in Stages.model_fields]
    for prefix, options in places:
        if options.mem_gb is not None and options.mem_per_cpu is not None:
            yield (*prefix, "mem_per_cpu"), "give mem_gb or mem_per_cpu, not both"
        if options.gres and options.gpu_request == "gpus_per_node" and has_gpus(options.gres):
            yield (*prefix, "gpu_request"), "gres names GPUs, which asks for them with --gres; leave gpu_request out"
        for option in options.sbatch:
            own = option.replace("-", "_")
            if why := f"has a key of its own: write {own}" if own in SiteOptions.model_fields else refused_option(option):
                yield (*prefix, "sbatch", option), why
        for place, argument in enumerate(options.srun):
            if why := refused_argument(argument):
                yield (*prefix, "srun", place), f"{argument}: {why}"
