"""A small classifier of noisy digits, for tests of the stages."""

import pytest
from small_runs import making, spec_of

CLASSIFIER_SPEC = {
    "name": "classifiers", "kind": "noisy_classifier",
    "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10, "random_crop": True},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4],
              "num_head_channels": 4},
    "diffusion": {"diffusion_steps": 40},
    "train": {"iterations": 12, "batch_size": 12, "lr": 1e-3, "weight_decay": 0.05, "lr_anneal": True, "ema_rate": [0.9],
              "log_interval": 4, "save_interval": 4},
    "sample": {"ema_rate": 0.9},
    "evaluate": {"data": "digits-test", "examples": 10, "batch_size": 4},
    "resources": {stage: {"tasks_per_node": 1, "cpus_per_task": 1} for stage in ("train", "sample", "evaluate")},
}
MIXED = {"list": [{"name": "classifier", "kind": "noisy_classifier", "data.random_crop": True, "evaluate.data": "digits-test"},
                  {"name": "conditional"}]}
"""A sweep of a classifier and of what tests/support/small_runs.py trains."""


@pytest.fixture
def make_classifier(tmp_path):
    """make_classifier("train.lr=1e-2", ..., folder="a") -> RunDir: the small classifier with these changes, frozen."""
    return making(CLASSIFIER_SPEC, tmp_path)


def classifier_spec(*overrides: str):
    """Return the resolved spec of the small classifier with these changes."""
    return spec_of(CLASSIFIER_SPEC, overrides)
