"""`iddpm plan`: what it sums up, prints and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_benches import RATES, SPEC, bench_of, planned_seconds, spec_with
from paths import ROOT

from jobs.cost.bench.file import Rate
from jobs.cost.count import run_cost, stored_bytes
from jobs.errors import UserError
from jobs.quantities import size
from jobs.spec.reading.file import load
from jobs.storage.files import write_json
from slurm.cli.plan import print_plan


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


def test_a_training_that_runs_share_counts_once(folder, capsys):
    Path("sweep.yaml").write_text(json.dumps({"extends": "spec.yaml", "sweep": {"grid": {
        "train.seed": [0, 1], "sample.sampler": ["ancestral", "ddim"]}}}))
    found = planned(capsys, spec="sweep.yaml")
    assert [(stage["stage"], stage["runs"]) for stage in found["stages"]] == [("train", 2), ("sample", 4), ("evaluate", 4)]
    assert (found["runs"], found["sharing"]) == (4, 2)
    assert found["cpu_hours"]["median"] == pytest.approx(2 * (2 * 160 + 4 * 48) / 3600)
    first, second = load(Path("sweep.yaml")).runs[:2]
    assert found["stored_bytes"] == 2 * (stored_bytes(first.spec, [second.spec]) + stored_bytes(second.spec, None))
    assert "2 runs differ from another in nothing that training depends on" in planned(capsys, spec="sweep.yaml", as_json=False)


def test_snapshots_of_averages_are_named(folder, capsys):
    averages = ("train.ema_sigma_rel=[0.05, 0.1]", "train.ema_snapshots=8")
    found, plain = planned(capsys, *averages), planned(capsys)
    expected = run_cost(load(Path("spec.yaml"), averages).runs[0].spec).snapshots_bytes
    assert (found["snapshots_bytes"], plain["snapshots_bytes"]) == (expected, 0) and expected > 0
    assert found["stored_bytes"] - plain["stored_bytes"] > expected  # checkpoints have the averages, too
    said = " ".join(planned(capsys, *averages, as_json=False).split())
    assert f"on disk ({size(expected)} of them snapshots of averages)" in said
    assert "snapshots" not in planned(capsys, as_json=False)


def test_each_sampling_has_its_evaluations_and_its_time(folder, capsys):
    listed = "[{sampler: ddim, timestep_respacing: [40, 10]}, {sampler: heun, timestep_respacing: logsnr10}]"
    settings = (f"evaluate.samplings={listed}",)
    found = planned(capsys, *settings)["samplings"]
    # The full chain of 400 steps takes the two ranks 24 s: three chunks, of which one rank takes two.
    assert [(each["evaluations"], round(each["seconds"]["median"], 6)) for each in found] == [
        (400, 24), (40, 2.4), (10, 0.6), (19, 1.14)]
    rows = [line for line in planned(capsys, *settings, as_json=False).splitlines() if "ddim" in line or "main settings" in line]
    assert [row.split()[:-4] for row in rows] == [["main", "settings", "400"], ["ddim,", "40", "steps", "40"],
                                                  ["ddim,", "10", "steps", "10"]]
    assert "samplings:" not in planned(capsys, as_json=False)


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
    assert "report: the last job, one process, at most 0:" in out
    assert "evaluate does not end" in out and "no end" in out and "requeue" not in out.splitlines()[-1]


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


def test_without_a_bench_it_says_how_to_make_one(folder, capsys):
    Path("bench-here.json").unlink()
    with pytest.raises(UserError, match=r"no bench-\*.json in .*: `iddpm bench SPEC`, on the machine"):
        planned(capsys)


def test_a_cluster_profile_names_its_bench(folder, capsys):
    Path("configs/clusters").mkdir(parents=True)
    Path("configs/clusters/mine.yaml").write_text("bench: node.json\n")
    Path("bench-here.json").rename("node.json")
    assert planned(capsys, cluster="mine")["bench"] == "node.json"


def test_planning_loads_no_torch(folder):
    code = ("import sys\nfrom pathlib import Path\nfrom slurm.cli.plan import print_plan\nimport slurm.cli.bench\n"
            "print_plan(Path('spec.yaml'), (), None, None, False)\nassert 'torch' not in sys.modules")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
