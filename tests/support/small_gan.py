"""A small GAN of the digits, and its training on several processes step by step."""

import json
import os
import socket
import subprocess
import sys
import tempfile

import pytest
from paths import ROOT

GAN_SPEC = {
    "name": "gan", "kind": "gan",
    "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2]},
    "gan": {"r1_gamma": 0.3, "r2_gamma": 0.2, "latent_size": 6, "discriminator_lr": 2e-3},
    "train": {"iterations": 12, "batch_size": 12, "lr": 1e-3, "ema_rate": [0.9], "log_interval": 4, "save_interval": 4},
    "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9},
    "evaluate": {"batch_size": 4},
}
# Trains some steps; then each rank writes all weights, averages, and the gradients of the last step.
STEPS = """
import sys, pathlib, torch
from jobs.parallel.group import process_group
from jobs.run.directory import RunDir
from jobs.data.dataset import open_data
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step
run, out = RunDir(pathlib.Path(sys.argv[1])), sys.argv[2]
with process_group(pathlib.Path(out).parent / "meeting", threads=1) as group:
    state, norms = new_state(run.spec, group), []
    for step, examples in enumerate(Batches(run.spec, open_data("digits", 8, 1, 10), group)(0, int(sys.argv[3]))):
        norms.append({name: norm.item() for name, norm in train_step(state, examples, step).grad_norms.items()})
    torch.save({"norms": norms, "weights": {name: part.network.state_dict() for name, part in state.parts.items()},
                "averages": state.parts["model"].averages,
                "gradients": {name: [each.grad for each in part.parameters] for name, part in state.parts.items()}},
               f"{out}-{group.rank}")
"""


@pytest.fixture
def make_gan(tmp_path):
    """make_gan("train.lr=1e-2", folder="a") -> the small GAN with these changes, frozen."""
    from jobs.run.study.freezing import freeze
    from jobs.spec.reading.file import load

    def make(*overrides: str, folder: str = "runs"):
        spec = tmp_path / "gan.yaml"
        spec.write_text(json.dumps(GAN_SPEC))
        return freeze(load(spec, overrides), tmp_path / folder)[0]
    return make


def gan_spec(*overrides: str):
    """Return the resolved spec of the small GAN with these changes."""
    from jobs.spec.reading.file import load

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(GAN_SPEC, file)
        file.flush()
        return load(file.name, overrides).runs[0].spec


def after_steps(run, world_size: int, steps: int = 3) -> list[dict]:
    """Train `run` so many steps on `world_size` processes; return what each rank has then (see STEPS)."""
    import torch

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = run.path / f"ranks-{world_size}"
    processes = []
    for rank in range(world_size):
        place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen([sys.executable, "-c", STEPS, str(run.path), str(out), str(steps)],
                                          env=os.environ | {key: str(value) for key, value in place.items()}))
    assert [process.wait() for process in processes] == [0] * world_size
    return [torch.load(f"{out}-{rank}") for rank in range(world_size)]
