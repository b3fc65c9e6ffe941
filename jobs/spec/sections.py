"""What one run is: the spec's sections and fields, with their defaults and what they allow.

Field names are those of the field's own code and papers. Reading YAML is `spec_file`'s business, sweeps are `sweep`'s.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from diffusion.respacing import space_timesteps
from jobs.spec.stages import STAGES as STAGES


def _integral(value: Any) -> Any:
    """YAML reads 5e5 as a float; as a count it is as good as 500000."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _respacing_text(value: Any) -> Any:
    """`timestep_respacing: 250` means "250"."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _plain_text(value: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("control characters (newline, tab, ...) are not allowed")
    return value


def _study_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    return value


def _training_step(value: Any) -> Any:
    value = _integral(value)
    if value == "last" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("must be a training step (1, 2, ...) or last")


def _compile(value: Any) -> Any:
    if value is False or value in ("default", "max-autotune"):
        return value
    raise ValueError("must be false, default or max-autotune")


def _gradient_checkpointing(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, list) and value and all(type(entry) is int for entry in value)):
        return value
    raise ValueError("must be true, false or a list of resolutions, such as [32, 16]")


def _wall_time(value: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d{1,3}:\d{2}(:\d{2})?", value):
        raise ValueError('write time as "HH:MM:SS", "HH:MM" or "D-HH:MM:SS"')
    return value


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
Text = Annotated[str, AfterValidator(_plain_text), Field(min_length=1)]
EmaRate = Annotated[float, Field(gt=0, lt=1)]
TrainingStep = Annotated[int | Literal["last"], BeforeValidator(_training_step)]
Precision = Literal["fp32", "bf16", "fp16"]
Compile = Annotated[Literal[False, "default", "max-autotune"], BeforeValidator(_compile)]
Metric = Literal["fid", "sfid", "inception_score", "precision_recall", "kid"]
Respacing = Annotated[str, BeforeValidator(_respacing_text), AfterValidator(_plain_text)]

# Channel multipliers of the reference for the image sizes it knows (improved-diffusion README).
CHANNEL_MULT = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Section):
    path: Text
    """An HDF5 file made by `iddpm data`, or `digits` / `digits-test`: the embedded handwritten digits."""
    image_size: Count
    channels: Count = 3
    class_cond: bool = False
    num_classes: Count | None = None
    random_flip: bool = False


class Model(Section):
    num_channels: Count = 128
    num_res_blocks: Count = 3
    channel_mult: Annotated[list[Count], Field(min_length=1)] | None = None
    """Channels of each level as multiples of num_channels; null: the reference's for image sizes 32, 64 and 256."""
    attention_resolutions: list[Count] = [16, 8]
    num_heads: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learn_sigma: bool | None = None
    """null: learned for the losses that train it (hybrid, vlb), fixed for simple."""
    use_scale_shift_norm: bool = True


class Diffusion(Section):
    diffusion_steps: Annotated[Count, Field(ge=2, le=1_000_000)] = 4000
    noise_schedule: Literal["linear", "cosine"] = "cosine"
    loss: Literal["simple", "hybrid", "vlb", "hybrid_unscaled", "vlb_unscaled"] = "hybrid"
    predict: Literal["epsilon", "x_start", "x_prev"] = "epsilon"
    sigma_small: bool = False
    """Fixed variance only: the posterior's (small) instead of beta (large)."""
    rescale_timesteps: bool = True
    """Give the network t * 1000 / diffusion_steps. No checkpoint records it; see the table in README."""


class Train(Section):
    iterations: Count
    batch_size: Count = 128
    """Global: over all ranks."""
    microbatch: Count | None = None
    """Examples per forward pass of one rank; gradients are averaged over microbatches. null: all at once."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    warmup: CountOrZero = 0
    lr_anneal: bool = False
    """Let lr fall linearly to 0 at the last iteration."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    ema_rate: list[EmaRate] = [0.9999]
    schedule_sampler: Literal["uniform", "loss-second-moment"] = "uniform"
    precision: Precision = "fp32"
    compile: Compile = False
    """torch.compile of the network; max-autotune also tries out kernels, and on a GPU uses CUDA graphs."""
    gradient_checkpointing: Annotated[bool | list[int], BeforeValidator(_gradient_checkpointing)] = False
    """Recompute blocks in the backward pass: all of them, or those at the resolutions (in pixels) listed."""
    log_interval: Count = 100
    save_interval: Count = 10_000
    keep_interval: Count | None = None
    """Keep every checkpoint at a multiple of this for good, besides the last two."""
    seed: CountOrZero = 0


