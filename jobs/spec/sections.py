"""The sections of a spec that every kind of model has: fields, defaults, allowed values.

Keys have the names that the papers on diffusion and their code use. A kind adds sections of its own, and keys to these ones
(jobs/kinds/KIND/sections.py). `AsWritten` marks what a person writes; the class without it has every default filled in.
"""

from typing import Annotated, Any

from pydantic import Field

from jobs.spec.averages import average_problems
from jobs.spec.features import metrics_beyond
from jobs.spec.fields import (
    Compile,
    Count,
    CountOrZero,
    EmaRate,
    File,
    GradientCheckpointing,
    Name,
    OfAllSamplings,
    OneOf,
    Section,
    Seed,
    SigmaRel,
    Text,
    TrainingStep,
)
from jobs.spec.metrics import METRICS, labelled
from jobs.spec.precisions import Precision
from jobs.spec.resources import Resources

DEFAULT_KIND = "diffusion"

Contradiction = tuple[str, str]
"""A dotted key, and a mistake there that no single field shows."""


class Data(Section):
    path: File
    """An HDF5 file made by `iddpm data`, or `digits` / `digits-test`: the built-in handwritten digits."""
    image_size: Annotated[Count, Field(le=65_536)]
    channels: Annotated[Count, Field(le=4096)] = 3
    class_cond: bool = False
    num_classes: Count | None = None
    random_flip: bool = False
    random_crop: bool = False
    """Train on random square windows of the images, of 0.8 to 1 of the side, enlarged to image_size."""

    @property
    def classes(self) -> int | None:
        """The number of classes that the model is conditioned on; None where it is unconditional."""
        return self.num_classes if self.class_cond else None


class Train(Section):
    iterations: Count
    init_from: File | None = None
    """Weights to start from, counting from step 0 with a fresh optimiser: .safetensors, .pt, a run's folder, or that of one of
    its checkpoints. null: random ones."""
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
    ema_rate: Annotated[list[EmaRate], Field(max_length=100)] = [0.9999]
    ema_sigma_rel: Annotated[list[SigmaRel], Field(max_length=4)] = []
    """Lengths of power-function averages that training tracks besides, such as [0.05, 0.1] (Karras et al. 2024). Snapshots of
    them give averages of other lengths after training: sample.ema_sigma_rel."""
    ema_snapshots: Annotated[Count, Field(le=64)] = 16
    """How many snapshots of those averages, evenly over training; each is kept for good."""
    precision: Precision = "fp32"
    compile: Compile = False
    """torch.compile of the network; max-autotune also tries several kernels, and uses CUDA graphs on a GPU."""
    gradient_checkpointing: GradientCheckpointing = False
    """Recompute blocks in the backward pass: all of them, or those at the listed resolutions (in pixels)."""
    deterministic: bool = True
    """On a GPU, use only kernels that repeat to the bit, so that a resumed run ends with the weights of an unbroken one. false:
    the fastest kernels."""
    log_interval: Count = 100
    save_interval: Count = 10_000
    keep_interval: Count | None = None
    """Keep every checkpoint at a multiple of this for good, besides the last two."""
    seed: Seed = 0


class Sample(Section):
    younger = frozenset({"ema_sigma_rel", "deterministic"})
    num_samples: Annotated[Count, OfAllSamplings("metrics of unlike numbers of samples do not compare")] = 50_000
    batch_size: Annotated[Count, OfAllSamplings("equal noise at every point needs chunks of one size")] = 500
    """Samples in one chunk: the unit of work and of file, and part of what makes samples repeatable to the byte.

    `iddpm bench SPEC` recommends a number for the machine on which it runs.
    """
    precision: Precision = "fp32"
    """Of the network; the arithmetic around the network stays in fp32."""
    compile: Annotated[Compile, OfAllSamplings("the network is compiled once")] = False
    """As train.compile. With max-autotune samples depend on which kernels were found fastest."""
    deterministic: Annotated[bool, OfAllSamplings("how a machine computes is no way to sample")] = True
    """As train.deterministic: samples that repeat to the byte."""
    ema_rate: EmaRate | None = 0.9999
    """One of train.ema_rate; null: the weights as trained."""
    ema_sigma_rel: SigmaRel | None = None
    """An average of this length instead, made of the snapshots of train.ema_sigma_rel; ema_rate then has no effect."""
    seed: Seed = 0
    at: Annotated[list[TrainingStep], Field(max_length=1000),
                  OfAllSamplings("evaluate.samplings samples the last step's weights")] = ["last"]
    """Training steps whose checkpoints are kept for good and sampled from, besides the last one."""


class EvaluateAsWritten(Section):
    reference: File | None = None
    """Data set to compare samples with; null: data.path."""
    features: File = "pixels"
    """`pixels`, `classifier` (a small one, trained on the reference), or a TorchScript file such as inception-2015-12-05.pt."""
    metrics: Annotated[list[Annotated[str, OneOf(METRICS)]], Field(max_length=100)] = ["fid"]
    batch_size: Count = 64
    seed: Seed = 0
    samplings: Annotated[list[dict[str, Any]], Field(max_length=1000)] = []
    """Further ways to sample the last step's weights: keys of `sample` that differ from the main ones, a list of values meaning
    each. See jobs/spec/sampling_list.py."""


