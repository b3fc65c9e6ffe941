"""The plan of a run: its arithmetic against cases worked out by hand, and what it assumes or refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_benches import FOREVER, RATES, bench_of, planned_seconds, rate, spec_with, stage_resources

from jobs.cost.bench.file import Quartiles, Scaling, network_fingerprint
from jobs.cost.count import run_cost
from jobs.cost.plan import longest_queue, plan_run, plan_samplings
from jobs.cost.rates import Band
from jobs.errors import UserError
from jobs.spec.kinds import kind_of


def test_seconds_of_each_stage_are_those_worked_out_by_hand():
    spec = spec_with()
    planned = plan_run(spec, bench_of(spec, *RATES), FOREVER)
    # A rank trains on 1000 x 32 images, 200 a second.
    assert planned["train"].seconds.median == pytest.approx(160)
    # Chunks of 40, 40 and 20 samples on two ranks: the first takes the last too, (40 + 20) x 400 steps.
    assert planned["sample"].seconds.median == pytest.approx(24)
    assert (planned["sample"].pieces, planned["sample"].piece.median) == (3, pytest.approx(16))
    # Batches of 20, 20 and 10 examples in turn: the first rank has 30, 400 steps each, 500 a second.
    assert planned["evaluate"].seconds.median == pytest.approx(24)
    assert [plan.jobs for plan in planned.values()] == [(1, 1, 1)] * 3
    [assumed] = {*planned["sample"].assumed, *planned["evaluate"].assumed}
    assert assumed.startswith("ranks do not slow each other down")
    alone = spec_with(resources=stage_resources(tasks_per_node=1), train={"batch_size": 32})
    assert [plan.assumed for plan in plan_run(alone, bench_of(alone, *RATES), FOREVER).values()] == [()] * 3


def test_a_sampling_in_another_precision_is_planned_by_the_rate_of_that_precision():
    spec = spec_with(evaluate={"samplings": [{"precision": "bf16"}]})
    bench = bench_of(spec, *RATES, rate("sample", 40, 2000.0, precision="bf16"))
    assert [(plan.name, plan.seconds.median) for plan in plan_samplings(spec, bench)] == [
        ("main settings", pytest.approx(24)), ("precision bf16", pytest.approx(12))]
    # Image-steps by the rate of fp32: the second sampling's chunks count half. Ranks: 16000 + 8000 + 8000, 16000 + 8000 + 4000.
    assert plan_run(spec, bench, FOREVER)["sample"].seconds.median == pytest.approx(32)


def test_the_bands_are_the_quartiles_of_the_bench():
    spec = spec_with()
    scaling = Scaling(ranks=2, threads=1, efficiency=Quartiles(q25=0.5, median=0.8, q75=1.0))
    bench = bench_of(spec, rate("train", 32, 200.0, 0.25), *RATES[1:], scaling=[scaling])
    assert planned_seconds(spec, bench)["train"] == Band(*map(pytest.approx, (128, 200, 32_000 / 150 / 0.5)))
    bench = bench_of(spec, RATES[0], rate("sample", 40, 1000.0, 0.2))
    assert planned_seconds(spec, bench)["sample"] == Band(*map(pytest.approx, (20, 24, 30)))


def test_scaling_holds_for_the_measured_ranks_and_is_assumed_for_others():
    scaling = [Scaling(ranks=8, threads=1, problem="out of memory"),
               Scaling(ranks=2, threads=1, efficiency=Quartiles(q25=0.1, median=0.1, q75=0.1)),
               Scaling(ranks=4, threads=1, efficiency=Quartiles(q25=0.5, median=0.5, q75=0.5))]
    for tasks, seconds, words in ((1, 320, ()), (4, 160, ()), (8, 80, ("scaling measured over 4 ranks, taken to hold for 8",))):
        spec = spec_with(resources=stage_resources(tasks_per_node=tasks))
        bench = bench_of(spec, *(rate("train", 64 // tasks, 200.0), *RATES[1:]), scaling=scaling)
        train = plan_run(spec, bench, FOREVER)["train"]
        assert (train.seconds.median, train.assumed) == (pytest.approx(seconds), words)
    [unmeasured] = plan_run(spec_with(), bench_of(spec_with(), *RATES), FOREVER)["train"].assumed
    assert unmeasured == "scaling was not measured: 2 ranks taken as 2 times as fast as one"


def test_another_network_is_scaled_by_its_operations_and_that_is_said():
    small, wide = spec_with(), spec_with(model={"num_channels": 16})
    factor = run_cost(wide).forward_flops / run_cost(small).forward_flops
    assert factor > 3
    bench = bench_of(small, *RATES)
    for stage, seconds in planned_seconds(small, bench).items():
        assert planned_seconds(wide, bench)[stage].median == pytest.approx(factor * seconds.median)
        assert any("another network: scaled by FLOP" in text for text in plan_run(wide, bench, FOREVER)[stage].assumed)
    other_run = spec_with(train={"iterations": 7, "lr": 0.5}, diffusion={"noise_schedule": "linear"})
    assert network_fingerprint(other_run) == network_fingerprint(small) != network_fingerprint(wide)


def test_the_rate_is_that_of_the_settings_and_of_the_nearest_batch():
    spec = spec_with(train={"precision": "bf16", "gradient_checkpointing": True, "microbatch": 8})
    right = {"precision": "bf16", "gradient_checkpointing": True}
    bench = bench_of(spec, rate("train", 8, 1.0), rate("train", 8, 2.0, precision="bf16"), rate("train", 5, 320.0, **right),
                     rate("train", 16, 3.0, **right), rate("train", 8, 4.0, compiled=True, **right), *RATES[1:])
    train = plan_run(spec, bench, FOREVER)["train"]
    assert train.seconds.median == pytest.approx(100)  # half of 64 images in microbatches, at the rate of 5 at once
    assert train.assumed[0] == "measured with 5 images at once, not 8"
    too_large = rate("train", 8, 1.0, **right).model_copy(update={"per_second": None, "problem": "does not fit"})
    train = plan_run(spec, bench.model_copy(update={"rates": [*bench.rates, too_large]}), FOREVER)["train"]
    assert train.assumed[0] == "measured with 5 images at once, not 8 (does not fit)"


def test_checkpointing_at_some_resolutions_is_a_variant_of_its_own():
    spec = spec_with(train={"gradient_checkpointing": [4, 8]})
    bench = bench_of(spec, *RATES, rate("train", 32, 100.0, gradient_checkpointing=(8, 4)))
    assert planned_seconds(spec, bench)["train"].median == pytest.approx(320)
    with pytest.raises(UserError, match=r"no rate for train in fp32 with gradient_checkpointing: \[8, 4\]"):
        planned_seconds(spec, bench_of(spec, *RATES))


def test_sampling_is_planned_in_its_precision_and_bits_per_dim_in_fp32():
    spec = spec_with(sample={"precision": "bf16"})
    bench = bench_of(spec, *RATES, rate("sample", 40, 2000.0, precision="bf16"))
    assert planned_seconds(spec, bench)["sample"].median == pytest.approx(12)
    assert planned_seconds(spec, bench)["evaluate"].median == pytest.approx(24)


def test_compiled_steps_count_where_they_were_measured():
    spec = spec_with(train={"compile": "default"}, sample={"compile": "default"})
    bench = bench_of(spec, *RATES, rate("train", 32, 400.0, compiled=True))
    planned = plan_run(spec, bench, FOREVER)
    assert planned["train"].seconds.median == pytest.approx(80)
    assert planned["sample"].seconds.median == pytest.approx(24)  # as uncompiled
    assert any("measured without torch.compile" in text for text in planned["sample"].assumed)
    assert not any("torch.compile" in text for text in (*planned["train"].assumed, *planned["evaluate"].assumed))


def test_steps_that_need_not_repeat_count_where_they_were_measured():
    spec = spec_with(train={"deterministic": False})
    assert planned_seconds(spec, bench_of(spec, *RATES)) == planned_seconds(spec_with(), bench_of(spec, *RATES))  # on a CPU
    gpu = spec_with(train={"deterministic": False}, resources=stage_resources(gpus_per_node=2))
    unmeasured = plan_run(gpu, bench_of(gpu, *RATES, device="A GPU"), FOREVER)["train"]
    assert "measured with deterministic kernels, taken as no faster without" in unmeasured.assumed
    fast = rate("train", 32, 400.0).model_copy(update={"deterministic": False})
    planned = plan_run(gpu, bench_of(gpu, *RATES, fast, device="A GPU"), FOREVER)["train"]
    assert "deterministic" not in "".join(planned.assumed)
    assert planned.seconds.median < unmeasured.seconds.median


def test_recorded_steps_count_where_they_were_measured():
    spec = spec_with(sample={"cuda_graph": True})
    assert planned_seconds(spec, bench_of(spec, *RATES))["sample"].median == pytest.approx(24)  # a CPU records nothing
    gpu = spec_with(sample={"cuda_graph": True}, resources=stage_resources(gpus_per_node=2))
    unmeasured = plan_run(gpu, bench_of(gpu, *RATES, device="A GPU"), FOREVER)["sample"]
    assert unmeasured.seconds.median == pytest.approx(24)
    assert "measured without cuda_graph, taken as no faster with it" in unmeasured.assumed
    bench = bench_of(gpu, *RATES, rate("sample", 40, 2000.0, cuda_graph=True), device="A GPU")
    planned = plan_run(gpu, bench, FOREVER)
    assert planned["sample"].seconds.median == pytest.approx(12) and planned["sample"].assumed == ()
    assert planned["evaluate"].seconds.median == pytest.approx(24)  # bits/dim records nothing either


def test_more_threads_than_were_measured_are_an_assumption():
    spec = spec_with(resources=stage_resources(cpus_per_task=4))
    for plan in plan_run(spec, bench_of(spec, *RATES), FOREVER).values():
        assert "measured with 1 thread, the spec has 4; taken as equally fast" in plan.assumed


def test_jobs_and_ranks_follow_from_the_time_of_one_job():
    spec = spec_with()
    bench = bench_of(spec, rate("train", 32, 200.0, 0.2), *RATES[1:])
    planned = plan_run(spec, bench, {"train": 80, "sample": 16, "evaluate": 24})
    assert planned["train"].jobs == (2, 2, 3)  # 133, 160 and 200 s
    assert planned["sample"].jobs == (2, 2, 2)
    assert planned["sample"].ranks_for_one_job == 3  # each one chunk
    assert (planned["evaluate"].jobs, planned["evaluate"].ranks_for_one_job) == ((1, 1, 1), 2)
    tight = plan_run(spec, bench, {"train": 80, "sample": 15.9, "evaluate": 23.9})
    assert tight["sample"].ranks_for_one_job is None and tight["sample"].jobs == (2, 2, 2)  # a chunk goes on half-way
    assert tight["evaluate"].jobs is None and tight["evaluate"].ranks_for_one_job == 3  # a chain does not


def test_all_points_and_chains_are_planned(make_run):
    run = make_run("evaluate.respacings=['10','20']", "sample.at=[4,last]", "sample.num_samples=8")
    bench = bench_of(run.spec, rate("train", 12, 1.0), rate("sample", 4, 1.0))
    # Points: the end and step 4 with 40 steps, then 10 and 20 steps by two samplers each; two chunks of 4.
    assert planned_seconds(run.spec, bench)["sample"].median == 8 * (40 + 40 + 2 * 10 + 2 * 20)
    assert [number.passes for number in kind_of(run.spec).numbers(run.spec)] == [40, 40, 10, 20]
    assert planned_seconds(run.spec, bench)["evaluate"].median == 6 * (40 + 40 + 10 + 20)
    by_ddim = make_run("sample.sampler=ddim", "sample.timestep_respacing=ddim10", folder="ddim").spec
    assert [number.passes for number in kind_of(by_ddim).numbers(by_ddim)] == [40]


def test_without_bits_per_dim_evaluation_takes_no_time():
    spec = spec_with(evaluate={"nll_examples": 0})
    assert planned_seconds(spec, bench_of(spec, *RATES))["evaluate"] == Band(0, 0, 0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 40))
def test_a_queue_is_never_shorter_than_its_share_nor_longer_than_greed_allows(work, ranks):
    longest = longest_queue(work, ranks)
    assert max(max(work), sum(work) / ranks) <= longest <= sum(work) / ranks + max(work)  # Graham 1966
    assert longest_queue(work, ranks + 1) <= longest
