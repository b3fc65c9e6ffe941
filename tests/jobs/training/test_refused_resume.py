"""What training does not continue from: damaged checkpoints, other weights, imported weights, other data."""

import re
import shutil

import pytest
from small_checkpoints import save_untrained, truncate

from jobs.data.importers.digits import import_digits
from jobs.data.importers.writer import Writer
from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.run.checkpoints import save_checkpoint
from jobs.spec.kinds import MODEL


def test_training_refuses_damaged_checkpoints_alone_and_changes_nothing(make_run, alone):
    run = make_run()
    truncate(save_untrained(run, 4) / "model.safetensors")
    before = set(run.path.rglob("*"))
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        alone(run, "train")
    assert set(run.path.rglob("*")) == before | {run.progress}


def test_a_checkpoint_of_another_network_is_refused_by_its_spec(make_run, alone):
    run, wider = make_run(), make_run("model.num_channels=16", folder="wider")
    shutil.copytree(save_untrained(wider, 4), run.checkpoints / "step-00000004")
    with pytest.raises(UserError, match=r"step-00000004: a checkpoint of another run \(model.num_channels: 16 -> 8\)"):
        alone(run, "train")


def test_weights_of_another_network_are_refused_with_the_first_keys(make_run, alone):
    run, wider = make_run(), make_run("model.num_channels=16", "model.attention_resolutions=[]", folder="wider")

    def save(spec):
        weights = dict(build_network(spec).state_dict())
        save_checkpoint(run, 4, {MODEL: {None: weights, "0.9": weights}}, {})
    save(wider.spec)
    with pytest.raises(UserError, match="weights of another network") as refusal:
        alone(run, "train")
    message = str(refusal.value)
    assert str(run.checkpoints / "step-00000004" / "model.safetensors") in message
    assert "another network: missing input_blocks.3.1.norm.weight (16,); missing " in message
    assert re.search(r" \(and \d+ more\)$", message)

    save(make_run("model.num_channels=16", folder="wide").spec)
    with pytest.raises(UserError, match=r"time_embed.0.weight is \(64, 16\), the spec's network has \(32, 8\)"):
        alone(run, "train")


def test_imported_weights_cannot_be_trained_further(make_run, alone):
    run = make_run()
    weights = dict(build_network(run.spec).state_dict())
    save_checkpoint(run, 4, {MODEL: {None: weights, "0.9": weights}}, None)
    with pytest.raises(UserError, match="imported weights without the optimiser's state"):
        alone(run, "train")


def test_other_data_at_the_same_path_are_refused_and_the_first_data_accepted_again(make_run, alone, tmp_path):
    import_digits("digits", Writer(tmp_path / "data.h5"))
    run = make_run(f"data.path={tmp_path}/data.h5", "train.iterations=4")
    assert alone(run, "train") == "done"
    shutil.rmtree(run.checkpoints)
    import_digits("digits-test", Writer(tmp_path / "data.h5"))
    with pytest.raises(UserError, match=r"data.h5: not the data that .* was trained on so far \(297 images now, 1500 then\)"):
        alone(run, "train")
    assert not run.checkpoints.exists()
    import_digits("digits", Writer(tmp_path / "data.h5"))
    assert alone(run, "train") == "done"
