"""A spec, and benches with rates made up for it."""

from jobs.cost.bench.file import Bench, Network, Quartiles, Rate, SpecSettings, network_fingerprint
from jobs.cost.count import run_cost
from jobs.cost.plan import plan_run
from jobs.cost.rates import Band
from jobs.kinds.diffusion.sections import DiffusionSpecAsWritten, resolve
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES

FOREVER = dict.fromkeys(STAGES, 1e9)
SPEC = {
    "name": "planned", "data": {"path": "digits", "image_size": 8, "channels": 1},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4], "num_heads": 2},
    "diffusion": {"diffusion_steps": 400},
    "train": {"iterations": 1000, "batch_size": 64, "ema_rate": [0.9]},
    "sample": {"num_samples": 100, "batch_size": 40, "ema_rate": 0.9},
    "evaluate": {"nll_data": "digits-test", "nll_examples": 50, "batch_size": 20},
    "resources": {stage: {"tasks_per_node": 2, "cpus_per_task": 1, "time": "1:00:00"} for stage in STAGES}}


def spec_with(**sections) -> Spec:
    changed = {name: SPEC[name] | changes for name, changes in sections.items()}
    return resolve(DiffusionSpecAsWritten.model_validate(SPEC | changed))


def stage_resources(**changes) -> dict:
    return {stage: SPEC["resources"][stage] | changes for stage in STAGES}


def rate(work, batch_size, median, spread=0.0, **more) -> Rate:
    quartiles = Quartiles(q25=median * (1 - spread), median=median, q75=median * (1 + spread))
    return Rate(**({"work": work, "precision": "fp32", "batch_size": batch_size, "threads": 1, "per_second": quartiles} | more))


def bench_of(spec: Spec, *rates: Rate, **more) -> Bench:
    flops = run_cost(spec).forward_flops
    network = Network(fingerprint=network_fingerprint(spec), parameters=1, forward_flops=flops, training_flops=3 * flops,
                      forward_flops_by_torch=flops, training_flops_by_torch=3 * flops)
    asked = SpecSettings(precision="fp32", gradient_checkpointing=False, train_batch_size=32, sample_batch_size=40)
    return Bench(**({"made": "2026-01-02T03:04:05+0000", "host": "here", "processor": "A Processor", "device": "cpu", "gpus": 0,
                     "cores": 2, "torch": "2.6.0", "quick": True, "spec": "spec.yaml", "asked": asked, "network": network,
                     "peaks": {"gemm": {"fp32": 1e11}}, "rates": list(rates), "split": {}, "scaling": []} | more))


RATES = (rate("train", 32, 200.0), rate("sample", 40, 1000.0), rate("sample", 20, 500.0))


def planned_seconds(spec: Spec, bench: Bench) -> dict[str, Band]:
    """Seconds of work by stage."""
    return {stage: plan.seconds for stage, plan in plan_run(spec, bench, FOREVER).items()}
