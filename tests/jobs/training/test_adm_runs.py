"""Runs of guided-diffusion's networks, with dropout and checkpointing: kills, ranks and processes leave no trace."""

import h5py
import numpy as np
from small_checkpoints import assert_same_checkpoint, contents

ADM = ("model.channel_mult=[0.5, 1]", "model.num_channels=16", "model.num_head_channels=4", "model.resblock_updown=true",
       "model.use_new_attention_order=true", "model.dropout=0.5", "evaluate.nll_examples=0")


def test_an_interrupted_run_on_two_ranks_ends_with_the_weights_of_a_whole_one(make_run, ranks, alone):
    whole, broken = (make_run(*ADM, "train.gradient_checkpointing=[4]", folder=name) for name in ("whole", "broken"))
    assert ranks(whole, "train", 2) == 0
    processes = ranks(broken, "train", 2, wait=False)
    while not (broken.checkpoints / "step-00000004").exists():
        assert all(process.poll() is None for process in processes)
    for process in processes:
        process.kill()
        process.wait()
    assert ranks(broken, "train", 2) == 0
    assert_same_checkpoint(whole.checkpoints / "step-00000012", broken.checkpoints / "step-00000012")

    single = make_run(*ADM, folder="single")
    assert alone(single, "train") == "done"
    one, two = (contents(run.checkpoints / "step-00000012")["model.safetensors"] for run in (single, whole))
    furthest = max((one[key] - two[key]).abs().max().item() for key in one)
    assert furthest < 4e-3  # only the order of sums differs, which Adam enlarges; other masks differ by 2e-2

    images = []
    for processes, run in ((1, whole), (2, broken)):
        assert ranks(run, "sample", processes) == 0
        with h5py.File(run.samples_h5) as file:
            images.append(file["images"][:])
    assert np.array_equal(*images) and len(np.unique(images[0], axis=0)) == 10
