"""`iddpm bench`: a whole measurement of a tiny network, what it finds and prints, what it refuses or reports as a problem."""

from pathlib import Path

import pytest
import torch

from diffusion.networks.unet import Block
from jobs.cost.bench import measure as measuring
from jobs.cost.bench import peaks as bench_peaks
from jobs.cost.bench import ranks as bench_ranks
from jobs.cost.bench import work as bench_work
from jobs.cost.bench.file import KINDS, Asked, Bench, Network, Quartiles, Rate, Scaling, Variant, read_bench, summary
from jobs.cost.bench.measure import Candidate, alone, measure, measure_sampling, measure_training, recorded_variants, warm_up
from jobs.cost.bench.ranks import measure_scaling, started
from jobs.cost.bench.split import counted_flops, kind_of, time_split
from jobs.cost.bench.timing import Effort, rates_in_turns, seconds_of
from jobs.cost.bench.work import random_images, sampling_work, training_work
from jobs.cost.count import run_cost
from jobs.cost.plan import planned_seconds
from jobs.errors import UserError
from jobs.kinds.diffusion import build_network
from jobs.parallel.group import process_group
from jobs.sampling.chain import reverse_chain
from jobs.spec.file import load
from jobs.training.loop import new_learner, train_step
from slurm.cli.bench import bench_machine, print_bench, recommendation

CPU = torch.device("cpu")
SHORT = Effort(rounds=3, slice_s=0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch, make_run):
    """With the small spec in small.yaml."""
    make_run()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "QUICK", SHORT)
    monkeypatch.setattr(bench_peaks, "SQUARES", {"cpu": (32, 64)})
    monkeypatch.setattr(bench_peaks, "CONVOLUTIONS", {"cpu": ((1, 16, 8), (2, 16, 16))})
    return tmp_path


@pytest.fixture
def spec(folder):
    return alone(load(Path("small.yaml")).runs[0].spec)


@pytest.fixture
def group(tmp_path):
    with process_group(tmp_path / "meeting", threads=1) as found:
        yield found


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
    assert set(bench.split) == set(KINDS) and sum(bench.split.values()) == pytest.approx(1)
    assert bench.split["convolution"] > 0.02

    assert "training" in out and "image-steps/s" in out and "counted memory" in out
    assert "here.json: for `iddpm plan`" in out
    assert f"For this machine: {recommendation(bench).split(': ')[1]}" in out
    assert all(seconds.low > 0 for seconds in planned_seconds(spec, bench).values())


def test_every_combination_is_measured_where_there_is_time(spec, group):
    rates, _, _ = measure_training(spec, group, ["bf16"], SHORT, False, False)
    assert {(rate.precision, rate.gradient_checkpointing, rate.batch_size) for rate in rates} == {
        ("bf16", checkpointing, batch) for checkpointing in (False, True) for batch in (6, 12, 24)}
    rates, _ = measure_sampling(spec, CPU, ["fp32"], SHORT, False, False)
    assert [rate.batch_size for rate in rates] == [4, 2, 1, 8]


@pytest.mark.slow
def test_checkpointing_at_some_resolutions_is_measured_besides(spec, group):
    listed = spec.model_copy(update={"train": spec.train.model_copy(update={"gradient_checkpointing": [8]})})
    rates, _, _ = measure_training(listed, group, ["fp32"], SHORT, True, False)
    assert [(rate.batch_size, rate.gradient_checkpointing) for rate in rates][:3] == [(12, False), (12, True), (12, (8,))]
    learner = new_learner(spec, group)
    training_work(learner, Variant(work="train", precision="fp32", gradient_checkpointing=(8,), batch_size=2),
                  random_images(spec, 8))()
    blocks = [module for module in learner.network.modules() if isinstance(module, Block)]
    assert {(block.resolution, block.gradient_checkpointing) for block in blocks} == {(8, True), (4, False)}


def test_sampling_is_timed_in_the_precision_of_the_variant(spec, monkeypatch):
    seen = []

    def watched(spec, *rest):
        seen.append((spec.sample.precision, spec.sample.batch_size, torch.is_autocast_enabled("cpu")))
        return reverse_chain(spec, *rest)
    monkeypatch.setattr(bench_work, "reverse_chain", watched)
    measure_sampling(spec, CPU, ["fp32", "bf16"], SHORT, True, False)
    assert {*seen} == {(precision, size, False) for precision in ("fp32", "bf16") for size in (4, 2, 1)}


