import hashlib
import os

import numpy as np
import pytest
import torch

from jobs.data.dataset import ImageData, open_data
from jobs.data.sources import Reference
from jobs.errors import UserError
from jobs.evaluation.feature_classifier import load_classifier, trained_classifier
from jobs.evaluation.features import open_features
from jobs.parallel.group import process_group

TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the format that FID networks come in
ALL = {"pool", "spatial", "probabilities"}
DIGITS = Reference("digits", open_data("digits", 8, 1), {})


@pytest.fixture
def opened(tmp_path):
    """opened("pixels", image_size=8, channels=1) -> Features"""
    with process_group(tmp_path / "meeting", threads=1) as group:
        yield lambda features, image_size=8, channels=1, reference=DIGITS: open_features(
            str(features), image_size, channels, reference, tmp_path / ".cache", group)


def test_pixels_are_scaled_and_large_images_averaged_down(opened):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    small = images[:, :, ::2, ::2] // 4 * 4
    torch.testing.assert_close(opened("pixels", 32, 3).extract(small, ALL)["pool"], small.flatten(1) / 255)
    blocks = images.view(2, 3, 32, 2, 32, 2).float().mean(dim=(3, 5)) / 255
    features = opened("pixels", 64, 3)
    torch.testing.assert_close(features.extract(images, ALL)["pool"], blocks.flatten(1))
    assert features.widths == {"pool": 3072} and not features.comparable and "not comparable" in features.note
    features.check(["fid", "kid", "precision_recall"])
    with pytest.raises(UserError, match=r"metrics: sfid needs spatial features, but pixels gives pooled features \(3072\)"):
        features.check(["fid", "sfid"])


# TorchScript ----------------------------------------------------------------------------------------------------------

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
def test_a_torchscript_file_sees_bytes_in_three_channels(opened, tmp_path, network, factor, channels):
    torch.jit.script(network).save(tmp_path / "net.pt")
    features = opened(tmp_path / "net.pt", 6, channels)
    images = torch.randint(0, 256, (5, channels, 6, 6), dtype=torch.uint8)
    extracted = features.extract(images, {"pool"})
    torch.testing.assert_close(extracted, {"pool": factor * images.float().mean(dim=(2, 3)).expand(-1, 3)})
    sha256 = hashlib.sha256((tmp_path / "net.pt").read_bytes()).hexdigest()
    assert (features.name, features.sha256, features.widths) == ("net.pt", sha256, {"pool": 3})
    assert sha256 in features.note


class LikeNvidias(torch.nn.Module):
    """2048 features; otherwise probabilities, whose last layer has a bias that Inception Score leaves out."""

    def forward(self, x, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False):
        pool = x.float().flatten(1)[:, :3].repeat(1, 683)[:, :2048] / 255
        if return_features:
            return pool
        bias = torch.zeros(4) if no_output_bias else torch.arange(4).float()
        return (pool[:, :4] + bias).softmax(dim=1)


@TORCHSCRIPT
def test_the_common_inception_port_gives_pool_and_probabilities_without_bias(opened, tmp_path):
    file = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(LikeNvidias()).save(file)
    features = opened(file, 8, 3)
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    found = features.extract(images, ALL)
    torch.testing.assert_close(found["probabilities"], found["pool"][:, :4].softmax(dim=1))
    assert features.extract(images, {"pool"}).keys() == {"pool"}
    assert features.comparable and features.widths == {"pool": 2048, "probabilities": 4}
    features.check(["fid", "inception_score"])
    with pytest.raises(UserError, match=r"metrics: sfid needs spatial features, but inception-2015-12-05.pt gives pooled "
                                        r"features \(2048\), class probabilities \(4\)"):
        features.check(["sfid"])
    os.rename(file, tmp_path / "other.pt")
    assert not opened(tmp_path / "other.pt", 8, 3).comparable
    torch.jit.script(Plain()).save(file)
    assert not opened(file, 8, 3).comparable  # 3 features are not its


class AllThree(torch.nn.Module):
    def forward(self, x):
        x = x.float()
        return x.mean(dim=[2, 3]), x.repeat(1, 4, 1, 1), x.flatten(1)[:, :5] / 100


class Named(torch.nn.Module):
    def forward(self, x) -> dict[str, torch.Tensor]:
        return {"pool": x.float().mean(dim=[2, 3]), "logits": x.float().flatten(1)[:, :5] / 100}


@TORCHSCRIPT
def test_a_tuple_or_dictionary_names_the_other_features(opened, tmp_path):
    images = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    x = images.float()
    for network, widths in ((AllThree(), {"pool": 3, "spatial": 28, "probabilities": 5}),
                            (Named(), {"pool": 3, "probabilities": 5})):
        torch.jit.script(network).save(tmp_path / "net.pt")
        features = opened(tmp_path / "net.pt", 2, 3)
        found = features.extract(images, ALL)
        assert features.widths == widths and found.keys() == widths.keys()
        torch.testing.assert_close(found["pool"], x.mean(dim=(2, 3)))
        torch.testing.assert_close(found["probabilities"], (x.flatten(1)[:, :5] / 100).double().softmax(dim=1))
        if "spatial" in found:  # the first 7 of 12 channels
            torch.testing.assert_close(found["spatial"], x.repeat(1, 4, 1, 1)[:, :7].flatten(1))


