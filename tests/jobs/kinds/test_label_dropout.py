"""`train.label_dropout`: the null class in training, in checkpoints, and in files for other code."""

import pytest
import torch
from safetensors.torch import load_file
from small_checkpoints import assert_same_checkpoint
from small_runs import SMALL_SPEC

from jobs.cost.count import run_cost
from jobs.kinds.diffusion.trainable import DiffusionTrainable
from jobs.kinds.foreign_weights import open_weights
from jobs.kinds.protocol import Draw, Examples
from jobs.kinds.weight_files import export_weights
from jobs.run.checkpoints import final_checkpoint
from jobs.spec.kinds import MODEL
from jobs.training.state import new_state, resume

ROWS = "label_emb.weight"
DROPPING = "train.label_dropout=0.25"


def _labels(spec, step, share, batch_size=400):
    """The labels that training sees at a step, of a batch of all classes in turn."""
    labels = torch.arange(batch_size)[share] % 10
    images = torch.zeros(len(labels), 1, 8, 8)
    kind = DiffusionTrainable(spec, torch.device("cpu"))
    return kind.inputs(Examples(images, labels), Draw(spec.train.seed, step, batch_size, share, torch.device("cpu"))).labels


def test_each_example_loses_its_class_by_itself_and_the_others_keep_theirs(make_run):
    spec = make_run(DROPPING).spec
    seen = torch.stack([_labels(spec, step, slice(0, 400)) for step in range(20)])
    dropped = seen == 10
    assert 0.23 < dropped.float().mean() < 0.27
    assert (dropped.float().mean(dim=1) < 0.5).all() and dropped.any(dim=1).all()  # not whole batches
    assert torch.equal(seen[~dropped], (torch.arange(400) % 10).expand(20, -1)[~dropped])
    assert not torch.equal(seen[0], seen[1])


def test_the_dropped_examples_do_not_depend_on_the_number_of_ranks(make_run):
    spec = make_run(DROPPING).spec
    parts = [_labels(spec, 3, slice(start, start + 100)) for start in range(0, 400, 100)]
    assert torch.equal(torch.cat(parts), _labels(spec, 3, slice(0, 400)))


def test_without_label_dropout_there_is_no_null_class(make_run):
    spec = make_run().spec
    assert torch.equal(_labels(spec, 0, slice(0, 400)), torch.arange(400) % 10)
    plain, dropping = (run_cost(make_run(*change, folder=str(len(change))).spec) for change in ((), (DROPPING,)))
    assert dropping.parameters - plain.parameters == 4 * SMALL_SPEC["model"]["num_channels"]


def test_the_null_class_learns_and_a_resumed_run_agrees_to_the_bit(make_run, alone):
    whole, halves = make_run(DROPPING), make_run(DROPPING, "train.iterations=8", folder="halves")
    assert alone(whole, "train") == alone(halves, "train") == "done"
    assert alone(make_run(DROPPING, folder="halves"), "train") == "done"  # now to step 12
    assert_same_checkpoint(*(final_checkpoint(run).path for run in (whole, make_run(DROPPING, folder="halves"))))
    rows, plain = (final_checkpoint(run).weights(None)[ROWS] for run in (whole, _never_dropping(make_run, alone)))
    assert rows.shape == (11, 32) and not torch.equal(rows, plain)


def _never_dropping(make_run, alone):
    run = make_run("train.label_dropout=1e-9", folder="never")
    assert alone(run, "train") == "done"
    return run


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_exported_without_the_null_class_and_imported_with_a_small_row(make_run, alone, tmp_path, suffix):
    run, file = make_run(DROPPING), tmp_path / f"out.{suffix}"
    assert alone(run, "train") == "done"
    export_weights(run, file, 0.9)
    exported = load_file(file) if suffix == "safetensors" else torch.load(file, weights_only=True)
    ours = final_checkpoint(run).weights("0.9")
    assert torch.equal(exported[ROWS], ours[ROWS][:10])
    assert all(torch.equal(exported[key], ours[key]) for key in ours if key != ROWS)

    found = open_weights(file, run.spec)
    assert torch.equal(found.weights[ROWS][:10], ours[ROWS][:10]) and 0 < found.weights[ROWS][10].abs().max() < 0.1
    assert any("gave the null class" in note for note in found.notes)
    assert torch.equal(found.weights[ROWS], open_weights(file, run.spec).weights[ROWS])  # on every rank
    assert not open_weights(file, make_run(folder="plain").spec).notes  # a network without a null class takes the file as it is


def test_fine_tuning_starts_from_weights_that_have_no_null_class(make_run, alone, tmp_path):
    from jobs.parallel.group import process_group
    base = make_run(folder="base")
    assert alone(base, "train") == "done"
    tuned = make_run(DROPPING, f"train.init_from={base.path}", folder="tuned")
    with process_group(tmp_path / "meet", threads=1) as group:
        state = new_state(tuned.spec, group)
        assert resume(state, tuned) == 0
        part = state.parts[MODEL]
        ours = final_checkpoint(base).weights("0.9")
        assert torch.equal(part.network.state_dict()[ROWS][:10], ours[ROWS])
        assert torch.equal(part.averages["0.9"][ROWS], part.network.state_dict()[ROWS])
    again = make_run(DROPPING, f"train.init_from={final_checkpoint(base).path}", folder="again")
    assert alone(again, "train") == "done"


def test_label_dropout_is_refused_without_classes(make_run):
    with pytest.raises(Exception, match="train.label_dropout: drops the classes of examples, but data.class_cond is off"):
        make_run(DROPPING, "data.class_cond=false", "data.num_classes=null")
    with pytest.raises(Exception, match="train.label_dropout: must be less than 1"):
        make_run("train.label_dropout=1.0")


def test_previews_show_the_conditional_network(make_run):
    """Samples of the previews have classes, never the null class."""
    spec, seen = make_run(DROPPING).spec, []
    kind = DiffusionTrainable(spec, torch.device("cpu"))
    forward = kind.network.label_emb.forward
    kind.network.label_emb.forward = lambda y: seen.append(y) or forward(y)
    kind.previews({MODEL: dict(kind.network.named_parameters())})
    assert seen and max(int(y.max()) for y in seen) == 9