def test_what_is_timed_is_the_training_step_of_the_variant(spec, group, monkeypatch):
    seen = []

    def watched(learner, batch, step):
        train = learner.spec.train
        checkpointing = {module.gradient_checkpointing for module in learner.network.modules() if isinstance(module, Block)}
        seen.append((train.precision, len(batch.t), *checkpointing, step, learner.scaler.is_enabled()))
        return train_step(learner, batch, step)
    monkeypatch.setattr(bench_work, "train_step", watched)
    learner, data = new_learner(spec, group), random_images(spec, 64)
    before = [parameter.clone() for parameter in learner.parameters]
    works = [training_work(learner, Variant(work="train", precision=precision, gradient_checkpointing=checkpointing,
                                            batch_size=batch_size), data)
             for precision, checkpointing, batch_size in (("fp32", False, 3), ("bf16", True, 5), ("fp16", False, 4))]
    for work in (*works, works[1]):
        work()
    assert seen == [("fp32", 3, False, 0, False), ("bf16", 5, True, 0, False), ("fp16", 4, False, 0, True),
                    ("bf16", 5, True, 1, False)]
    assert any(not torch.equal(old, new) for old, new in zip(before, learner.parameters))


def test_what_is_timed_is_a_reverse_step_of_the_variant(spec):
    network, seen = build_network(spec).eval(), []
    network.middle_block.register_forward_hook(lambda module, given, out: seen.append((len(out), out.dtype, out.requires_grad)))
    for precision, batch_size in (("fp32", 3), ("bf16", 5)):
        work = sampling_work(spec, network, Variant(work="sample", precision=precision, batch_size=batch_size), CPU)
        for _ in range(spec.diffusion.diffusion_steps + 1):  # the chain begins anew
            work()
    assert seen == [(3, torch.float32, False)] * 41 + [(5, torch.bfloat16, False)] * 41


def test_seconds_are_of_all_steps():
    calls = []
    assert seconds_of(lambda: calls.append(0), 7, CPU) > 0 and len(calls) == 7


def test_variants_are_timed_in_turns():
    turns = []
    works = {name: lambda name=name: turns.append(name) for name in "ab"}
    rates = rates_in_turns(works, SHORT, CPU)
    assert turns == ["a", "b"] * 4  # once each to see how long it takes, then three rounds
    assert [len(found) for found in rates.values()] == [3, 3] and min(map(min, rates.values())) > 0


def test_rates_are_of_images(spec):
    candidates = [Candidate(Variant(work="sample", precision="fp32", batch_size=batch), lambda: None) for batch in (1, 100)]
    calls = {"one": 2.0, "hundred": 3.0}

    def told(works, effort, device):
        return {variant: [rate, rate, 2 * rate] for variant, rate in zip(works, calls.values())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "rates_in_turns", told)
        one, hundred = measure(candidates, SHORT, CPU)
    assert (one.per_second.median, hundred.per_second.median, hundred.per_second.q75) == (2, 300, 450)


