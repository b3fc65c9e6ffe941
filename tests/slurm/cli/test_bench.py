"""`iddpm bench`: what it prints, recommends and refuses."""

from pathlib import Path

import pytest

from jobs.cost.bench import measure as measuring
from jobs.cost.bench.file import Bench, Network, Quartiles, Rate, Scaling, SpecSettings
from jobs.errors import UserError
from slurm.cli.bench import bench_machine, print_bench, recommendation


@pytest.fixture
def folder(tmp_path, monkeypatch, make_run):
    """With the small spec in small.yaml."""
    make_run()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rates_of(*rows):
    """(work, precision, checkpointing, batch, q25, median, q75) each."""
    return [Rate(work=work, precision=precision, gradient_checkpointing=checkpointing, batch_size=batch, threads=1,
                 share_of_peak=0.5, per_second=Quartiles(q25=q25, median=median, q75=q75))
            for work, precision, checkpointing, batch, q25, median, q75 in rows]


def bench_with(*rates, **more) -> Bench:
    network = Network(fingerprint="x", parameters=7, forward_flops=1, training_flops=3, forward_flops_by_torch=1,
                      training_flops_by_torch=3)
    asked = SpecSettings(precision="fp32", gradient_checkpointing=(16, 8), train_batch_size=8, sample_batch_size=8)
    return Bench(**({"made": "now", "host": "h", "processor": "P", "device": "cpu", "gpus": 0, "cores": 2, "torch": "2",
                     "quick": False, "spec": "s", "asked": asked,
                     "network": network, "peaks": {"gemm": {"fp32": 1e12}}, "rates": list(rates), "split": {"other": 1.0},
                     "scaling": []} | more))


FP32 = ("train", "fp32", False, 8, 90, 100, 110)


@pytest.mark.parametrize("rows, settings", [
    ([FP32, ("train", "bf16", False, 8, 111, 120, 130)], "train.precision=bf16 train.gradient_checkpointing=false"),
    ([FP32, ("train", "bf16", False, 8, 109, 120, 130)], "train.precision=fp32 train.gradient_checkpointing=false"),
    ([FP32, ("train", "fp32", True, 8, 190, 200, 210)], "train.precision=fp32 train.gradient_checkpointing=false"),
    ([FP32, ("train", "bf16", False, 16, 190, 200, 210)], "train.precision=fp32 train.gradient_checkpointing=false"),
    ([("train", "fp32", True, 8, 1, 2, 3)], "train.precision=fp32 train.gradient_checkpointing=true"),  # nothing else fits
    ([("train", "fp32", True, 8, 1, 2, 3), ("train", "fp32", (16, 8), 8, 1, 2, 3)],
     "train.precision=fp32 train.gradient_checkpointing=[16,8]"),
    ([FP32, ("sample", "fp32", False, 8, 9, 100, 110), ("sample", "fp32", False, 4, 9, 95, 110),
      ("sample", "fp32", False, 2, 9, 94, 110), ("sample", "bf16", False, 1, 9, 200, 210)],
     "train.precision=fp32 train.gradient_checkpointing=false sample.batch_size=4"),
])
def test_it_recommends_what_pays(rows, settings):
    assert f"For this machine: {settings} (" in recommendation(bench_with(*rates_of(*rows)))


@pytest.mark.parametrize("graph, pays", [((111, 120, 130), True), ((109, 120, 130), False)])
def test_it_recommends_a_cuda_graph_where_that_is_clearly_faster(graph, pays, capsys):
    plain, compiled, recorded = rates_of(FP32, ("sample", "fp32", False, 8, 90, 100, 110), ("sample", "fp32", False, 8, 1, 2, 3),
                                         ("sample", "fp32", False, 8, *graph))[1:]
    compiled = compiled.model_copy(update={"compiled": True})
    bench = bench_with(*rates_of(FP32), plain, compiled, recorded.model_copy(update={"cuda_graph": True}))
    assert ("sample.batch_size=8 sample.cuda_graph=true (" in recommendation(bench)) == pays
    assert ("sample.batch_size=8 (" in recommendation(bench)) == (not pays)
    print_bench(bench)
    assert "fp32 CUDA graph 8 120" in " ".join(capsys.readouterr().out.split())


def test_it_says_so_where_nothing_fits():
    smaller = bench_with(*rates_of(("train", "fp32", False, 4, 1, 2, 3)))
    assert "No training step with 8 images at once works here" in recommendation(smaller)


def test_the_table_has_problems_and_scaling(capsys):
    failed = Rate(work="train", precision="bf16", batch_size=8, threads=1, compiled=True, problem="torch.compile: no compiler")
    scaling = [Scaling(ranks=2, threads=1, efficiency=Quartiles(q25=0.8, median=0.9, q75=0.95)),
               Scaling(ranks=4, threads=1, problem="a rank was killed")]
    print_bench(bench_with(*rates_of(FP32), failed, scaling=scaling))
    out = capsys.readouterr().out
    assert "fp32 8 100 90–110 50%" in [" ".join(line.split()) for line in out.splitlines()]
    assert "bf16 compiled 8 – torch.compile: no compiler" in [" ".join(line.split()) for line in out.splitlines()]
    assert "training over 2 ranks: 90% of 2 times one rank (80%–95%)" in out
    assert "training over 4 ranks: a rank was killed" in out


def test_it_refuses_before_it_measures(folder, monkeypatch):
    monkeypatch.setattr(measuring, "bench", None)
    with pytest.raises(UserError, match="Name a spec: `iddpm bench SPEC`.*no configs/quickstart.yaml"):
        bench_machine(None, (), True, False, None)
    with pytest.raises(UserError, match="Name a spec"):
        bench_machine(Path("train.lr=1"), (), True, False, None)  # a setting is no spec
    with pytest.raises(UserError, match="small.yaml|train.lr"):
        bench_machine(Path("small.yaml"), ("train.lr=fast",), True, False, None)
    with pytest.raises(UserError, match="--output nowhere/x.json: no such folder"):
        bench_machine(Path("small.yaml"), (), True, False, Path("nowhere/x.json"))
    with pytest.raises(UserError, match="a folder"):
        bench_machine(Path("small.yaml"), (), True, False, folder)