class TwoOutputs(torch.nn.Module):
    def forward(self, x):
        return x, x


class OneRow(torch.nn.Module):
    def forward(self, x):
        return x.float().flatten(1)[:1]


class WantsFloats(torch.nn.Module):
    def forward(self, x):
        assert x.dtype == torch.float32
        return x


@TORCHSCRIPT
@pytest.mark.parametrize("network, message", [
    (TwoOutputs(), r"must give one tensor of features for 2 images, \(pool, spatial, logits\) or a dictionary of these, not "
                   r"\(tensor \[2, 3, 8, 8\], tensor \[2, 3, 8, 8\]\)"),
    (OneRow(), r"must give one tensor of features for 2 images, .* not {pool: tensor \[1, 192\]}"),
    (WantsFloats(), r"fails on uint8 images \[2, 3, 8, 8\]: .*AssertionError"),
])
def test_a_network_that_is_no_feature_extractor_is_named_at_once(opened, tmp_path, network, message):
    torch.jit.script(network).save(tmp_path / "net.pt")
    with pytest.raises(UserError, match=f"^{tmp_path / 'net.pt'}: {message}"):
        opened(tmp_path / "net.pt")


@TORCHSCRIPT
def test_what_is_not_a_torchscript_file_is_named(opened, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "words.pt").write_text("an error page\n")
    for name in ("weights.pt", "empty.pt", "words.pt"):
        with pytest.raises(UserError, match=f"^{tmp_path / name}: not a TorchScript file") as caught:
            opened(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="missing.pt: no such file; .* is `pixels`, `classifier` or a TorchScript file"):
        opened(tmp_path / "missing.pt")


# The classifier -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("cache")
    return cache, trained_classifier(open_data("digits", 8, 1), cache)


def test_the_classifier_knows_digits_it_has_not_seen(trained):
    network, accuracy = load_classifier(trained[1])
    test = open_data("digits-test", 8, 1)
    with torch.no_grad():
        pool, spatial, logits = network(torch.from_numpy(test.images).permute(0, 3, 1, 2))
    assert pool.shape == (297, 64) and spatial.shape == (297, 7, 4, 4) and logits.shape == (297, 10)
    right = (logits.argmax(dim=1).numpy() == test.labels).mean()
    assert right > 0.85 and accuracy > 0.93
    assert 0.5 < pool.square().mean().item() < 2 and 0.3 < spatial.square().mean().item() < 3


def test_the_classifier_is_trained_once_for_the_same_data_and_always_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.evaluation.feature_classifier.STEPS", 20)
    files = []
    for seed, folder in enumerate("ab"):
        torch.manual_seed(seed)
        files.append(trained_classifier(open_data("digits", 8, 1), tmp_path / folder))
    file, again = files
    assert again.name == file.name and again.read_bytes() == file.read_bytes()
    before = file.stat().st_mtime_ns
    monkeypatch.setattr("jobs.evaluation.feature_classifier._train", None)  # not called
    assert trained_classifier(open_data("digits", 8, 1), tmp_path / "a") == file and file.stat().st_mtime_ns == before


def test_a_damaged_or_other_classifier_is_trained_anew(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.evaluation.feature_classifier.STEPS", 2)
    data = open_data("digits", 8, 1)
    (tmp_path / trained[1].name).write_bytes(trained[1].read_bytes()[:1000])
    file = trained_classifier(data, tmp_path)
    assert file.name == trained[1].name
    load_classifier(file)
    other = ImageData(data.images, (data.labels + 1) % 10, [], "other labels")
    assert trained_classifier(other, tmp_path) != file


def test_a_classifier_needs_labels_and_images(opened):
    unlabelled = Reference("x", ImageData(np.zeros((4, 8, 8, 1), np.uint8), None, [], "x.h5"), {})
    with pytest.raises(UserError, match="x.h5: has no labels, which features: classifier is trained on"):
        opened("classifier", reference=unlabelled)
    with pytest.raises(UserError, match="fid.npz: has no images"):
        opened("classifier", reference=Reference("fid.npz", None, {}))


def test_features_of_the_classifier(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.evaluation.feature_classifier.STEPS", 2)
    features = opened("classifier")
    assert features.widths == {"pool": 64, "spatial": 112, "probabilities": 10} and not features.comparable
    assert "trained on digits" in features.note and "not comparable" in features.note
    (file,) = (tmp_path / ".cache").iterdir()
    assert features.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    found = features.extract(torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8), ALL)
    torch.testing.assert_close(found["probabilities"].sum(dim=1), torch.ones(3, dtype=torch.float64))
