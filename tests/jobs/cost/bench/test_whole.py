"""`iddpm bench`: a whole measurement of a tiny network."""

from pathlib import Path

import pytest

from jobs.cost.bench.file import OPERATIONS, read_bench
from jobs.cost.count import run_cost
from jobs.cost.plan import plan_run
from jobs.spec.reading.file import load
from jobs.spec.stages import STAGES
from slurm.cli.bench import bench_machine, recommendation


@pytest.mark.slow
def test_a_whole_measurement(folder, capsys):
    bench_machine(Path("small.yaml"), ("train.microbatch=6",), True, False, Path("here.json"))
    out, bench = capsys.readouterr().out, read_bench(Path("here.json"))
    assert not list(folder.glob(".*"))
    assert (bench.device, bench.quick, bench.spec, bench.scaling) == ("cpu", True, "small.yaml train.microbatch=6", [])
    assert (bench.asked.train_batch_size, bench.asked.sample_batch_size) == (6, 4)

    spec = load(Path("small.yaml"), ("train.microbatch=6",)).runs[0].spec
    forward = run_cost(spec).forward_flops
    assert (bench.network.forward_flops, bench.network.forward_flops_by_torch) == (forward, forward)
    # No gradient is taken of the image.
    assert 2.8 * forward < bench.network.training_flops_by_torch < bench.network.training_flops == 3 * forward

    training = {(rate.precision, rate.gradient_checkpointing, rate.batch_size) for rate in bench.rates if rate.work == "train"}
    assert training == {("fp32", False, 3), ("fp32", False, 12), ("fp32", False, 6), ("fp32", True, 6), ("bf16", False, 6),
                        ("bf16", True, 6)}
    sampling = {(rate.precision, rate.batch_size) for rate in bench.rates if rate.work == "sample"}
    assert sampling == {(precision, batch) for precision in ("fp32", "bf16") for batch in (1, 2, 4)}
    assert set(bench.peaks) == {"gemm", "convolution"} and all(set(rates) == {"fp32", "bf16"} for rates in bench.peaks.values())
    assert all(rate.problem == "" and rate.threads == 1 for rate in bench.rates)
    for rate in bench.rates:
        flops = bench.network.training_flops_by_torch if rate.work == "train" else forward
        peak = max(bench.peaks[kind][rate.precision] for kind in bench.peaks)
        assert rate.share_of_peak == pytest.approx(rate.per_second.median * flops / peak)
        assert (rate.memory_is == "counted" and rate.memory_bytes > 1e5) if rate.work == "train" else rate.memory_bytes is None
    assert set(bench.split) == set(OPERATIONS) and sum(bench.split.values()) == pytest.approx(1)
    assert bench.split["convolution"] > 0.02

    assert "training" in out and "image-steps/s" in out and "counted memory" in out
    assert "here.json: for `iddpm plan`" in out
    assert f"For this machine: {recommendation(bench).split(': ')[1]}" in out
    assert all(plan.seconds.low > 0 for plan in plan_run(spec, bench, dict.fromkeys(STAGES, 1e9)).values())
