"""A kind with several networks, trained by the one `train_step`: a generator (MODEL) and a critic with an own optimiser each."""

import copy
from dataclasses import dataclass

import pytest
import torch
from small_training import DIGITS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jobs.run.checkpoints import checkpoint_at
from jobs.run.snapshots import power_average, snapshot_folder
from jobs.spec.averages import combination
from jobs.spec.kinds import MODEL
from jobs.training import state as training_state
from jobs.training.batches import Batches
from jobs.training.state import keep_snapshot, new_state, resume, save
from jobs.training.step import train_step


@dataclass(frozen=True)
class Inputs:
    images: torch.Tensor
    noise: torch.Tensor
    weights: torch.Tensor
    quarter: None = None


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 64)

    def forward(self, noise):
        return self.layer(noise)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 1)

    def forward(self, images):
        return self.layer(images.flatten(1))[:, 0]


class Adversaries:
    """A kind that updates the critic first. `seen` holds the update and all weights at each call of `losses`."""

    averaged, updates = (MODEL,), ("critic", MODEL)
    terms = {"critic": ["loss", "real"], MODEL: ["loss"]}

    def __init__(self, spec, device):
        self.networks = {MODEL: Generator().to(device), "critic": Critic().to(device)}
        self.seen, self.learned = [], []

    def inputs(self, examples, draw):
        return Inputs(examples.images, draw.normal("noise", (3,)), torch.ones(len(examples.images)))

    def losses(self, update, networks, inputs):
        self.seen.append((update, weights_of(self)))
        fake = networks[MODEL](inputs.noise)
        if update == MODEL:
            return {"loss": -networks["critic"](fake)}
        real = networks["critic"](inputs.images)  # one network, called twice before one backward pass
        return {"loss": networks["critic"](fake.detach()) - real, "real": real}

    def learn(self, inputs, losses):
        self.learned.append(set(losses))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def weights_of(kind: Adversaries) -> dict[str, list[torch.Tensor]]:
    return {name: [value.detach().clone() for value in network.parameters()] for name, network in kind.networks.items()}


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


class Model:
    trainable = Adversaries


@pytest.fixture
def start(make_run, group, monkeypatch):
    """start("train.lr=1", ..., folder="a") -> a run and the state of its training, of the kind of this file."""
    monkeypatch.setattr(training_state, "model_of", lambda spec: Model)

    def start(*overrides, folder="runs"):
        run = make_run("train.lr=1e-2", *overrides, folder=folder)
        return run, new_state(run.spec, group)
    return start


def train_steps(state, first: int, stop: int):
    return [train_step(state, examples, step)
            for step, examples in enumerate(Batches(state.spec, DIGITS, state.group)(first, stop), first)]


def test_each_update_changes_its_own_network_alone_and_the_second_sees_the_first(start):
    _, state = start()
    before = weights_of(state.kind)
    assert all(isinstance(part.ddp, DistributedDataParallel) for part in state.parts.values())
    assert state.parts[MODEL].optimizer is not state.parts["critic"].optimizer
    (result,) = train_steps(state, 0, 1)
    (first, at_first), (second, at_second) = state.kind.seen
    after = weights_of(state.kind)

    assert (first, second) == ("critic", MODEL)
    assert equal(at_first[MODEL], before[MODEL]) and equal(at_first["critic"], before["critic"])
    assert equal(at_second[MODEL], before[MODEL])  # the critic's update does not change the generator
    assert not equal(at_second["critic"], before["critic"])  # the generator's update sees the new critic
    assert equal(after["critic"], at_second["critic"])  # the generator's update does not change the critic
    assert not equal(after[MODEL], at_second[MODEL])
    assert all(parameter.requires_grad for part in state.parts.values() for parameter in part.parameters)

    assert set(result.losses) == {"loss", "critic/loss", "critic/real"} and set(result.grad_norms) == {MODEL, "critic"}
    assert all(len(values) == 12 for values in result.losses.values()) and state.kind.learned == [set(result.losses)]
    assert list(state.parts[MODEL].averages) == ["0.9"] and state.parts["critic"].averages == {}


