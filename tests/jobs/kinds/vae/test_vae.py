"""Runs of a variational autoencoder: trained on one process and on two, killed, sampled, evaluated, reported."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from noisy_runs import same
from safetensors.torch import load_file
from small_runs import finished, kill_in_training, logs
from small_training import DIGITS, after_steps, events, scalars, train_some
from small_vae import DENSITY, VAE_SPEC, vae_spec

from jobs.data.dataset import open_data
from jobs.evaluation.reconstruction import Reconstructions
from jobs.kinds.foreign_weights import open_weights
from jobs.kinds.protocol import Draw, Examples, model_of, reconstructing
from jobs.kinds.vae.kind import ELBO, ELBO_KEY
from jobs.kinds.weight_files import export_weights
from jobs.report.write import report
from jobs.spec.kinds import MODEL, kind_of
from jobs.storage.files import read_json

CPU = torch.device("cpu")


# Training

@pytest.mark.parametrize("overrides", [[], [*DENSITY, "vae.latent=spatial", "train.microbatch=3"]])
def test_two_ranks_have_equal_bits_and_the_gradient_of_one(make_vae, group, overrides):
    run = make_vae(*overrides)
    state, norms = train_some(run, group, 1)
    first, second = after_steps(run, 2, steps=1)
    for key in ("weights", "averages", "gradients"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
    assert first["norms"][0][MODEL] == pytest.approx(norms[0], rel=1e-5)
    for ours, theirs in zip(first["gradients"][MODEL], state.parts[MODEL].parameters, strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_killed_run_ends_with_the_same_bits_and_any_ranks_draw_the_same_samples(make_vae, ranks):
    whole, killed = make_vae(folder="whole"), make_vae(folder="killed")
    assert ranks(whole, "train", 2) == 0, logs(whole)
    kill_in_training(killed, ranks)
    assert ranks(killed, "train", 2) == 0, logs(killed)
    for name in ("model.safetensors", "ema-0.9.safetensors"):
        ours, theirs = (load_file(run.checkpoint_folder(12) / name) for run in (killed, whole))
        assert {key.partition(".")[0] for key in ours} == {"encoder", "decoder"}
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert ranks(whole, "sample", 2) == 0, logs(whole)
    assert ranks(killed, "sample", 1) == 0, logs(killed)
    assert same(whole, killed)
    for run, count in ((whole, 2), (killed, 1)):
        assert ranks(run, "evaluate", count) == 0, logs(run)
    one, two = (read_json(run.evaluation) for run in (killed, whole))
    for key in ("fid", "reconstruction_fid"):
        assert one["metrics"][key]["value"] == pytest.approx(two["metrics"][key]["value"], rel=1e-9)
    assert one[ELBO_KEY]["value"] == pytest.approx(two[ELBO_KEY]["value"], rel=1e-9)


def inputs_at(step: int, share: slice = slice(0, 12), **settings):
    spec = vae_spec(*(f"{key}={value}" for key, value in settings.items()))
    kind = model_of(spec).trainable(spec, CPU)
    examples = Examples(torch.zeros(share.stop - share.start, 1, 8, 8), torch.zeros(share.stop - share.start, dtype=torch.int64))
    return kind.inputs(examples, Draw(spec.train.seed, step, 12, share, CPU))


def test_noise_is_that_of_the_step_and_the_place_in_the_batch():
    whole, part, later = inputs_at(0), inputs_at(0, slice(4, 8)), inputs_at(1)
    assert torch.equal(whole.noise[4:8], part.noise) and whole.noise.shape == (12, 6)
    assert (whole.noise != later.noise).any(dim=1).all()


def test_the_divergence_counts_more_from_step_to_step_until_the_warm_up_ends():
    assert [inputs_at(step).kl_weight[0].item() for step in (0, 2, 5, 9)] == pytest.approx([1 / 6, 0.5, 1, 1])
    assert inputs_at(0, **{"vae.kl_warmup": 0}).kl_weight[0] == 1


@pytest.mark.parametrize("overrides", [[], DENSITY])
def test_the_loss_is_the_bound_and_its_parts_are_logged(overrides):
    torch.manual_seed(0)
    spec = vae_spec(*overrides)
    kind, images = model_of(spec).trainable(spec, CPU), torch.rand(12, 1, 8, 8) * 2 - 1
    found = {}
    for step in (0, 11):
        inputs = kind.inputs(Examples(images, torch.arange(12) % 10), Draw(0, step, 12, slice(0, 12), CPU))
        found[step] = kind.losses(MODEL, kind.networks, inputs)
        assert set(found[step]) == set(kind.terms[MODEL]) and all(each.shape == (12,) for each in found[step].values())
    torch.testing.assert_close(found[11]["loss"], found[11]["elbo_reconstruction"] + found[11]["elbo_kl"])
    torch.testing.assert_close(found[0]["loss"], found[0]["elbo_reconstruction"] + found[0]["elbo_kl"] / 6)
    assert (found[0]["elbo_kl"] > 0).all() and (found[0]["active_latents"] <= 6).all()
    assert found[0]["sigma"].unique().numel() == (1 if overrides else 12)


# What comes of it

@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """An autoencoder that was trained, sampled and evaluated in this process; not to be changed."""
    return finished(VAE_SPEC, tmp_path_factory.mktemp("vae"), "train", "sample", "evaluate")


def average_of(run) -> torch.nn.Module:
    network = model_of(run.spec).network(run.spec)
    network.load_state_dict(load_file(run.checkpoint_folder(12) / "ema-0.9.safetensors"))
    return network.eval()


def test_tensorboard_shows_the_parts_of_the_bound_reconstructions_and_samples(evaluated):
    tags = events(evaluated).Tags()
    assert {"loss", "elbo_reconstruction", "elbo_kl", "active_latents", "sigma", "grad_norm"} <= set(tags["scalars"])
    parts = [scalars(evaluated, tag)[12] for tag in ("elbo_reconstruction", "elbo_kl", "loss")]
    assert parts[0] + parts[1] == pytest.approx(parts[2], rel=1e-5)
    assert {"reconstructions", "samples_ema_0.9"} <= {tag.partition("/")[0] for tag in tags["images"]}


def test_previews_show_originals_beside_their_reconstructions(evaluated):
    kind = model_of(evaluated.spec).trainable(evaluated.spec, CPU)
    kind.first_previews(DIGITS)
    network = average_of(evaluated)
    own = kind.network.state_dict()
    shown = kind.previews({MODEL: network.state_dict()})
    pairs = shown["reconstructions"].images
    assert np.array_equal(pairs[0], DIGITS.images[0]) and np.array_equal(pairs[-2], DIGITS.images[-1]) and len(pairs) == 32
    module = reconstructing(evaluated.spec)
    again = Reconstructions(evaluated.spec, open_data("digits", 8, 1, 10), lambda: network, module,
                            SimpleNamespace(device=CPU))
    assert again.rows.tolist() == [150 * each for each in range(10)] and np.array_equal(again[0:1][0], pairs[1])
    assert all(torch.equal(own[key], value) for key, value in kind.network.state_dict().items())


def test_a_sample_is_the_rounded_mean_at_a_latent_of_the_prior(evaluated):
    spec = evaluated.spec
    with h5py.File(evaluated.samples_h5) as file:
        images, labels = file["images"][:], file["labels"][:]
        assert "no draw" in file.attrs["a_sample_is"]
    assert labels.tolist() == list(range(10))
    drawn = []
    network = average_of(evaluated)
    (step,) = model_of(spec).generate(spec, network, CPU, lambda x: drawn.append(torch.randn_like(x)) or drawn[-1],
                                      labels[:4], 4, None)
    mean, _ = network.decoder(drawn[0], torch.from_numpy(labels[:4]))
    assert step.left == 0 and step.x.min() >= -1 and torch.equal(step.x, mean.detach().clamp(-1, 1))
    assert images.dtype == np.uint8 and images.shape == (10, 8, 8, 1)


def test_evaluation_has_the_bound_and_the_distance_of_reconstructions_and_the_report_shows_them(evaluated):
    found = read_json(evaluated.evaluation)
    assert found["headline"].keys() == {"fid (pixels)", "reconstruction fid (pixels)", ELBO}
    assert found["metrics"]["reconstruction_fid"]["value"] != found["metrics"]["fid"]["value"]
    assert found["metrics"]["reconstruction_fid"]["note"].startswith("10 images of digits, encoded and decoded")
    (entry,) = found["curve"]
    assert (entry["sampling_steps"], entry["evaluations"]) == (1, 1) and "rounded" in entry["a_sample_is"]
    assert entry["metrics"]["reconstruction_fid"] == found["metrics"]["reconstruction_fid"]["value"]
    bound = found[ELBO_KEY]
    assert bound["value"] == pytest.approx(bound["reconstruction"] + bound["kl"]) and bound["latents"] == 6
    with np.load(evaluated.path / f"{ELBO_KEY}.npz") as terms:
        assert terms["total"].shape == (6,) and terms["latent_kl"].shape == (6,)
        np.testing.assert_allclose(terms["total"], terms["reconstruction"] + terms["kl"])
        assert bound["value"] == pytest.approx(terms["total"].mean())
        assert bound["kl"] == pytest.approx(terms["latent_kl"].sum() / 64 / np.log(2))
    page = report(evaluated.path.parent).read_text()
    assert "reconstruction fid" in page and ELBO in page and "Kingma" in page


def test_a_density_has_no_number_that_looks_like_bits_per_dim():
    spec = vae_spec(*DENSITY)
    assert kind_of(spec).numbers(spec) == [] and "σ-VAE" in kind_of(spec).description(spec).source
    assert [number.key for number in kind_of(vae_spec()).numbers(vae_spec())] == [ELBO_KEY]


def test_its_weights_leave_and_come_back(evaluated, tmp_path):
    for name in ("x.safetensors", "x.pt"):
        export_weights(evaluated, tmp_path / name, 0.9)
        found = open_weights(tmp_path / name, evaluated.spec)
        expected = load_file(evaluated.checkpoint_folder(12) / "ema-0.9.safetensors")
        assert found.weights.keys() == expected.keys()
        assert all(torch.equal(found.weights[key], expected[key]) for key in expected)
    open_weights(tmp_path / "x.safetensors", vae_spec("vae.kl_warmup=0"))  # what training alone depends on may differ
