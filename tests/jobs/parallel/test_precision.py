"""TensorFloat-32 is used where a spec asks for it and nowhere else; torch's switches can be read without a GPU."""

import contextlib
import subprocess
import sys

import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers.chain import final
from diffusion.samplers.ddim import ddim
from diffusion.samplers.denoiser import Denoiser
from diffusion.schedules import betas_of
from jobs.cost.bench.peaks import in_precision
from jobs.parallel.group import process_group
from jobs.parallel.precision import autocasting, computing_in

SWITCHES = "torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32"
GPU, CPU = torch.device("cuda"), torch.device("cpu")


def switches():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def torch_as_it_was():
    before = switches()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_torch_alone_rounds_in_convolutions_and_a_process_group_does_not(tmp_path):
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # torch's defaults
    with process_group(tmp_path / "meeting", threads=1):
        assert switches() == (False, False)
        with computing_in("fp32", GPU):
            assert switches() == (False, False)


@pytest.mark.parametrize("precision, device, allowed", [
    ("tf32", GPU, True), ("tf32", CPU, False), ("fp32", GPU, False), ("bf16", GPU, False), ("fp16", GPU, False)])
def test_only_tf32_on_a_gpu_rounds(precision, device, allowed):
    with computing_in("fp32", GPU):
        with computing_in(precision, device):
            assert switches() == (allowed, allowed)
        assert switches() == (False, False)


def test_switches_are_put_back_after_an_error():
    with computing_in("fp32", GPU):
        with pytest.raises(ZeroDivisionError), computing_in("tf32", GPU):
            raise ZeroDivisionError
        assert switches() == (False, False)


def test_containers_that_switch_tf32_on_do_not_change_fp32():
    code = ("import torch; from jobs.parallel.precision import exact_products; exact_products(); "
            f"print({SWITCHES}, torch.get_float32_matmul_precision())")
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], env={"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
                           "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == ["False", "False", "highest"], found.stderr


def test_a_network_in_tf32_keeps_its_numbers_in_float32():
    network = torch.nn.Linear(2, 2)
    assert autocasting(network, "tf32") is network


@pytest.mark.parametrize("stage, precision, gpus", [("train", "tf32", 0), ("sample", "bf16", 2), ("evaluate", "fp32", 1)])
def test_a_stage_has_the_precision_and_the_device_of_its_spec(make_run, monkeypatch, stage, precision, gpus):
    from jobs.parallel import group
    from jobs.parallel import precision as precisions
    from jobs.stage import run_stage

    seen = []
    monkeypatch.setattr(precisions, "computing_in", lambda *arguments: seen.append(arguments[0]) or contextlib.nullcontext())
    monkeypatch.setattr(group, "choose_device", lambda gpu, local_rank: seen.append(gpu) or CPU)
    monkeypatch.setattr({"train": "jobs.training.loop.train", "sample": "jobs.sampling.loop.sample",
                         "evaluate": "jobs.evaluation.evaluate.evaluate"}[stage], lambda *_: "done")
    run = make_run("train.precision=tf32", "sample.precision=bf16", "resources.sample.gpus_per_node=2",
                   "resources.evaluate.gpus_per_node=1")
    assert run_stage(stage, str(run.path), "meeting")["state"] == "done"
    assert seen == [gpus > 0, precision]


@pytest.mark.parametrize("precision, allowed", [("fp32", False), ("tf32", True), ("bf16", False)])
def test_a_bench_times_each_precision_by_itself(precision, allowed):
    seen = []
    with computing_in("fp32", GPU):
        in_precision(precision, GPU, lambda: seen.append(switches()))()
    assert seen == [(allowed, allowed)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("has_along", [False, True])
def test_only_a_network_with_along_has_it_under_autocast(precision, has_along):
    class Half(torch.nn.Module):
        def forward(self, x, t):
            return x / 2

    class Along(Half):
        def along(self, times):
            return lambda x, number: x / 2

    network = autocasting((Along if has_along else Half)(), precision)
    assert hasattr(network, "along") == has_along
    diffusion, x = GaussianDiffusion(betas_of("cosine", 5)), torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(final(ddim(Denoiser(diffusion, network), {"x": x}, torch.randn_like)),
                               final(ddim(Denoiser(diffusion, Half()), {"x": x}, torch.randn_like)), rtol=0, atol=0.02)