class Sample(Section):
    num_samples: Count = 50_000
    batch_size: Count = 500
    """Samples in one chunk: the unit of work and of file, and part of what makes samples repeatable to the byte.

    `iddpm bench SPEC` recommends a number for the machine it runs on.
    """
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    ddim_eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    timestep_respacing: Respacing = ""
    clip_denoised: bool = True
    precision: Precision = "fp32"
    """Of the network; the chain's own arithmetic stays in fp32."""
    compile: Compile = False
    """As train.compile. With max-autotune samples depend on which kernels were found fastest."""
    cuda_graph: bool = False
    """Record a whole reverse step for each chunk and replay it: for networks that a GPU is done with sooner than Python is.
    Without a GPU it changes nothing."""
    ema_rate: EmaRate | None = 0.9999
    """One of train.ema_rate; null: the raw weights."""
    seed: CountOrZero = 0
    at: list[TrainingStep] = ["last"]
    """Training steps whose checkpoints are kept for good and sampled from, besides the last one."""


class Evaluate(Section):
    reference: Text | None = None
    """Data set to compare samples with; null: data.path."""
    features: Text = "pixels"
    """`pixels`, `classifier` (a small one, trained on the reference), or a TorchScript file such as inception-2015-12-05.pt."""
    metrics: list[Metric] = ["fid"]
    nll_data: Text | None = None
    """Held-out data set for bits/dim."""
    nll_examples: CountOrZero = 0
    """How many of its examples, from the first on; 0: none."""
    respacings: list[Respacing] = []
    """Shorter chains to sample with besides the main one, each with both samplers, for a curve over their lengths."""
    batch_size: Count = 64
    seed: CountOrZero = 0


class StageResources(Section):
    nodes: Count = 1
    gpus_per_node: CountOrZero = 0
    tasks_per_node: Count | None = None
    """null: one process per GPU, or one where there are none."""
    cpus_per_task: Count | None = None
    """Also the threads of a process: on a CPU they are part of the arithmetic. null: one, and for a stage that asks for GPUs
    as many cores as the cluster profile says."""
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    time: Annotated[str, AfterValidator(_wall_time)] = "24:00:00"

    @property
    def tasks(self) -> int:
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def world_size(self) -> int:
        return self.nodes * self.tasks

    @property
    def minutes(self) -> int:
        """`time` rounded up to minutes."""
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")] + [0]
        return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + (parts[2] > 0)

    @property
    def threads(self) -> int:
        return self.cpus_per_task or 1


class Resources(Section):
    train: StageResources = StageResources()
    sample: StageResources = StageResources()
    evaluate: StageResources = StageResources()


class Spec(Section):
    name: Annotated[str, AfterValidator(_study_name)]
    data: Data
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()


