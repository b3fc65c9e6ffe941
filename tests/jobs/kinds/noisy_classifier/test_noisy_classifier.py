"""Runs of a classifier of noisy images: trained, evaluated, killed, counted, exported, and given to other runs."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_classifier import CLASSIFIER_SPEC, classifier_spec
from small_runs import finished, kill_in_training, logs
from small_training import events, scalars
from torch.utils.flop_counter import FlopCounterMode

from diffusion.losses import classification_losses, classification_terms
from diffusion.networks.half_unet import HalfUNet
from diffusion.networks.pools import POOLS
from jobs.cost.count import run_cost, stored_bytes
from jobs.kinds.foreign_weights import read_weights
from jobs.kinds.noisy_classifier.build import build_network, build_process
from jobs.kinds.noisy_classifier.quarters import quarters
from jobs.kinds.protocol import model_of
from jobs.kinds.weight_files import export_weights
from jobs.run.checkpoints import final_checkpoint, sha256_of_weights
from jobs.spec.kinds import MODEL, kind_of
from jobs.storage.files import read_json


def test_the_terms_of_a_classifier_by_hand():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, 5.0, 4.0, 6.0], [9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    seen = []

    def network(x, time):
        seen.append((x, time))
        return logits

    process = build_process(classifier_spec(), "cpu")
    x, noise, t = torch.ones(2, 1, 8, 8), torch.full((2, 1, 8, 8), 2.0), torch.tensor([0, 39])
    found = classification_losses(process, network, x, t, noise, torch.tensor([2, 0]))
    expected = torch.log_softmax(logits.double(), 1)
    assert torch.allclose(found["loss"].double(), -expected[[0, 1], [2, 0]], atol=1e-6) and found["loss"].dtype == torch.float32
    assert found["accuracy"].tolist() == [0, 1] and found["accuracy_top5"].tolist() == [0, 1]
    assert classification_losses(process, network, x, t, noise, torch.tensor([3, 0]))["accuracy_top5"].tolist() == [1, 1]
    assert torch.equal(seen[0][0], process.q_sample(x, t, noise)) and seen[0][1].tolist() == [0, 39 * 25]
    assert classification_terms(5) == ("loss", "accuracy") and classification_terms(6) == tuple(found)


@pytest.mark.parametrize("steps", [2, 3, 4, 10, 1000])
def test_quarters_are_those_of_training(steps):
    found = quarters(steps)
    assert [t for part in found for t in part] == list(range(steps))
    assert [{4 * t // steps for t in part} for part in found] == [{quarter} for quarter in sorted({4 * t // steps
                                                                                                 for t in range(steps)})]


@pytest.mark.parametrize("pool", POOLS)
def test_its_layers_are_counted_as_torch_counts_them(pool):
    spec = classifier_spec(f"model.pool={pool}", "model.num_res_blocks=2")
    with torch.device("meta"):
        network = model_of(spec).network(spec)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, 8, 8, device="meta"), torch.empty(1, device="meta"))
    layers = kind_of(spec).layers(spec)[MODEL]
    assert sum(layer.parameters for layer in layers) == sum(each.numel() for each in network.parameters())
    assert sum(layer.tensors for layer in layers) == len(network.state_dict())
    assert sum(layer.flops for layer in layers) == pytest.approx(counter.get_total_flops(), rel=0.03)
    cost = run_cost(spec)
    assert (cost.sampling_flops, cost.chunks, cost.samples_bytes, cost.evaluate_forward_passes) == (0, 0, 0, 40)
    assert stored_bytes(spec) == 4 * cost.checkpoint_bytes


def test_two_ranks_train_it_and_a_killed_run_ends_with_the_same_bits(make_classifier, ranks):
    whole, killed = make_classifier(folder="whole"), make_classifier(folder="killed")
    assert ranks(whole, "train", 2) == 0, logs(whole)
    kill_in_training(killed, ranks)
    assert ranks(killed, "train", 2) == 0, logs(killed)
    for name in ("model.safetensors", "ema-0.9.safetensors"):
        ours, theirs = (load_file(run.checkpoint_folder(12) / name) for run in (killed, whole))
        assert ours and all(torch.equal(ours[key], theirs[key]) for key in theirs), name

    assert ranks(whole, "evaluate", 2) == 0, logs(whole)
    evaluation = whole.evaluation.read_bytes()
    terms = np.load(whole.path / "accuracy.npz")["cross_entropy"]
    for name in ("evaluation.json", "evaluated.json", "accuracy.npz"):
        (whole.path / name).unlink()
    assert ranks(whole, "evaluate", 1) == 0, logs(whole)
    assert whole.evaluation.read_bytes() == evaluation
    assert np.array_equal(np.load(whole.path / "accuracy.npz")["cross_entropy"], terms) and terms.shape == (10, 4)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A classifier that was trained and evaluated in this process; not to be changed."""
    return finished(CLASSIFIER_SPEC, tmp_path_factory.mktemp("classifier"), "train", "evaluate")