def test_each_network_has_the_gradient_of_its_own_loss(start):
    _, state = start("train.grad_clip=null")
    examples = next(Batches(state.spec, DIGITS, state.group)(0, 1))
    inputs, networks = state.kind.inputs(examples, state.draw(0)), copy.deepcopy(state.kind.networks)
    result = train_step(state, examples, 0)

    fake = networks[MODEL](inputs.noise).detach()
    (networks["critic"](fake) - networks["critic"](inputs.images)).mean().backward()
    assert gradient_norm(networks["critic"]) == pytest.approx(result.grad_norms["critic"].item(), rel=1e-5)
    critic = state.kind.networks["critic"]  # after the critic's update
    assert gradient_norm(critic) == pytest.approx(result.grad_norms["critic"].item(), rel=1e-6)  # the generator's loss adds none
    loss = -critic(networks[MODEL](inputs.noise)).mean()
    norm = torch.stack([gradient.square().sum() for gradient in torch.autograd.grad(loss, list(networks[MODEL].parameters()))])
    assert norm.sum().sqrt().item() == pytest.approx(result.grad_norms[MODEL].item(), rel=1e-5)


def gradient_norm(network: nn.Module) -> float:
    return sum(parameter.grad.square().sum() for parameter in network.parameters()).sqrt().item()


def test_only_the_updated_network_is_called_through_ddp(start):
    _, state = start()
    train_steps(state, 0, 1)
    networks = {name: state.callables(name) for name in state.kind.updates}
    for update in state.kind.updates:
        for name in state.parts:
            through = state.parts[name].ddp if name == update else state.parts[name].network
            assert networks[update][name] is through


def test_microbatches_add_up_to_the_batch_for_every_network(start):
    _, whole = start(folder="whole")
    _, parts = start("train.microbatch=3", folder="parts")
    ours, theirs = train_steps(parts, 0, 4), train_steps(whole, 0, 4)
    for one, other in zip(ours, theirs, strict=True):
        for name in (MODEL, "critic"):
            torch.testing.assert_close(one.grad_norms[name], other.grad_norms[name], rtol=1e-4, atol=0)
        torch.testing.assert_close(one.losses, other.losses, rtol=1e-3, atol=1e-4)
    for name in (MODEL, "critic"):
        torch.testing.assert_close(weights_of(parts.kind)[name], weights_of(whole.kind)[name], rtol=1e-3, atol=1e-4)


def test_snapshots_have_the_averages_of_each_averaged_network(start, monkeypatch):
    monkeypatch.setattr(Adversaries, "averaged", (MODEL, "critic"))
    run, state = start("train.ema_sigma_rel=[0.05, 0.1]", "train.ema_snapshots=4")
    train_steps(state, 0, 3)
    keep_snapshot(state, run, 3)
    first = copy.deepcopy({name: part.averages for name, part in state.parts.items()})
    train_steps(state, 3, 12)
    save(state, run, 12)
    files = {f"{prefix}ema-sigma_rel-{each}.safetensors" for prefix in ("", "critic-") for each in (0.05, 0.1)}
    assert {file.name for file in snapshot_folder(run, 3).glob("*.safetensors")} == files
    now = {name: part.averages for name, part in state.parts.items()}
    order = [(averages, f"sigma_rel-{each}") for averages in (first, now) for each in (0.05, 0.1)]
    shares = combination((3, 12), (0.05, 0.1), 0.06)
    for name in (MODEL, "critic"):
        found = power_average(run, checkpoint_at(run, 12), 0.06, name)
        for key, value in found.items():
            expected = sum(share * averages[name][average][key].double()
                           for share, (averages, average) in zip(shares, order, strict=True))
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_all_networks_are_resumed_to_the_bit(start):
    run, state = start()
    train_steps(state, 0, 4)
    save(state, run, 4)
    assert {file.name for file in (run.checkpoints / "step-00000004").glob("*.safetensors")} == {
        "model.safetensors", "ema-0.9.safetensors", "critic.safetensors"}
    train_steps(state, 4, 8)

    _, resumed = start()
    assert resume(resumed, run) == 4
    assert all(parameter.grad is None for part in resumed.parts.values() for parameter in part.parameters)
    train_steps(resumed, 4, 8)
    ours, theirs = weights_of(resumed.kind), weights_of(state.kind)
    assert all(equal(ours[name], theirs[name]) for name in theirs)
    averages = [list(each.parts[MODEL].averages["0.9"].values()) for each in (resumed, state)]
    assert equal(*averages)
    for name, part in state.parts.items():
        theirs = resumed.parts[name].optimizer.state_dict()["state"]
        torch.testing.assert_close(theirs, part.optimizer.state_dict()["state"], rtol=0, atol=0)
