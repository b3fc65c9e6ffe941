"""Golden numbers and the networks that made them (see tests/golden/README.md); where the other fixtures are."""

import json
import signal
import zlib

import numpy as np
import pytest
import torch
from paths import GOLDEN

from diffusion.networks.unet import UNet

pytest_plugins = ["small_runs", "small_classifier", "small_gan", "small_upsampler", "small_vae", "finished_study", "real_slurm",
                  "fake_cluster", "recorded_slurm"]

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests with these fixtures start processes that load torch, or train for seconds: they count as marked slow.
SLOW_FIXTURES = {"ranks", "trained"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")


class Golden:
    """Reading tests/golden, and the stand-in network of its `*_standin` and `losses_*` files."""

    @staticmethod
    def arrays(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return dict(file)

    @staticmethod
    def tensors(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in Golden.arrays(name).items()}

    @staticmethod
    def facts(name: str):
        return json.loads((GOLDEN / f"{name}.json").read_text())

    @staticmethod
    def standin(learn_sigma: bool):
        """The formula instead of a network: tanh of the image and, where learned, a sine for the variance."""
        def network(x, t):
            image = torch.tanh(0.7 * x + 0.1)
            if not learn_sigma:
                return image
            return torch.cat([image, 0.8 * torch.sin(2 * x) * torch.cos(t / 300)[:, None, None, None]], dim=1)
        return network

    @staticmethod
    def formula_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        weights = {}
        for key, shape in shapes.items():
            r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
            scale = len(shape) == 1 and key.endswith("weight")
            weights[key] = torch.from_numpy(1 + np.float32(0.1) * r if scale else np.float32(0.05) * r)
        return weights

    @staticmethod
    def unet(name: str) -> UNet:
        """The network of `unet_uncond32` or `unet_classcond32` with its formula weights, in evaluation mode."""
        facts = Golden.facts(name)
        network = UNet(
            image_size=facts["image_size"], in_channels=3, out_channels=6 if facts["learn_sigma"] else 3,
            num_channels=facts["num_channels"], num_res_blocks=facts["num_res_blocks"], channel_mult=[1, 2, 2, 2],
            attention_resolutions=[int(size) for size in facts["attention_resolutions"].split(",")],
            num_heads=facts["num_heads"], dropout=facts["dropout"],
            use_scale_shift_norm=facts["use_scale_shift_norm"], num_classes=1000 if facts["class_cond"] else None)
        network.load_state_dict(Golden.formula_weights(facts["state_dict"]))
        return network.eval()

    @staticmethod
    def adm_settings(flags: dict) -> dict:
        """The settings of `UNet` for the flags of guided-diffusion, as in adm_unets.json and published_configs_adm.json."""
        names = ("image_size", "num_channels", "num_res_blocks", "channel_mult", "num_heads", "resblock_updown", "dropout",
                 "use_scale_shift_norm", "use_new_attention_order", "num_classes")
        own = {name: None if flags[name] == -1 else flags[name] for name in ("num_head_channels", "num_heads_upsample")}
        return {name: flags[name] for name in names} | own | {
            "in_channels": 3, "out_channels": 6 if flags["learn_sigma"] else 3,
            "attention_resolutions": _resolutions(flags["attention_resolutions"])}

    @staticmethod
    def half_settings(flags: dict) -> dict:
        """The settings of `HalfUNet` for the flags of guided-diffusion's classifiers."""
        return {"image_size": flags["image_size"], "in_channels": 3, "out_channels": flags["num_classes"],
                "num_channels": flags["classifier_width"], "num_res_blocks": flags["classifier_depth"],
                "channel_mult": flags["channel_mult"], "num_head_channels": flags["num_head_channels"],
                "attention_resolutions": _resolutions(flags.get("attention_resolutions",
                                                                flags.get("classifier_attention_resolutions"))),
                "use_scale_shift_norm": flags["classifier_use_scale_shift_norm"],
                "resblock_updown": flags["classifier_resblock_updown"], "pool": flags["classifier_pool"]}


def _resolutions(flag: str | list[int]) -> list[int]:
    return [int(size) for size in flag.split(",")] if isinstance(flag, str) else flag


@pytest.fixture
def golden() -> type[Golden]:
    return Golden


@pytest.fixture(autouse=True)
def one_thread():
    """The number of threads is part of a CPU's arithmetic; and tests run beside each other."""
    torch.set_num_threads(1)
