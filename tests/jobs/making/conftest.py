"""Runs to make pictures from, and pictures to give."""

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.kinds.diffusion.build import build_network
from jobs.run.checkpoints import save_checkpoint
from jobs.spec.kinds import MODEL


@pytest.fixture
def drawing_run(make_run, tmp_path, monkeypatch):
    """drawing_run("key=value", step=12, spread=0.05) -> RunDir: a small run with random weights, all of which count.

    With spread 0 the network predicts no noise at all, so that encoding an image scales it. The current folder is tmp_path.
    """
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str, step: int = 12, spread: float = 0.05, folder: str = "runs"):
        run = make_run(*overrides, folder=folder)
        torch.manual_seed(0)
        weights = {key: value + spread * torch.randn(value.shape)
                   for key, value in build_network(run.spec).state_dict().items()}
        save_checkpoint(run, step, {MODEL: {None: weights, "0.9": weights}}, {"of": step})
        return run
    return make


@pytest.fixture
def picture(tmp_path):
    """picture("a.png", size=8, mode="L", **options) -> its path: a picture of random pixels."""
    def save(name: str = "a.png", size: int | tuple[int, int] = 8, mode: str = "L", seed: int = 0, **options):
        wide, high = (size, size) if isinstance(size, int) else size
        pixels = np.random.RandomState(seed).randint(0, 256, (high, wide, 4), dtype=np.uint8)
        image = Image.fromarray(pixels[:, :, 0]) if mode == "L" else Image.fromarray(pixels).convert(mode)
        image.save(tmp_path / name, **options)
        return tmp_path / name
    return save


@pytest.fixture
def mask(tmp_path):
    """mask("m.png", size=8, white=slice(1, 2)) -> its path: white in the lower half, or in those of the two halves."""
    def save(name: str = "m.png", size: int | tuple[int, int] = 8, white: slice = slice(1, 2)):
        wide, high = (size, size) if isinstance(size, int) else size
        pixels = np.zeros((2, high // 2, wide), np.uint8)
        pixels[white] = 255
        Image.fromarray(pixels.reshape(-1, wide)).save(tmp_path / name)
        return tmp_path / name
    return save
