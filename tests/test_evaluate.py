import hashlib
import json
import os
import signal

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import jobs.evaluate
from diffusion.losses import bits_per_dim
from jobs.build import build_diffusion, build_network
from jobs.checkpoints import save_checkpoint
from jobs.data import open_data
from jobs.distributed import process_group
from jobs.errors import UserError
from jobs.evaluate import moments
from jobs.features import open_features
from jobs.frechet import Moments, frechet_distance
from jobs.pictures import to_x
from jobs.randomness import generator_for, randn_from

CPU = torch.device("cpu")


def noisy_network(spec, seed=0):
    """All its layers filled with noise, so that every path through it shows."""
    torch.manual_seed(seed)
    network = build_network(spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.fixture
def sampled(make_run, alone):
    """sampled("sample.num_samples=5", ...) -> a run with weights of noise and its samples."""
    def make(*overrides, seed=0, folder="runs"):
        run = make_run(*overrides, folder=folder)
        weights = noisy_network(run.spec, seed).state_dict()
        save_checkpoint(run, run.spec.train.iterations, weights, {0.9: weights}, None)
        assert alone(run, "sample") == "done"
        return run
    return make


def result(run):
    return json.loads(run.evaluation.read_text())


def terms(run):
    with np.load(run.path / "bits_per_dim.npz") as file:
        return dict(file)


# Fréchet distance -----------------------------------------------------------------------------------------------------

def rotation(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def spread(size, seed):
    """Variances over four orders of magnitude."""
    return 10 ** (4 * torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2)


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_distance_of_commuting_covariances_has_a_closed_form(size):
    # Covariances with the same eigenvectors: |m1 - m2|^2 + sum of (sigma1 - sigma2)^2 along them.
    v1, v2, turn = spread(size, 1), spread(size, 2), rotation(size)
    mean1, mean2 = torch.linspace(-1, 2, size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    expected = ((mean1 - mean2).square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()).item()
    assert frechet_distance(mean1, v1.diag(), mean2, v2.diag()) == pytest.approx(expected, rel=1e-8)
    rotated = frechet_distance(turn @ mean1, turn @ v1.diag() @ turn.T, turn @ mean2, turn @ v2.diag() @ turn.T)
    assert rotated == pytest.approx(expected, rel=1e-8)


def test_distance_of_covariances_that_do_not_commute():
    # 2x2: tr (C1 C2)^(1/2) = sqrt(tr C1 C2 + 2 sqrt(det C1 C2)).
    c1 = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    c2 = torch.tensor([[1.0, -0.7], [-0.7, 3.0]], dtype=torch.float64)
    root = torch.sqrt((c1 @ c2).trace() + 2 * torch.sqrt(c1.det() * c2.det()))
    expected = (c1.trace() + c2.trace() - 2 * root).item()
    zero = torch.zeros(2, dtype=torch.float64)
    assert frechet_distance(zero, c1, zero, c2) == pytest.approx(expected, rel=1e-8)
    # Any number of dimensions: with an orthogonal map of both, and independent further ones in common, it stays.
    big1, big2 = torch.block_diag(c1, torch.eye(5)), torch.block_diag(c2, torch.eye(5))
    turn, zero = rotation(7), torch.zeros(7, dtype=torch.float64)
    assert frechet_distance(zero, turn @ big1 @ turn.T, zero, turn @ big2 @ turn.T) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count, size", [(2, 5), (10, 64), (30, 200)])
def test_singular_covariances(count, size):
    rng = np.random.default_rng(0)
    fitted = []
    for _ in range(2):
        fit = Moments(CPU)
        fit.add(torch.from_numpy(rng.random((count, size))))
        fitted.append(fit.mean_and_covariance())
    one, two = fitted
    distance = frechet_distance(*one, *two)
    assert np.isfinite(distance) and distance > 0
    assert frechet_distance(*two, *one) == pytest.approx(distance, rel=1e-7)
    assert frechet_distance(*one, *one) == pytest.approx(0, abs=1e-7 * one[1].trace().item())


def test_distance_of_covariances_of_rank_one_or_none():
    a, b = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 5.0, 12.0], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    expected = (a @ a + b @ b - 2 * (a @ b).abs()).item()
    assert frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b)) == pytest.approx(expected, rel=1e-7)
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert frechet_distance(a, nothing, zero, nothing) == pytest.approx(25, rel=1e-12)


