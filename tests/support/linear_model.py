"""The half of tests/support/linear_kind.py that needs torch; see jobs.kinds.protocol."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from linear_kind import STEPS, pixels
from torch import nn

from jobs.data.dataset import open_data
from jobs.data.pictures import as_images, to_x
from jobs.kinds.protocol import Generated, Preview
from jobs.spec.kinds import MODEL


class Autoencoder(nn.Module):
    def __init__(self, size: int, latent: int):
        super().__init__()
        self.encode, self.decode = nn.Linear(size, latent), nn.Linear(latent, size)

    def forward(self, x):
        return self.decode(self.encode(x.flatten(1))).view_as(x)


class Critic(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.judge = nn.Linear(size, 1)

    def forward(self, x):
        return self.judge(x.flatten(1))[:, 0]


@dataclass(frozen=True)
class Images:
    images: torch.Tensor
    noise: torch.Tensor
    weights: torch.Tensor
    quarter: None = None


class trainable:
    def __init__(self, spec, device):
        self.networks = {MODEL: network(spec).to(device), "critic": Critic(pixels(spec)).to(device)}
        self.averaged, self.updates = (MODEL,), (MODEL, "critic")
        self.terms = {MODEL: ["loss"], "critic": ["loss"]}
        self.steps = torch.zeros((), dtype=torch.int64)

    def inputs(self, examples, draw):
        noise = draw.normal("noise", examples.images.shape[1:])
        return Images(examples.images, noise, torch.ones(len(noise), device=noise.device))

    def losses(self, update, networks, inputs):
        error = (networks[MODEL](inputs.images + 0.1 * inputs.noise) - inputs.images).square().flatten(1).mean(dim=1)
        return {"loss": error if update == MODEL else (networks["critic"](inputs.images) - error).square()}

    def learn(self, inputs, losses):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]

    def first_previews(self, data):
        return {"data": Preview(np.array(data.images[:4]), columns=4)}

    def previews(self, averages):
        return {"columns": Preview(as_images(torch.zeros(1, 1, 8, 8)), columns=1)}


def network(spec):
    return Autoencoder(pixels(spec), spec.linear.latent)


@torch.no_grad()
def generate(spec, network, device, randn, labels, rows, begun, guide=None):
    data, left = spec.data, begun.left if begun else STEPS
    if begun:
        x, before = begun.state["x"], begun.state["before"]
    else:
        x = before = randn(torch.empty(rows, data.channels, data.image_size, data.image_size, device=device))
    while left:  # two tensors of state: a step needs the one before
        x, before, left = network((x + before) / 2 + 0.1 * randn(x)), x, left - 1
        yield Generated(left, x, {"x": x, "before": before})


def basis(spec, number):
    return {"examples": number.examples}


@torch.no_grad()
def measure(spec, network, number, group, on_pass):
    x = to_x(torch.from_numpy(open_data(spec.data.path, 8, 1).images[:number.examples])).permute(0, 3, 1, 2)
    total = torch.zeros(())
    for batch in number.batches(group.rank, group.world_size):
        part = x[batch * number.batch_size:(batch + 1) * number.batch_size]
        total += (network(part) - part).square().flatten(1).mean(dim=1).sum()
        on_pass()
    dist.all_reduce(total)
    return {"value": float(total) / number.examples}, {"total": total.numpy()}