@pytest.mark.slow
def test_what_does_not_fit_is_a_row_and_not_tried(spec, group, monkeypatch):
    needs = {batch: run_cost(bench_work.with_variant(spec, Variant(work="train", precision="fp32", batch_size=batch))
                             ).training_memory.total for batch in (6, 12, 24)}
    monkeypatch.setattr(measuring, "free_memory", lambda: (needs[12] + needs[24]) // 2)
    rates, split, _ = measure_training(spec, group, ["fp32"], SHORT, False, False)
    [failed] = [rate for rate in rates if rate.problem]
    assert (failed.batch_size, failed.gradient_checkpointing, failed.per_second) == (24, False, None)
    assert failed.problem.startswith("needs about ") and failed.memory_bytes == needs[24] and split
    monkeypatch.setattr(measuring, "free_memory", lambda: 0)
    rates, split, flops = measure_training(spec, group, ["fp32"], SHORT, False, False)
    assert all(rate.problem for rate in rates) and split == {} and flops > 0


def test_a_full_gpu_is_a_row_and_training_goes_on(spec, group):
    learner, data, recovered = new_learner(spec, group), random_images(spec, 64), []

    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")
    variant = Variant(work="train", precision="fp32", batch_size=3)
    problem, memory = warm_up(Candidate(variant, out_of_memory, 1, lambda: recovered.append(True)), CPU)
    assert (problem, memory, recovered) == ("does not fit into the GPU's memory", None, [True])
    assert warm_up(Candidate(variant, training_work(learner, variant, data), 1), CPU) == ("", 1)
    with pytest.raises(ZeroDivisionError):  # a fault of ours is no property of the machine
        warm_up(Candidate(variant, lambda: 1 / 0), CPU)


@pytest.mark.slow
def test_a_compiler_that_fails_is_a_row(spec, group, monkeypatch):
    def at_once(self):
        raise ImportError("no inductor")

    def at_the_first_step(self):
        def fail(*arguments, **labels):
            raise RuntimeError("no C++ compiler\nand more")
        self._compiled_call_impl = fail
    monkeypatch.setattr(torch.nn.Module, "compile", at_the_first_step)
    training, _, _ = measure_training(spec, group, ["fp32"], SHORT, True, True)
    monkeypatch.setattr(torch.nn.Module, "compile", at_once)
    sampling, _ = measure_sampling(spec, CPU, ["fp32"], SHORT, True, True)
    for rates, problem in ((training, "RuntimeError: no C++ compiler"), (sampling, "ImportError: no inductor")):
        [compiled] = [rate for rate in rates if rate.compiled]
        assert compiled.problem == f"torch.compile: {problem}" and compiled.per_second is None
        assert all(rate.per_second for rate in rates if not rate.compiled)


def test_what_compiles_is_timed_beside_the_rest(spec, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: calls.append(self))
    rates, _ = measure_sampling(spec, CPU, ["fp32"], SHORT, True, True)
    assert [rate.compiled for rate in rates] == [False, False, False, True] and rates[-1].per_second and len(calls) == 1


def test_operations_and_times_are_sorted_by_kind():
    x, weight, square = torch.randn(8, 16, 32, 32), torch.randn(16, 16, 3, 3), torch.randn(300, 300)

    def work():
        torch.nn.functional.conv2d(x, weight, padding=1)
        square @ square
    assert counted_flops(work) == 2 * 8 * 32 ** 2 * 16 ** 2 * 9 + 2 * 300 ** 3
    split = time_split(work, 3, CPU)
    assert split["convolution"] > 0.05 and split["GEMM"] > 0.05 and split["attention"] == 0
    assert [kind_of(name) for name in (
        "aten::mkldnn_convolution", "aten::convolution_backward", "aten::addmm",
        "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::native_group_norm", "aten::silu", "aten::_fused_adamw_",
        "aten::_foreach_lerp_", "Optimizer.step#AdamW.step", "autograd::engine::evaluate_function: AddmmBackward0")] == [
        "convolution", "convolution", "GEMM", "attention", "normalisation and elementwise", "normalisation and elementwise",
        "optimiser and EMA", "optimiser and EMA", "optimiser and EMA", "other"]


def test_a_peak_is_of_the_best_size(folder, monkeypatch):
    rates = iter([10.0, 2.0, 5.0, 1.0])

    def told(works, effort, device):
        return {name: [0.0, next(rates), 1e9] for name in works}
    monkeypatch.setattr(bench_peaks, "rates_in_turns", told)
    peaks = bench_peaks.measure_peaks(CPU, ["bf16"], SHORT)
    assert peaks == {"gemm": {"bf16": 2.0 * 2 * 64 ** 3}, "convolution": {"bf16": 1.0 * 2 * 2 * 16 ** 2 * 9 * 16 ** 2}}


@pytest.mark.slow
def test_two_ranks_are_measured_against_one(spec):
    [scaling] = measure_scaling(spec, SHORT)
    assert (scaling.ranks, scaling.threads, scaling.problem) == (2, 1, "")
    assert 0 < scaling.efficiency.q25 <= scaling.efficiency.median <= scaling.efficiency.q75


@pytest.mark.slow
def test_a_rank_that_dies_is_told(spec):
    with started(spec, 2, 1) as ranks:
        ranks.processes[1].kill()
        with pytest.raises(RuntimeError, match="a rank was killed"):
            ranks.seconds_of(1)  # while the first waits for the second
        assert ranks.processes[0].is_alive()
    assert not ranks.processes[0].is_alive()
    broken = spec.model_copy(update={"model": spec.model.model_copy(update={"num_heads": 3})})
    with started(broken, 1, 1) as ranks, pytest.raises(RuntimeError, match="^ValueError: 3 heads do not divide 16 channels$"):
        ranks.seconds_of(1)


def test_scaling_that_fails_is_a_row(spec, monkeypatch):
    def fail(self, steps):
        raise RuntimeError("a rank was killed")
    monkeypatch.setattr(bench_ranks.Ranks, "seconds_of", fail)
    [scaling] = measure_scaling(spec, SHORT)
    assert (scaling.ranks, scaling.efficiency, scaling.problem) == (2, None, "a rank was killed")


# What is printed

def rates_of(*rows):
    """(work, precision, checkpointing, batch, q25, median, q75) each."""
    return [Rate(work=work, precision=precision, gradient_checkpointing=checkpointing, batch_size=batch, threads=1,
                 share_of_peak=0.5, per_second=Quartiles(q25=q25, median=median, q75=q75))
            for work, precision, checkpointing, batch, q25, median, q75 in rows]


def told(*rates, **more) -> Bench:
    network = Network(fingerprint="x", parameters=7, forward_flops=1, training_flops=3, forward_flops_by_torch=1,
                      training_flops_by_torch=3)
    return Bench(**({"made": "now", "host": "h", "processor": "P", "device": "cpu", "gpus": 0, "cores": 2, "torch": "2",
                     "quick": False, "spec": "s",
                     "asked": Asked(precision="fp32", gradient_checkpointing=(16, 8), train_batch_size=8, sample_batch_size=8),
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
    assert f"For this machine: {settings} (" in recommendation(told(*rates_of(*rows)))


@pytest.mark.parametrize("graph, pays", [((111, 120, 130), True), ((109, 120, 130), False)])
def test_it_recommends_a_cuda_graph_where_that_is_clearly_faster(graph, pays, capsys):
    plain, compiled, recorded = rates_of(FP32, ("sample", "fp32", False, 8, 90, 100, 110), ("sample", "fp32", False, 8, 1, 2, 3),
                                         ("sample", "fp32", False, 8, *graph))[1:]
    compiled = compiled.model_copy(update={"compiled": True})
    bench = told(*rates_of(FP32), plain, compiled, recorded.model_copy(update={"cuda_graph": True}))
    assert ("sample.batch_size=8 sample.cuda_graph=true (" in recommendation(bench)) == pays
    assert ("sample.batch_size=8 (" in recommendation(bench)) == (not pays)
    print_bench(bench)
    assert "fp32 CUDA graph 8 120" in " ".join(capsys.readouterr().out.split())


def test_recorded_steps_are_measured_on_a_gpu_alone(spec, monkeypatch):
    own = Variant(work="sample", precision="bf16", batch_size=8)
    assert recorded_variants(own, CPU) == []
    [recorded] = recorded_variants(own, torch.device("cuda"))
    assert recorded == Variant(work="sample", precision="bf16", batch_size=8, cuda_graph=True)
    seen = []

    def chain(spec, *arguments):
        seen.append(spec.sample.cuda_graph)
        yield
    monkeypatch.setattr(bench_work, "reverse_chain", chain)
    for variant in (own, recorded):
        sampling_work(spec, None, variant, CPU)()
    assert seen == [False, True]

    def fail():
        raise RuntimeError("operation not permitted when stream is capturing\nand more")
    problem = "CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    assert warm_up(Candidate(recorded, fail), CPU) == (problem, None)


def test_it_says_so_where_nothing_fits():
    smaller = told(*rates_of(("train", "fp32", False, 4, 1, 2, 3)))
    assert "No training step with 8 images at once works here" in recommendation(smaller)


def test_the_table_has_problems_and_scaling(capsys):
    failed = Rate(work="train", precision="bf16", batch_size=8, threads=1, compiled=True, problem="torch.compile: no compiler")
    scaling = [Scaling(ranks=2, threads=1, efficiency=Quartiles(q25=0.8, median=0.9, q75=0.95)),
               Scaling(ranks=4, threads=1, problem="a rank was killed")]
    print_bench(told(*rates_of(FP32), failed, scaling=scaling))
    out = capsys.readouterr().out
    assert "fp32 8 100 90–110 50%" in [" ".join(line.split()) for line in out.splitlines()]
    assert "bf16 compiled 8 – torch.compile: no compiler" in [" ".join(line.split()) for line in out.splitlines()]
    assert "training over 2 ranks: 90% of 2 times one rank (80%–95%)" in out
    assert "training over 4 ranks: a rank was killed" in out


def test_summaries_are_quartiles():
    assert summary([5, 1, 2, 3, 4]) == Quartiles(q25=2, median=3, q75=4)


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
