"""`iddpm plan`: its arithmetic against cases worked out by hand, what it refuses, what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from jobs.cost.bench.file import Asked, Bench, Network, Quartiles, Rate, Scaling, bench_to_plan_by, fingerprint, read_bench
from jobs.cost.count import run_cost, stored_bytes
from jobs.cost.plan import Band, longest_queue, plan_run, planned_seconds
from jobs.cost.study_plan import plan_ahead, plan_study, span
from jobs.errors import UserError
from jobs.kinds.diffusion.kind import chain_length
from jobs.kinds.diffusion.sections import DiffusionSpec, DiffusionSpecAsWritten, resolve
from jobs.spec.file import load
from jobs.spec.samplings import likelihoods
from jobs.spec.sections import STAGES
from jobs.storage.files import read_json, write_json
from slurm.cli.plan import print_plan

FOREVER = dict.fromkeys(STAGES, 1e9)
SPEC = {
    "name": "planned", "data": {"path": "digits", "image_size": 8, "channels": 1},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4], "num_heads": 2},
    "diffusion": {"diffusion_steps": 400},
    "train": {"iterations": 1000, "batch_size": 64, "ema_rate": [0.9]},
    "sample": {"num_samples": 100, "batch_size": 40, "ema_rate": 0.9},
    "evaluate": {"nll_data": "digits-test", "nll_examples": 50, "batch_size": 20},
    "resources": {stage: {"tasks_per_node": 2, "cpus_per_task": 1, "time": "1:00:00"} for stage in STAGES}}


def spec_with(**sections) -> DiffusionSpec:
    return resolve(DiffusionSpecAsWritten.model_validate(SPEC | {name: SPEC[name] | changes for name, changes in sections.items()}))


def stage_resources(**changes) -> dict:
    return {stage: SPEC["resources"][stage] | changes for stage in STAGES}


def rate(work, batch_size, median, spread=0.0, **more) -> Rate:
    quartiles = Quartiles(q25=median * (1 - spread), median=median, q75=median * (1 + spread))
    return Rate(**({"work": work, "precision": "fp32", "batch_size": batch_size, "threads": 1, "per_second": quartiles} | more))


def bench_of(spec: DiffusionSpecAsWritten, *rates: Rate, **more) -> Bench:
    flops = run_cost(spec).forward_flops
    network = Network(fingerprint=fingerprint(spec), parameters=1, forward_flops=flops, training_flops=3 * flops,
                      forward_flops_by_torch=flops, training_flops_by_torch=3 * flops)
    asked = Asked(precision="fp32", gradient_checkpointing=False, train_batch_size=32, sample_batch_size=40)
    return Bench(**({"made": "2026-01-02T03:04:05+0000", "host": "here", "processor": "A Processor", "device": "cpu", "gpus": 0,
                     "cores": 2, "torch": "2.6.0", "quick": True, "spec": "spec.yaml", "asked": asked, "network": network,
                     "peaks": {"gemm": {"fp32": 1e11}}, "rates": list(rates), "split": {}, "scaling": []} | more))


RATES = (rate("train", 32, 200.0), rate("sample", 40, 1000.0), rate("sample", 20, 500.0))


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
    assert fingerprint(other_run) == fingerprint(small) != fingerprint(wide)


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
    assert [chain_length(run.spec, chain) for _, chain in likelihoods(run.spec)] == [40, 40, 10, 20]
    assert planned_seconds(run.spec, bench)["evaluate"].median == 6 * (40 + 40 + 10 + 20)
    by_ddim = make_run("sample.sampler=ddim", "sample.timestep_respacing=ddim10", folder="ddim").spec
    assert [chain_length(by_ddim, chain) for _, chain in likelihoods(by_ddim)] == [40]


def test_without_bits_per_dim_evaluation_takes_no_time():
    spec = spec_with(evaluate={"nll_examples": 0})
    assert planned_seconds(spec, bench_of(spec, *RATES))["evaluate"] == Band(0, 0, 0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 40))
def test_a_queue_is_never_shorter_than_its_share_nor_longer_than_greed_allows(work, ranks):
    longest = longest_queue(work, ranks)
    assert max(max(work), sum(work) / ranks) <= longest <= sum(work) / ranks + max(work)  # Graham 1966
    assert longest_queue(work, ranks + 1) <= longest


# The command

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(json.dumps(SPEC))
    write_json(Path("bench-here.json"), bench_of(spec_with(), *RATES).model_dump(mode="json"))
    return tmp_path


def planned(capsys, *overrides, as_json=True, spec="spec.yaml", bench=None, cluster=None):
    print_plan(Path(spec), overrides, bench, cluster, as_json)
    out = capsys.readouterr().out
    return json.loads(out) if as_json else out


def test_a_sweep_is_summed_by_stage(folder, capsys):
    Path("sweep.yaml").write_text(json.dumps({"extends": "spec.yaml", "sweep": {"grid": {
        "train.iterations": [1000, 2000], "train.seed": [0, 1, 2]}}}))
    found = planned(capsys, spec="sweep.yaml")
    rows = [(stage["stage"], stage["runs"], round(stage["seconds"]["median"], 6)) for stage in found["stages"]]
    assert rows == [("train", 3, 320), ("train", 3, 160), ("sample", 6, 24), ("evaluate", 6, 24)]
    # Two processes of one thread; three runs of 320 s, three of 160 s, six of 48 s.
    assert found["cpu_hours"]["median"] == pytest.approx(2 * (3 * 320 + 3 * 160 + 6 * 48) / 3600)
    assert found["gpu_hours"]["median"] == 0
    assert found["stored_bytes"] == sum(stored_bytes(run.spec) for run in load(Path("sweep.yaml")).runs)
    assert (found["runs"], found["requeues"], found["bench"]) == (6, 0, "bench-here.json")


def test_gpu_hours_are_of_all_gpus_of_all_nodes():
    spec = spec_with(resources=stage_resources(gpus_per_node=2, nodes=4, tasks_per_node=None))
    bench = bench_of(spec, rate("train", 8, 200.0), *RATES[1:], device="A GPU", gpus=1)
    study = type("Study", (), {"source": "spec.yaml", "runs": [type("Run", (), {"name": "a", "spec": spec})]})
    found = plan_study(study, bench, 120)
    # 40 s of training on eight ranks; one chunk of 40 x 400 steps at most; one batch of 20 at 500 a second.
    assert found.gpu_hours.median == pytest.approx(8 * (40 + 16 + 16) / 3600) and found.cpu_hours.median == 0


def test_requeues_count_the_time_that_a_cluster_leaves(folder, capsys):
    Path("configs/clusters").mkdir(parents=True)
    Path("configs/clusters/slow.yaml").write_text("signal_lead_s: 600\n")
    settings = ("train.iterations=20000", "resources.train.time='0:30:00'")  # 3200 s of training
    assert planned(capsys, *settings)["requeues"] == 1  # 1800 - 120 - 60 = 1620 s a job
    assert planned(capsys, *settings, cluster="slow")["requeues"] == 2  # 1140 s
    with pytest.raises(UserError, match=r"spec.yaml: resources.train.time: 0:11:00 leaves no time .*more than 11 minutes"):
        planned(capsys, "resources.train.time='0:11:00'", cluster="slow")


def test_the_table_tells_measured_from_planned_and_assumed(folder, capsys):
    out = planned(capsys, "train.iterations=200000", "model.num_channels=8", as_json=False)
    assert "measured: bench-here.json of 2026-01-02: A Processor, torch 2.6.0, spec.yaml" in out
    lines = [line.split() for line in out.splitlines()]
    assert "train 1 2 8.89 h 8.89–8.89 h 10".split() in lines  # 32,000 s in jobs of 3420 s
    assert "sample 1 2 24 s 24–24 s 1 3 x 16 s 1 rank".split() in lines
    assert "assumed, train: scaling was not measured" in out
    assert "1 run: 17.8 CPU-hours (17.8–17.8), 9 requeues, about " in out


def test_a_stage_that_never_ends_is_said_to(folder, capsys):
    out = planned(capsys, "diffusion.diffusion_steps=100000", as_json=False)
    assert "evaluate does not end" in out and "no end" in out and "requeue" not in out.splitlines()[-1]


def test_the_newest_bench_is_taken(folder):
    write_json(Path("bench-older.json"), {})
    os.utime("bench-older.json", (1, 1))
    assert bench_to_plan_by(None).name == "bench-here.json"


def test_what_does_not_go_together_is_refused(folder, capsys):
    with pytest.raises(UserError, match=r"no rate for train in bf16 with gradient_checkpointing: false; measure this spec"):
        planned(capsys, "train.precision=bf16")
    with pytest.raises(UserError, match=r"resources.sample.gpus_per_node: 1, but the bench of here is of its CPU"):
        planned(capsys, "resources.sample.gpus_per_node=1")
    failed = Rate(work="train", precision="fp32", batch_size=32, threads=1, problem="needs about 9 GiB, 1 GiB are free")
    write_json(Path("failed.json"), bench_of(spec_with(), failed).model_dump(mode="json"))
    with pytest.raises(UserError, match=r"no rate for train in fp32 .*\(needs about 9 GiB, 1 GiB are free\)"):
        planned(capsys, bench=Path("failed.json"))
    on_gpu = bench_of(spec_with(), *RATES, device="A GPU")
    with pytest.raises(UserError, match=r"resources.train.gpus_per_node: 0, but the bench of here is of a GPU, A GPU"):
        planned_seconds(spec_with(), on_gpu)


@pytest.mark.parametrize("content, problem", [
    (None, "not readable"), ("{", "Invalid JSON"), ("{}", "made: Field required"),
    ({"quick": "yes"}, "quick: Input should be a valid boolean"), ({"more": 1}, "more: Extra inputs are not permitted"),
    ({"rates": [rate("train", 1, -2.0).model_dump()]}, "quartiles must be above 0 and in order")])
def test_a_file_that_is_no_bench_is_refused(tmp_path, content, problem):
    file = tmp_path / "bench-x.json"
    if isinstance(content, dict):
        content = json.dumps(bench_of(spec_with(), *RATES).model_dump(mode="json") | content)
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"bench-x.json: .*{problem}"):
        read_bench(file)


def test_without_a_bench_it_says_how_to_make_one(folder, capsys):
    Path("bench-here.json").unlink()
    with pytest.raises(UserError, match=r"no bench-\*.json in .*: `iddpm bench SPEC`, on the machine"):
        planned(capsys)


def test_a_cluster_profile_names_its_bench(folder, capsys):
    Path("configs/clusters").mkdir(parents=True)
    Path("configs/clusters/mine.yaml").write_text("bench: node.json\n")
    Path("bench-here.json").rename("node.json")
    assert planned(capsys, cluster="mine")["bench"] == "node.json"


# What `submit` and `run` leave for `status`

def test_a_study_is_planned_where_there_is_a_bench(folder):
    study = load(Path("spec.yaml"))
    told = plan_ahead(study, folder / "study", bench_to_plan_by(None), 120)
    assert told.startswith("planned by bench-here.json: 1 run: 0.116 CPU-hours")
    # 160 s for 1000 updates; 24 s for three chunks of 400 steps.
    assert read_json(folder / "study" / "plan.json")["seconds_per_step"] == {
        "run": {"train": pytest.approx(0.16), "sample": pytest.approx(0.02)}}


def test_no_bench_or_one_that_does_not_fit_is_no_obstacle(folder):
    gpus = load(Path("spec.yaml"), ("resources.train.gpus_per_node=1",))
    assert plan_ahead(gpus, folder / "study", bench_to_plan_by(None), 120).startswith("not planned: resources.train.gpus_per_node: 1, but the bench")
    Path("bench-here.json").unlink()
    assert plan_ahead(gpus, folder / "study", bench_to_plan_by(None), 120) == ""
    assert not (folder / "study").exists()


def test_planning_loads_no_torch(folder):
    code = ("import sys\nfrom pathlib import Path\nfrom slurm.cli.plan import print_plan\nimport slurm.cli.bench\n"
            "print_plan(Path('spec.yaml'), (), None, None, False)\nassert 'torch' not in sys.modules")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seconds, text", [((0.5,), "0.5 s"), ((59.0, 90.0), "0.983–1.5 min"), ((7200.0,), "2 h"),
                                           ((3.6e6, 7.2e6), "1,000–2,000 h")])
def test_spans_read_well(seconds, text):
    assert span(*seconds) == text
