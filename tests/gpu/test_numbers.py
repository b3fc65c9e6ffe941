"""A training step and an evaluation on the GPU against the CPU; which precision is really used."""

import dataclasses

import numpy as np
import pytest
import torch
from on_gpu import distance, fill_with_noise, medium, needs_gpu, only_gpu, random_data
from torch.nn import functional as F

from jobs.evaluation.metrics.frechet import Moments, frechet_distance
from jobs.evaluation.metrics.kid import kernel_distance
from jobs.evaluation.metrics.precision_recall import precision_and_recall
from jobs.evaluation.torchscript import open_torchscript
from jobs.parallel.group import Group
from jobs.parallel.precision import computing_in
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step

pytestmark = needs_gpu
CPU = torch.device("cpu")
# The most that losses and gradients may differ from those of the CPU in fp32, as a share of their norms; and the least, where
# less would show that the precision was not used. float32 keeps 24 bits, TensorFloat-32 and float16 keep 11, bfloat16 keeps 8.
TOLERANCES = {"fp32": (0.0, 1e-4), "tf32": (2e-5, 5e-3), "bf16": (1e-4, 5e-2), "fp16": (2e-5, 1e-2)}


def step_on(group: Group, precision: str, inputs=None):
    """Do the first training step of the medium network. Return its inputs, its losses, and the gradients."""
    spec = medium({"precision": precision})
    state = new_state(spec, group)
    fill_with_noise(state.parts[MODEL].network)
    if precision == "fp16":  # the first scale of training, 65536, is lowered after a step or two
        state.parts[MODEL].scaler = torch.amp.GradScaler(group.device.type, init_scale=128.0)
    given = None if inputs is None else type(inputs)(**{
        field.name: None if (value := getattr(inputs, field.name)) is None else value.to(group.device)
        for field in dataclasses.fields(inputs)})
    drawn = state.kind.inputs
    state.kind.inputs = lambda examples, draw: given or drawn(examples, draw)
    [examples] = Batches(spec, random_data(spec), group)(0, 1)
    with computing_in(precision, group.device):
        result = train_step(state, examples, 0)
    gradients = torch.cat([parameter.grad.flatten() for parameter in state.parts[MODEL].parameters])
    return result, gradients


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_training_step_is_that_of_the_cpu(group, device, precision):
    on_cpu = dataclasses.replace(group, device=CPU)
    reference, expected = step_on(on_cpu, "fp32")
    result, gradients = step_on(group, precision, reference.inputs)
    least, most = TOLERANCES[precision] if device.type == "cuda" else (0.0, TOLERANCES[precision][1])
    found = {"loss": distance(result.losses["loss"], reference.losses["loss"]),
             "gradient": distance(gradients, expected),
             "norm": distance(result.grad_norms[MODEL], reference.grad_norms[MODEL])}
    print(f"\n{precision}:", ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    assert max(found.values()) <= most and found["gradient"] >= least


@only_gpu
@pytest.mark.parametrize("precision, least, most", [("fp32", 0.0, 2e-6), ("tf32", 5e-5, 2e-3)])
def test_tf32_is_used_where_it_is_asked_for_and_nowhere_else(group, device, precision, least, most):
    torch.manual_seed(0)
    left, right = torch.randn(2, 512, 512, dtype=torch.float64)
    x, weight = torch.randn(8, 64, 16, 16, dtype=torch.float64), torch.randn(64, 64, 3, 3, dtype=torch.float64)
    with computing_in(precision, device):
        product = left.float().to(device) @ right.float().to(device)
        linear = F.linear(left.float().to(device), right.float().to(device))
        convolution = F.conv2d(x.float().to(device), weight.float().to(device), padding=1)
    errors = [distance(product, left.float().double() @ right.float().double()),
              distance(linear, left.float().double() @ right.float().double().T),
              distance(convolution, F.conv2d(x.float().double(), weight.float().double(), padding=1))]
    print(f"\n{precision}: product {errors[0]:.1e}, linear {errors[1]:.1e}, convolution {errors[2]:.1e}")
    assert all(least <= error <= most for error in errors)


def rows(count: int, seed: int, width: int = 192) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).gamma(2.0, size=(count, width)).astype(np.float32))


def test_metrics_are_those_of_the_cpu_in_float64(group, device):
    ours, theirs = rows(3000, 1), rows(2500, 2)

    def numbers(on: torch.device) -> list[float]:
        fits = []
        for features in (ours, theirs):
            moments = Moments(features.shape[1], on)
            for batch in features.to(on).split(250):
                moments.add(batch)
            fits.append(moments.fitted())
        both = precision_and_recall(ours.to(on), theirs.to(on))
        return [frechet_distance(*fits), kernel_distance(ours.to(on), theirs.to(on))["value"],
                both["precision"]["value"], both["recall"]["value"]]
    assert numbers(device) == pytest.approx(numbers(CPU), rel=1e-9)


class LikeInception(torch.nn.Module):
    """Pooled features, maps and logits of uint8 images, by layers as the Inception network has them."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, stride=2, bias=False), torch.nn.BatchNorm2d(32, eps=0.001),
                                         torch.nn.ReLU(), torch.nn.MaxPool2d(3, stride=2))
        self.second = torch.nn.Sequential(torch.nn.Conv2d(32, 64, (1, 7), padding=(0, 3)), torch.nn.ReLU(),
                                          torch.nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
                                          torch.nn.Conv2d(64, 256, 3, padding=1), torch.nn.ReLU())
        self.last = torch.nn.Linear(256, 100, bias=False)

    def forward(self, x):
        x = torch.nn.functional.interpolate(x.float(), size=[75, 75], mode="bilinear", align_corners=False)
        maps = self.second(self.first((x - 128) / 128))
        pool = maps.mean(dim=[2, 3])
        return pool, maps, self.last(pool)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_network_gives_the_features_of_the_cpu(group, device, tmp_path):
    torch.manual_seed(0)
    torch.jit.script(LikeInception().eval()).save(tmp_path / "like-inception.pt")
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    file = str(tmp_path / "like-inception.pt")
    parts = {on: open_torchscript(file, on).extract(batch.to(on), {"pool"}) for on in (CPU, device)}
    for name, expected in parts[CPU].items():
        error = distance(parts[device][name], expected)
        print(f"\n{name}: {error:.1e}")
        assert error < 1e-5