def resolve(spec: Spec) -> Spec:
    """Fill in what depends on other fields: channel_mult, learn_sigma and the evaluation's reference."""
    model = spec.model.model_copy(update={
        "channel_mult": spec.model.channel_mult or list(CHANNEL_MULT.get(spec.data.image_size, [])) or None,
        "learn_sigma": spec.diffusion.loss != "simple" if spec.model.learn_sigma is None else spec.model.learn_sigma,
    })
    evaluate = spec.evaluate.model_copy(update={"reference": spec.evaluate.reference or spec.data.path})
    return spec.model_copy(update={"model": model, "evaluate": evaluate})


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """What no single field shows, as (dotted key, message); `spec` is resolved. Empty where all is well."""
    found: list[tuple[str, str]] = []
    data, model, diffusion, train = spec.data, spec.model, spec.diffusion, spec.train

    if data.class_cond and data.num_classes is None:
        found.append(("data.num_classes", "class_cond: true needs the number of classes"))
    if model.channel_mult is None:
        sizes = ", ".join(map(str, CHANNEL_MULT))
        found.append(("model.channel_mult",
                      f"there is a default only for image_size {sizes}; give one multiplier per level"))
    else:
        stride = 2 ** (len(model.channel_mult) - 1)
        if data.image_size % stride:
            found.append(("data.image_size", f"{data.image_size} cannot be halved {len(model.channel_mult) - 1} times "
                          f"(channel_mult has {len(model.channel_mult)} levels); use a multiple of {stride}"))
        else:
            found += _resolution_contradictions(data.image_size, model, train)
    if diffusion.loss == "simple" and model.learn_sigma:
        found.append(("model.learn_sigma",
                      "loss: simple does not train a variance; leave learn_sigma out, or use loss: hybrid"))
    if diffusion.loss.startswith("hybrid") and not model.learn_sigma:
        found.append(("model.learn_sigma",
                      f"loss: {diffusion.loss} trains the variance; leave learn_sigma out, or use loss: simple"))
    if model.learn_sigma and diffusion.sigma_small:
        found.append(("diffusion.sigma_small", "chooses a fixed variance, but learn_sigma is on"))

    if diffusion.noise_schedule == "linear" and diffusion.diffusion_steps <= 20:
        found.append(("diffusion.diffusion_steps", f"{diffusion.diffusion_steps} is too few for noise_schedule: linear, "
                      "which is scaled to reach the same noise; it needs at least 21"))
    if spec.sample.ema_rate is not None and spec.sample.ema_rate not in train.ema_rate:
        found.append(("sample.ema_rate", f"{spec.sample.ema_rate} is not among train.ema_rate {train.ema_rate}"))
    if spec.evaluate.nll_examples and spec.evaluate.nll_data is None:
        found.append(("evaluate.nll_data", "nll_examples needs a held-out data set"))
    if spec.evaluate.features == "pixels":
        found += [("evaluate.metrics", f"{metric} needs more than features: pixels has; use classifier or a TorchScript file")
                  for metric in ("sfid", "inception_score") if metric in spec.evaluate.metrics]
    found += batch_contradictions(train, spec.resources.train.world_size)

    found += [("sample.at", f"step {step} is beyond train.iterations {train.iterations}")
              for step in spec.sample.at if step != "last" and step > train.iterations]

    chains = [("sample.timestep_respacing", spec.sample.timestep_respacing),
              *(("evaluate.respacings", chain) for chain in spec.evaluate.respacings)]
    for key, chain in chains:
        try:
            space_timesteps(diffusion.diffusion_steps, chain)
        except ValueError as error:
            found.append((key, str(error)))
    return found


def _resolution_contradictions(image_size: int, model: Model, train: Train) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    resolutions = [image_size >> level for level in range(len(model.channel_mult))]
    checkpointed = train.gradient_checkpointing if isinstance(train.gradient_checkpointing, list) else []
    for key, named in (("model.attention_resolutions", model.attention_resolutions),
                       ("train.gradient_checkpointing", checkpointed)):
        found += [(key, f"{resolution} is not a resolution of this network; it has {', '.join(map(str, resolutions))}")
                  for resolution in named if resolution not in resolutions]
    attended = [mult for mult, size in zip(model.channel_mult, resolutions) if size in model.attention_resolutions]
    for mult in {*attended, model.channel_mult[-1]}:  # the middle block always attends, at the deepest level
        if (channels := mult * model.num_channels) % model.num_heads:
            found.append(("model.num_heads",
                          f"{model.num_heads} heads do not divide the {channels} channels of an attention layer"))
    return found


def batch_contradictions(train: Train, ranks: int) -> list[tuple[str, str]]:
    """What keeps `ranks` processes from sharing the batch evenly, as `contradictions` has it."""
    if train.batch_size % ranks:
        return [("train.batch_size", f"{train.batch_size} cannot be split evenly over {ranks} ranks (resources.train)")]
    if train.microbatch and (train.batch_size // ranks) % train.microbatch:
        return [("train.microbatch", f"{train.microbatch} does not divide the {train.batch_size // ranks} examples "
                 f"of one rank ({train.batch_size} over {ranks} ranks)")]
    return []
