"""How long one image's step of a stage takes, from the rates that `iddpm bench` measured; and the assumptions behind it."""

from dataclasses import dataclass

from jobs.cost.bench.file import Bench, Quartiles, Variant, checkpointing, network_fingerprint, with_nearest_batch
from jobs.cost.guided import forward_flops
from jobs.errors import UserError
from jobs.quantities import amount, plural
from jobs.spec.kinds import kind_of
from jobs.spec.precisions import Precision
from jobs.spec.sections import Spec


@dataclass(frozen=True)
class Band:
    """A median, and its range by the bench's quartiles; seconds unless said otherwise."""

    low: float
    median: float
    high: float

    def __mul__(self, factor: float) -> "Band":
        return Band(factor * self.low, factor * self.median, factor * self.high)

    def __add__(self, other: "Band") -> "Band":
        return Band(self.low + other.low, self.median + other.median, self.high + other.high)


NOTHING = Band(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MeasuredRate:
    per_second: Quartiles
    threads: int
    assumed: list[str]
    """One sentence for each difference between what was measured and what was wanted."""


def seconds_per_image(spec: Spec, bench: Bench, stage: str, precision: Precision, batch_size: int) -> tuple[Band, list[str]]:
    """Seconds of one image's step of `stage` on one rank with `batch_size` images at once, and the assumptions.

    A step of bits/dim is planned as a step of sampling: both are one forward pass and some arithmetic on images.
    Raises UserError where `bench` was measured on another kind of device, or has no such rate.
    """
    resources, training = getattr(spec.resources, stage), stage == "train"
    _check_device(bench, stage, resources.gpus_per_node)
    wanted = Variant(work="train" if training else "sample", precision=precision, batch_size=batch_size,
                     gradient_checkpointing=training and checkpointing(spec.train),
                     compiled=stage != "evaluate" and bool(getattr(spec, stage).compile),
                     cuda_graph=stage == "sample" and kind_of(spec).records_steps(spec) and bench.device != "cpu",
                     deterministic=getattr(getattr(spec, stage), "deterministic", True) or bench.device == "cpu")
    rate = measured_rate(bench, wanted)
    assumed, factor = list(rate.assumed), 1.0
    if bench.device == "cpu" and rate.threads != resources.threads:
        assumed.append(f"measured with {plural(rate.threads, 'thread')}, the spec has {resources.threads}; taken as equally fast")
    if bench.device == "cpu" and not training and resources.world_size > 1:
        assumed.append("ranks do not slow each other down: they share the memory's bandwidth, which was not measured")
    if network_fingerprint(spec) != bench.network.fingerprint:
        flops = forward_flops(spec)
        factor = flops / bench.network.forward_flops
        assumed.append("measured on another network: scaled by FLOP of a forward pass, "
                       f"{amount(bench.network.forward_flops)}FLOP to {amount(flops)}FLOP")
    return _inverse(rate.per_second) * factor, assumed


def measured_rate(bench: Bench, wanted: Variant) -> MeasuredRate:
    """The rate of the wanted variant at the measured batch size that is nearest to the wanted one.

    Without a rate for a compiled or recorded step, the rate of the plain step. Raises UserError where there is none either.
    """
    same_settings = [rate for rate in bench.rates if _settings(rate) == _settings(wanted)]
    usable = [rate for rate in same_settings if rate.per_second]
    if not usable:
        return _plain_rate(bench, wanted, same_settings[0].problem if same_settings else "")
    rate = with_nearest_batch(wanted.batch_size, usable)
    assert rate.per_second  # usable
    if rate.batch_size == wanted.batch_size:
        return MeasuredRate(rate.per_second, rate.threads, [])
    problem = next((other.problem for other in same_settings if other.batch_size == wanted.batch_size), "")
    reason = f" ({problem})" if problem else ""
    return MeasuredRate(rate.per_second, rate.threads,
                        [f"measured with {rate.batch_size} images at once, not {wanted.batch_size}{reason}"])


def _plain_rate(bench: Bench, wanted: Variant, problem: str) -> MeasuredRate:
    """The rate to take for `wanted`, which has none because of `problem`."""
    for setting, sentence in (
            ("compiled", "measured without torch.compile (`iddpm bench --compile` measures it), taken as no faster with it"),
            ("cuda_graph", "measured without cuda_graph, taken as no faster with it")):
        if getattr(wanted, setting):
            rate = measured_rate(bench, wanted.model_copy(update={setting: False}))
            return MeasuredRate(rate.per_second, rate.threads, [*rate.assumed, sentence])
    if not wanted.deterministic:
        rate = measured_rate(bench, wanted.model_copy(update={"deterministic": True}))
        return MeasuredRate(rate.per_second, rate.threads,
                            [*rate.assumed, "measured with deterministic kernels, taken as no faster without"])
    if wanted.precision == "tf32" and bench.device == "cpu":  # where tf32 is fp32
        return measured_rate(bench, wanted.model_copy(update={"precision": "fp32"}))
    words = f"{wanted.work} in {wanted.precision}"
    if wanted.work == "train":
        where = wanted.gradient_checkpointing
        words += f" with gradient_checkpointing: {str(where).lower() if isinstance(where, bool) else list(where)}"
    raise UserError(f"the bench of {bench.host} ({bench.device}) has no rate for {words}{f' ({problem})' if problem else ''}; "
                    "measure this spec: `iddpm bench SPEC`, or change those settings")


def slowdown(bench: Bench, ranks: int) -> tuple[Band, list[str]]:
    """The factor by which a step takes longer where `ranks` train together, at least 1 as a rule; and the assumptions."""
    measured = [(scaling.ranks, scaling.efficiency) for scaling in bench.scaling if scaling.efficiency]
    if ranks == 1:
        return Band(1.0, 1.0, 1.0), []
    if not measured:
        return Band(1.0, 1.0, 1.0), [f"scaling was not measured: {ranks} ranks taken as {ranks} times as fast as one"]
    nearest, efficiency = min(measured, key=lambda pair: abs(pair[0] - ranks))
    assumed = [] if nearest == ranks else [f"scaling measured over {nearest} ranks, taken to hold for {ranks}"]
    return _inverse(efficiency), assumed


def _check_device(bench: Bench, stage: str, gpus_per_node: int) -> None:
    """Raises UserError where a bench of a CPU is asked about a GPU, or the other way round."""
    if (bench.device != "cpu") != (gpus_per_node > 0):
        device = "its CPU" if bench.device == "cpu" else f"a GPU, {bench.device}"
        raise UserError(f"resources.{stage}.gpus_per_node: {gpus_per_node}, but the bench of {bench.host} is of {device}, and "
                        "says nothing about the other device; measure on a machine such as will do the work, or change that "
                        "setting")


def _settings(variant: Variant) -> tuple:
    """Everything about a variant except its batch size."""
    return (variant.work, variant.precision, variant.gradient_checkpointing, variant.compiled, variant.cuda_graph,
            variant.deterministic)


def _inverse(rates: Quartiles) -> Band:
    """Seconds of one piece of work, from pieces per second."""
    return Band(1 / rates.q75, 1 / rates.median, 1 / rates.q25)
