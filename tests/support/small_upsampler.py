"""A small model that enlarges digits from 4x4 to 8x8 pixels, and runs whose 4x4 samples it enlarges."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_runs import SMALL_SPEC, making

UPSAMPLER_SPEC = {**SMALL_SPEC, "name": "large", "kind": "upsampler", "upsampler": {"low_res_size": 4},
                  "sample": {**SMALL_SPEC["sample"], "timestep_respacing": "6"}}


def write_small_digits(file: Path, count: int | None = None, labels: bool = True) -> Path:
    """Write the first digits, reduced to 4x4 pixels, as `iddpm data` would. None: all."""
    from jobs.data.dataset import open_data

    digits = open_data("digits", 8, 1, 10)
    images = digits.images.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4)).round().astype(np.uint8)
    with h5py.File(file, "w") as opened:
        opened["images"] = images[:count]
        if labels:
            opened["labels"] = digits.labels[:count]
    return file


@pytest.fixture
def small_digits(tmp_path) -> Path:
    """A data set of all digits at 4x4 pixels."""
    return write_small_digits(tmp_path / "small.h5")


@pytest.fixture
def make_upsampler(tmp_path):
    """make_upsampler("upsampler.low_res_noise=0.3", folder="a") -> RunDir: the small upsampler with these changes, frozen."""
    return making(UPSAMPLER_SPEC, tmp_path)


@pytest.fixture
def make_stages(tmp_path, small_digits):
    """make_stages({"sample.low_res_noise": 0.1}, {"sample.num_samples": 12}) -> (large, base): the runs of a study in which
    `large`, which is written first, enlarges the samples of `base`; with these changes to the two."""
    from jobs.run.study.freezing import freeze
    from jobs.spec.reading.file import load

    def make(large: dict | None = None, base: dict | None = None, folder: str = "runs"):
        spec = tmp_path / "stages.yaml"
        spec.write_text(json.dumps(stages(small_digits, large, base)))
        return freeze(load(spec), tmp_path / folder)
    return make


def stages(small_digits: Path, large: dict | None = None, base: dict | None = None) -> dict:
    """Return the spec of such a study."""
    points = [{"name": "large", "kind": "upsampler", "upsampler.low_res_size": 4, "sample.timestep_respacing": "6",
               "sample.low_res.run": "base", **(large or {})},
              {"name": "base", "data.path": str(small_digits), "data.image_size": 4, "model.attention_resolutions": [2],
               "evaluate.nll_examples": 0, "evaluate.nll_data": None, **(base or {})}]
    return {**SMALL_SPEC, "name": "stages", "sweep": {"list": points}}