@given(data=st.data(), count=st.integers(2, 60), size=st.integers(1, 8), mean=st.sampled_from([0, 1, 1000]))
@settings(max_examples=60, deadline=None)
def test_moments_are_numpys_however_features_are_batched(data, count, size, mean):
    features = np.random.default_rng(count).normal(mean, 1, (count, size)).astype(np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    streamed = Moments(CPU)
    for part in np.split(features, cuts):
        streamed.add(torch.from_numpy(part))
    ours, covariance = (tensor.numpy() for tensor in streamed.mean_and_covariance())
    np.testing.assert_allclose(ours, features.astype(np.float64).mean(axis=0), rtol=1e-12, atol=1e-12)
    expected = np.cov(features.astype(np.float64), rowvar=False).reshape(size, size)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-8)


def test_one_image_has_no_covariance(sampled, alone):
    run = sampled("sample.num_samples=1")
    with pytest.raises(UserError, match="evaluate.metrics: fid: a covariance needs at least two images"):
        alone(run, "evaluate")
    assert not run.evaluation.exists()


# Features -------------------------------------------------------------------------------------------------------------

TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the format that FID networks come in


class Plain(torch.nn.Module):
    def forward(self, x):
        return x.float().mean(dim=[2, 3], keepdim=True)


class WithOption(torch.nn.Module):
    def forward(self, x, return_features: bool = False):
        assert x.dtype == torch.uint8 and x.dim() == 4 and x.size(1) == 3
        scores = x.float().mean(dim=[2, 3])
        return scores * 2 if return_features else scores * 0


class Counts(torch.nn.Module):
    """Differs between training and evaluation mode."""

    def forward(self, x):
        return x.float().mean(dim=[2, 3]) * (0.0 if self.training else 1.0)


