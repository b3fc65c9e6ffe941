"""Timing in turns, peaks, counted operations and shares of time."""

import torch

from jobs.cost.bench import peaks as bench_peaks
from jobs.cost.bench.file import Quartiles, quartiles_of
from jobs.cost.bench.split import counted_flops, operation_of, time_split
from jobs.cost.bench.timing import rates_in_turns, seconds_of

CPU = torch.device("cpu")


def test_seconds_are_of_all_steps():
    calls = []
    assert seconds_of(lambda: calls.append(0), 7, CPU) > 0 and len(calls) == 7


def test_variants_are_timed_in_turns(short):
    turns = []
    works = {name: lambda name=name: turns.append(name) for name in "ab"}
    rates = rates_in_turns(works, short, CPU)
    assert turns == ["a", "b"] * 4  # once each to see how long it takes, then three rounds
    assert [len(found) for found in rates.values()] == [3, 3] and min(map(min, rates.values())) > 0


def test_operations_and_times_are_sorted_by_kind():
    x, weight, square = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3), torch.randn(900, 900)  # far longer than starting

    def work():
        torch.nn.functional.conv2d(x, weight, padding=1)
        square @ square
    assert counted_flops(work) == 2 * 8 * 32 ** 2 * 64 ** 2 * 9 + 2 * 900 ** 3
    split = time_split(work, 3, CPU)
    assert split["convolution"] > 0.05 and split["GEMM"] > 0.05 and split["attention"] == 0
    assert [operation_of(name) for name in (
        "aten::mkldnn_convolution", "aten::convolution_backward", "aten::addmm",
        "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::native_group_norm", "aten::silu", "aten::_fused_adamw_",
        "aten::_foreach_lerp_", "Optimizer.step#AdamW.step", "autograd::engine::evaluate_function: AddmmBackward0")] == [
        "convolution", "convolution", "GEMM", "attention", "normalisation and elementwise", "normalisation and elementwise",
        "optimiser and EMA", "optimiser and EMA", "optimiser and EMA", "other"]


def test_a_peak_is_of_the_best_size(folder, monkeypatch, short):
    rates = iter([10.0, 2.0, 5.0, 1.0])

    def made_up(works, repeats, device):
        return {name: [0.0, next(rates), 1e9] for name in works}
    monkeypatch.setattr(bench_peaks, "rates_in_turns", made_up)
    peaks = bench_peaks.measure_peaks(CPU, ["bf16"], short)
    assert peaks == {"gemm": {"bf16": 2.0 * 2 * 64 ** 3}, "convolution": {"bf16": 1.0 * 2 * 2 * 16 ** 2 * 9 * 16 ** 2}}


def test_summaries_are_quartiles():
    assert quartiles_of([5, 1, 2, 3, 4]) == Quartiles(q25=2, median=3, q75=4)