class Evaluate(EvaluateAsWritten):
    reference: File


class SpecAsWritten(Section):
    """A spec as a person writes it: null may stand for a default that depends on other fields."""

    name: Name
    kind: Text = DEFAULT_KIND
    """Kind of model: one of jobs.spec.kinds.KINDS."""
    data: Data
    train: Train
    sample: Sample = Sample()
    evaluate: EvaluateAsWritten = EvaluateAsWritten()
    resources: Resources = Resources()


class Spec(SpecAsWritten):
    """One run: every default is filled in."""

    evaluate: Evaluate


def contradictions(spec: Spec, resolutions: list[int]) -> list[Contradiction]:
    """Return the contradictions in the sections that every kind has that draws samples.

    `resolutions`: the image sizes at which the network works, in pixels; empty where they are unknown.
    """
    found, sample, features = contradictions_of_training(spec, resolutions), spec.sample, spec.evaluate.features
    found += [("evaluate.metrics", f"{metric} needs more than features: {features} has; use classifier or a TorchScript file")
              for metric in metrics_beyond(features, spec.evaluate.metrics)]
    found += [("sample.num_samples", f"{sample.num_samples}, but metric {metric} needs at least {METRICS[metric].least} samples")
              for metric in spec.evaluate.metrics if sample.num_samples < METRICS[metric].least]
    found += [("sample.at", f"step {step} is beyond train.iterations {spec.train.iterations}")
              for step in sample.at if step != "last" and step > spec.train.iterations]
    return found


def label_contradictions(spec: Spec, otherwise: str = "") -> list[Contradiction]:
    """Return the metrics of samples by class that a spec without class_cond has. `otherwise`: what else gives samples a class."""
    return [("evaluate.metrics", f"{metric} needs samples of requested classes; use data.class_cond: true{otherwise}")
            for metric in labelled(spec.evaluate.metrics) if not spec.data.class_cond]


def contradictions_of_training(spec: Spec, resolutions: list[int]) -> list[Contradiction]:
    """As `contradictions`, without those about samples: for a kind that draws none."""
    found: list[Contradiction] = []
    data, train, sample = spec.data, spec.train, spec.sample
    if data.class_cond and data.num_classes is None:
        found.append(("data.num_classes", "class_cond: true needs the number of classes"))
    if isinstance(train.gradient_checkpointing, list) and resolutions:
        found += [("train.gradient_checkpointing", not_a_resolution(size, resolutions))
                  for size in train.gradient_checkpointing if size not in resolutions]
    if len({*train.ema_sigma_rel}) < len(train.ema_sigma_rel):
        found.append(("train.ema_sigma_rel", f"{train.ema_sigma_rel} has an average twice"))
    elif not train.ema_sigma_rel and train.ema_snapshots != type(train).model_fields["ema_snapshots"].default:
        found.append(("train.ema_snapshots", "has an effect only with train.ema_sigma_rel, such as [0.05, 0.1]; leave it out"))
    elif sample.ema_sigma_rel is not None:
        at = getattr(sample, "at", [])  # of a kind that draws samples
        steps = dict.fromkeys([train.iterations, *(step for step in at if step != "last" and step < train.iterations)])
        found += [("sample.ema_sigma_rel", problem) for problem in average_problems(
            train.iterations, train.ema_sigma_rel, train.ema_snapshots, sample.ema_sigma_rel, list(steps))]
    elif sample.ema_rate is not None and sample.ema_rate not in train.ema_rate:
        found.append(("sample.ema_rate", f"{sample.ema_rate} is not among train.ema_rate {train.ema_rate}"))
    resources = spec.resources.train
    fewest = resources.fewest_nodes * resources.tasks
    if not resources.is_elastic or not ranks_to_use(train, fewest):
        found += batch_contradictions(train, 1 if resources.is_elastic else resources.world_size)
    return found


def not_a_resolution(size: int, resolutions: list[int]) -> str:
    return f"{size} is not a resolution of this network; it has {', '.join(map(str, resolutions))}"


def batch_contradictions(train: Train, ranks: int) -> list[Contradiction]:
    """Return why `ranks` processes cannot share the batch evenly, if they cannot."""
    if train.batch_size % ranks:
        return [("train.batch_size", f"{train.batch_size} cannot be split evenly over {ranks} ranks (resources.train)")]
    if train.microbatch and (train.batch_size // ranks) % train.microbatch:
        return [("train.microbatch", f"{train.microbatch} does not divide the {train.batch_size // ranks} examples "
                 f"of one rank ({train.batch_size} over {ranks} ranks)")]
    return []


def ranks_to_use(train: Train, granted: int) -> int:
    """Return the most of `granted` processes that can share the batch evenly; 0 where not even one can."""
    return next((ranks for ranks in range(min(granted, train.batch_size), 0, -1) if not batch_contradictions(train, ranks)), 0)