def test_tensorboard_shows_accuracy_by_quarter(evaluated):
    tags = set(events(evaluated).Tags()["scalars"])
    for term in ("loss", "accuracy", "accuracy_top5"):
        assert {term, *(f"{term}_q{quarter}" for quarter in range(4))} <= tags
    assert all(0 <= value <= 1 for value in scalars(evaluated, "accuracy").values())
    assert scalars(evaluated, "lr")[12] == pytest.approx(1e-3 / 12)


def test_evaluation_has_accuracy_and_cross_entropy_by_quarter(evaluated):
    found = read_json(evaluated.evaluation)
    assert found["samples"] is None and found["curve"] == [] and found["metrics"] == {}
    assert set(found["headline"]) == {"accuracy", "accuracy of the top 5", "cross entropy"}
    terms = np.load(evaluated.path / "accuracy.npz")
    for key in ("accuracy", "accuracy_top5", "cross_entropy"):
        assert found[key]["value"] == pytest.approx(terms[key].mean()) and found[key]["examples"] == 10
        assert found[key]["quarters"] == pytest.approx(terms[key].mean(axis=0)) and found[key]["data"] == "digits-test"
        assert found["headline"][{"accuracy_top5": "accuracy of the top 5", "cross_entropy": "cross entropy"}.get(key, key)] == (
            found[key]["value"])
    assert found["weights_sha256"] == sha256_of_weights(final_checkpoint(evaluated).weights("0.9"))
    # Nearly untrained: the cross entropy is near that of guessing, and does not vanish.
    assert terms["cross_entropy"].mean() == pytest.approx(np.log(10), rel=0.2)
    assert evaluated.is_done("evaluate") and evaluated.is_done("sample") and not evaluated.has_stage("sample")


def test_without_held_out_data_the_report_says_that_the_classifier_saw_the_examples(make_classifier, alone):
    run = make_classifier("evaluate.data=null", "evaluate.examples=100000", "train.iterations=1", "evaluate.batch_size=500")
    assert alone(run, "train") == alone(run, "evaluate") == "done"
    found = read_json(run.evaluation)["accuracy"]
    assert found["data"] == "digits, on which it was trained" and found["examples"] == 1500


def test_its_weights_leave_and_come_back_in_the_layout_of_the_reference(evaluated, tmp_path, golden):
    export_weights(evaluated, tmp_path / "classifier.pt", 0.9)
    plain = torch.load(tmp_path / "classifier.pt", weights_only=True)
    weights = final_checkpoint(evaluated).weights("0.9")
    assert all(torch.equal(plain[key], weights[key]) for key in weights) and list(plain) == list(
        build_network(evaluated.spec).state_dict())
    back = read_weights(tmp_path / "classifier.pt", evaluated.spec)
    assert sha256_of_weights(back) == sha256_of_weights(weights)

    facts = golden.facts("classifiers")["attention"]
    spec = classifier_spec("data.image_size=16", "data.channels=3", "model.num_channels=32", "model.attention_resolutions=[16,8]",
                 "model.num_head_channels=16", f"data.num_classes={facts['num_classes']}")
    assert {key: list(value.shape) for key, value in build_network(spec).state_dict().items()} == facts["state_dict"]
    torch.save(golden.formula_weights(facts["state_dict"]), tmp_path / "published.pt")
    network = build_network(spec).eval()
    network.load_state_dict(read_weights(tmp_path / "published.pt", spec))
    numbers = golden.tensors("classifiers")
    logits = network(numbers["attention_x"], numbers["attention_t"])
    theirs = numbers["attention_logits"]
    assert (logits - theirs).norm() / theirs.norm() < 1e-5 and isinstance(network, HalfUNet)


def test_a_stage_that_it_does_not_have_is_refused(evaluated, ranks):
    log = evaluated.path / "sample-0.log"
    assert ranks(evaluated, "sample", 1) == 2
    assert "a run of kind noisy_classifier has no stage sample; its stages are train and evaluate" in log.read_text()
    assert not (evaluated.path / "failure.json").exists()