@TORCHSCRIPT
@pytest.mark.parametrize("network, factor", [(Plain(), 1), (WithOption(), 2), (Counts(), 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchscript_file_sees_bytes_in_three_channels(tmp_path, network, factor, channels):
    torch.jit.script(network).save(tmp_path / "net.pt")
    features = open_features(str(tmp_path / "net.pt"), CPU)
    images = torch.randint(0, 256, (5, channels, 6, 6), dtype=torch.uint8)
    extracted = features.extract(images)
    expected = factor * images.float().mean(dim=(2, 3)).expand(-1, 3)
    torch.testing.assert_close(extracted, expected)
    sha256 = hashlib.sha256((tmp_path / "net.pt").read_bytes()).hexdigest()
    assert (features.name, features.sha256) == ("net.pt", sha256)


@TORCHSCRIPT
def test_what_is_not_a_torchscript_file_is_named(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "words.pt").write_text("an error page\n")
    for name in ("weights.pt", "empty.pt", "words.pt"):
        with pytest.raises(UserError, match=f"^{tmp_path / name}: not a TorchScript file") as caught:
            open_features(str(tmp_path / name), CPU)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="missing.pt: no such file; .* is `pixels` or a TorchScript file"):
        open_features(str(tmp_path / "missing.pt"), CPU)


class TwoOutputs(torch.nn.Module):
    def forward(self, x):
        return x, x


class WantsFloats(torch.nn.Module):
    def forward(self, x):
        assert x.dtype == torch.float32
        return x


@TORCHSCRIPT
@pytest.mark.parametrize("network, message", [
    (TwoOutputs(), "net.pt: must give one tensor of features, not tuple"),
    (WantsFloats(), r"net.pt: fails on uint8 images \[10, 3, 8, 8\]: .*AssertionError"),
])
def test_a_network_that_is_no_feature_extractor_is_named(sampled, alone, tmp_path, network, message):
    torch.jit.script(network).save(tmp_path / "net.pt")
    run = sampled(f"evaluate.features={tmp_path / 'net.pt'}", "evaluate.batch_size=16", "diffusion.diffusion_steps=5")
    with pytest.raises(UserError, match=message):
        alone(run, "evaluate")


def test_pixels_are_scaled_and_large_images_averaged_down():
    features = open_features("pixels", CPU)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    small = images[:, :, ::2, ::2] // 4 * 4
    torch.testing.assert_close(features.extract(small), small.flatten(1) / 255)
    blocks = images.view(2, 3, 32, 2, 32, 2).float().mean(dim=(3, 5)) / 255
    torch.testing.assert_close(features.extract(images), blocks.flatten(1))


@TORCHSCRIPT
def test_the_file_of_features_is_recorded_with_its_number(sampled, alone, tmp_path):
    torch.jit.script(WithOption()).save(tmp_path / "small-net.pt")
    run = sampled(f"evaluate.features={tmp_path / 'small-net.pt'}", "evaluate.nll_examples=0")
    assert alone(run, "evaluate") == "done"
    found = result(run)
    sha256 = hashlib.sha256((tmp_path / "small-net.pt").read_bytes()).hexdigest()
    assert (found["fid"]["features"], found["fid"]["features_sha256"]) == ("small-net.pt", sha256)
    assert sha256 in found["fid"]["note"]
    assert found["headline"] == {"fid (small-net.pt)": found["fid"]["value"]}
    assert "bits_per_dim" not in found and not (run.path / "bits_per_dim.npz").exists()


# The stage ------------------------------------------------------------------------------------------------------------

def test_distance_of_samples_from_the_data_by_another_way(sampled, alone):
    run = sampled("evaluate.nll_examples=0", "evaluate.batch_size=7", "sample.num_samples=10")
    assert alone(run, "evaluate") == "done"
    with h5py.File(run.samples_h5, "r") as file:
        ours = file["images"][:].reshape(10, -1) / 255
    theirs = open_data("digits", 8, 1).images.reshape(1500, -1) / 255
    c1, c2 = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real.sum()
    expected = ((ours.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    found = result(run)["fid"]
    assert found.pop("value") == pytest.approx(expected, rel=1e-5)
    assert "not comparable with Inception FID" in found.pop("note")
    assert found == {"features": "pixels", "features_sha256": None, "samples": 10, "reference": "digits",
                     "reference_images": 1500}


def test_bits_per_dim_of_every_held_out_example_once_and_in_order(sampled, alone):
    run = sampled("evaluate.nll_examples=7", "evaluate.batch_size=3", "evaluate.metrics=[]")
    assert alone(run, "evaluate") == "done"
    found = terms(run)
    assert {name: array.shape for name, array in found.items()} == {
        "total": (7,), "prior": (7,), "vb": (40,), "mse": (40,), "xstart_mse": (40,)}

    spec, data = run.spec, open_data("digits-test", 8, 1, 10)
    network, diffusion = noisy_network(spec), build_diffusion(spec, "cpu")
    bounds = []
    for number, start in enumerate((0, 3, 6)):
        rows = slice(start, min(start + 3, 7))
        x = to_x(torch.from_numpy(data.images[rows])).permute(0, 3, 1, 2)
        randn = randn_from(generator_for("cpu", 0, "bits per dim", number), 3)
        bounds.append(bits_per_dim(diffusion, network, x, randn,
                                   model_kwargs={"y": torch.from_numpy(data.labels[rows])}))
    np.testing.assert_allclose(found["total"], torch.cat([bound.total for bound in bounds]).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["prior"], torch.cat([bound.prior for bound in bounds]).numpy(), rtol=1e-4)
    for name in ("vb", "mse", "xstart_mse"):  # column t belongs to t
        expected = torch.cat([getattr(bound, name) for bound in bounds]).mean(0)
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-4)
    assert found["xstart_mse"][0] < 0.1 * found["xstart_mse"][-1] and found["vb"][0] > 10 * found["vb"][-1]

    assert found["total"].mean() == pytest.approx(found["vb"].sum() + found["prior"].mean(), rel=1e-5)
    summary = result(run)["bits_per_dim"]
    assert summary == {"value": pytest.approx(found["total"].mean()), "prior": pytest.approx(found["prior"].mean()),
                       "standard_error": pytest.approx(found["total"].std(ddof=1) / 7 ** 0.5), "examples": 7,
                       "data": "digits-test"}
    assert result(run)["headline"] == {"bits/dim": summary["value"]}


def test_two_processes_find_what_one_does(sampled, ranks, alone):
    # The second process has no batch of samples of its own; the first has the short batch of held-out examples.
    run = sampled("sample.num_samples=5", "evaluate.batch_size=8", "evaluate.nll_examples=17")
    assert ranks(run, "evaluate", 2) == 0
    two, two_terms = result(run), terms(run)
    assert alone(run, "evaluate") == "done"
    one, one_terms = result(run), terms(run)
    assert two["fid"].pop("value") == pytest.approx(one["fid"].pop("value"), rel=1e-5)
    for name in one_terms:
        np.testing.assert_allclose(two_terms[name], one_terms[name], rtol=1e-5, atol=1e-9)
    assert len(two_terms["total"]) == 17
    for either in (one, two):
        either["headline"].pop("fid (pixels)")
        for name in ("value", "prior", "standard_error"):
            either["bits_per_dim"][name] = round(either["bits_per_dim"][name], 5)
        either["headline"]["bits/dim"] = round(either["headline"]["bits/dim"], 5)
    assert one == two


def test_one_example_has_no_standard_error(sampled, alone):
    run = sampled("evaluate.nll_examples=1", "evaluate.metrics=[]", "diffusion.diffusion_steps=5")
    assert alone(run, "evaluate") == "done"
    assert result(run)["bits_per_dim"]["standard_error"] is None


def test_more_examples_than_there_are_are_refused(sampled, alone):
    run = sampled("evaluate.nll_examples=298", "evaluate.metrics=[]", "diffusion.diffusion_steps=5")
    with pytest.raises(UserError, match="evaluate.nll_examples: 298, but digits-test has 297 examples"):
        alone(run, "evaluate")
    assert not run.evaluation.exists()
    assert json.loads(run.progress.read_text())["state"] == "failed"


def test_samples_that_are_missing_damaged_or_of_other_weights_are_refused(sampled, alone):
    run, other = sampled(folder="a"), sampled(seed=1, folder="b")
    samples = run.samples_h5.read_bytes()
    run.samples_h5.write_bytes(other.samples_h5.read_bytes())
    with pytest.raises(UserError, match=f"{run.samples_h5}: made with other weights or settings: weights_sha256"):
        alone(run, "evaluate")
    run.samples_h5.write_bytes(samples[:-1])
    with pytest.raises(UserError, match=f"{run.samples_h5}: cannot be read .damaged"):
        alone(run, "evaluate")
    run.samples_h5.unlink()
    with pytest.raises(UserError, match=f"{run.samples_h5}: missing; run `iddpm sample {run.path}`"):
        alone(run, "evaluate")
    assert not run.evaluation.exists()


def test_a_reference_of_another_kind_is_refused(sampled, alone, tmp_path):
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file["images"] = np.zeros((3, 16, 16, 1), np.uint8)
    run = sampled(f"evaluate.reference={tmp_path / 'large.h5'}")
    with pytest.raises(UserError, match="large.h5: images are 16x16, but image_size is 8"):
        alone(run, "evaluate")


def test_being_asked_to_stop_leaves_no_result(sampled, alone, monkeypatch):
    run = sampled("evaluate.metrics=[]")

    def interrupted(*arguments, on_step, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return bits_per_dim(*arguments, on_step=on_step, **options)
    with monkeypatch.context() as patch:
        patch.setattr(jobs.evaluate, "bits_per_dim", interrupted)
        assert alone(run, "evaluate") == "interrupted"
    progress = json.loads(run.progress.read_text())
    assert (progress["stage"], progress["state"], progress["done"]) == ("evaluate", "interrupted", 1)
    assert not run.evaluation.exists() and not (run.path / "bits_per_dim.npz").exists()
    assert alone(run, "evaluate") == "done"
    assert len(terms(run)["total"]) == 6


def test_tensorboard_has_the_metrics_at_the_last_iteration_and_a_row_of_settings(sampled, alone):
    run = sampled()
    assert alone(run, "evaluate") == "done"
    found = result(run)
    assert list(found["headline"]) == ["fid (pixels)", "bits/dim"]
    events = EventAccumulator(str(run.tensorboard)).Reload()
    for name, tag in (("fid (pixels)", "metrics/fid_pixels"), ("bits/dim", "metrics/bits_dim")):
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        assert points == [(12, pytest.approx(found["headline"][name], rel=1e-6))]
    start = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    row = start.session_start_info.hparams
    assert row["noise_schedule"].string_value == "cosine"
    assert (row["lr"].number_value, row["iterations"].number_value) == (1e-3, 12)


def test_moments_of_a_file_do_not_depend_on_the_batch(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 1), np.uint8)
    with process_group(tmp_path / "meeting", threads=1) as group:
        found = [moments(images, open_features("pixels", CPU), group, size).mean_and_covariance()
                 for size in (1, 5, 23, 100)]
    for mean, covariance in found:
        np.testing.assert_allclose(mean, images.reshape(23, -1).mean(0) / 255, rtol=1e-6)
        np.testing.assert_allclose(covariance, np.cov(images.reshape(23, -1) / 255, rowvar=False), atol=1e-7)
