import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from jobs.errors import UserError
from jobs.evaluation.score import score
from slurm.cli.score import print_score

ALL = ("fid", "sfid", "inception_score", "precision_recall", "kid")


class Three(torch.nn.Module):
    """Pool, spatial maps and logits that are plain functions of the pixels."""

    def forward(self, x):
        x = x.float() / 255
        return x.mean(dim=[2, 3]), x[:, :, :2, :2], 9 * x.flatten(1)[:, :5]


@pytest.fixture
def network(tmp_path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(Three()).save(tmp_path / "three.pt")
    return str(tmp_path / "three.pt")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 60, 4, 4, 3), np.uint8)


def run_score(tmp_path, samples, reference, features, metrics):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        return score(str(samples), str(reference), features, metrics, tmp_path / ".cache", batch_size=13, threads=1)


def frechet(m1, c1, m2, c2):
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real.sum()
    return ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root


def test_every_metric_of_an_npz_against_an_npz(tmp_path, network, images):
    ours, theirs = images[0], images[1] // 2
    np.savez(tmp_path / "ours.npz", ours)
    np.savez(tmp_path / "theirs.npz", arr_0=theirs)
    found = run_score(tmp_path, tmp_path / "ours.npz", tmp_path / "theirs.npz", network, ALL)
    pools, spatials = zip(*((x.mean(axis=(1, 2)) / 255, x[:, :2, :2].reshape(60, -1) / 255) for x in (ours, theirs)), strict=True)
    fits = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in pools]
    assert found["metrics"]["fid"]["value"] == pytest.approx(frechet(*fits[0], *fits[1]), rel=1e-4)
    fits = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in spatials]
    assert found["metrics"]["sfid"]["value"] == pytest.approx(frechet(*fits[0], *fits[1]), rel=1e-4)
    logits = 9 * (ours.transpose(0, 3, 1, 2).reshape(60, -1)[:, :5] / 255)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean())
    assert found["metrics"]["inception_score"]["value"] == pytest.approx(expected, rel=1e-5)
    assert list(found["metrics"]) == ["fid", "sfid", "inception_score", "precision", "recall", "kid"]
    assert list(found["headline"]) == [f"{name} (three.pt)" for name in
                                       ("fid", "sfid", "inception score", "precision", "recall", "kid")]
    assert (found["samples"], found["reference"]["images"]) == (60, 60)


def test_the_share_of_labels_that_the_network_sees(tmp_path, network, images):
    ours = tmp_path / "ours.npz"
    logits = images[0].transpose(0, 3, 1, 2).reshape(60, -1)[:, :5].astype(int)
    labels = logits.argmax(axis=1)
    labels[:15] = (labels[:15] + 1) % 5
    np.savez(ours, images[0], labels)
    np.savez(tmp_path / "theirs.npz", images[1])
    found = run_score(tmp_path, ours, tmp_path / "theirs.npz", network, ["label_accuracy"])
    assert found["headline"] == {"label seen (three.pt)": 0.75}
    low, high = found["metrics"]["label_accuracy"]["interval"]
    assert 0.6 < low < 0.75 < high < 0.9
    np.savez(tmp_path / "theirs.npz", images[1], np.arange(60) % 6)
    with pytest.raises(UserError, match=r"one output for each of 6 classes, .* three.pt gives class probabilities \(5\)"):
        run_score(tmp_path, ours, tmp_path / "theirs.npz", network, ["label_accuracy"])
    np.savez(ours, images[0])
    with pytest.raises(UserError, match=r"ours.npz: has no labels \(/labels in an HDF5 file, arr_1 in an .npz\), which label"):
        score(str(ours), str(tmp_path / "theirs.npz"), network, ["label_accuracy"], tmp_path, 8, 1)


def test_given_statistics_stand_for_the_reference(tmp_path, network, images):
    np.savez(tmp_path / "ours.npz", images[0])
    np.savez(tmp_path / "theirs.npz", images[1])
    x = images[1].mean(axis=(1, 2)) / 255
    np.savez(tmp_path / "edm.npz", mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False))
    np.savez(tmp_path / "VIRTUAL.npz", mu=x.mean(axis=0) + 1, sigma=np.cov(x, rowvar=False), arr_0=images[1])
    by_images, by_edm, by_virtual = (run_score(tmp_path, tmp_path / "ours.npz", tmp_path / name, network, ["fid"])
                                     for name in ("theirs.npz", "edm.npz", "VIRTUAL.npz"))
    assert by_edm["metrics"]["fid"]["value"] == pytest.approx(by_images["metrics"]["fid"]["value"], rel=1e-4)
    shift = ((x.mean(axis=0) + 1 - images[0].mean(axis=(0, 1, 2)) / 255) ** 2).sum() \
        - ((x.mean(axis=0) - images[0].mean(axis=(0, 1, 2)) / 255) ** 2).sum()
    assert by_virtual["metrics"]["fid"]["value"] - by_images["metrics"]["fid"]["value"] == pytest.approx(shift, rel=1e-4)
    assert (by_edm["reference"]["images"], by_virtual["reference"]["images"]) == (None, 60)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UserError, match="wide.npz: mu has 2048 values, but three.pt gives 3"):
        run_score(tmp_path, tmp_path / "ours.npz", tmp_path / "wide.npz", network, ["fid"])
    with pytest.raises(UserError, match="edm.npz: has no images .arr_0., which kid needs"):
        score(str(tmp_path / "ours.npz"), str(tmp_path / "edm.npz"), network, ["kid"], tmp_path, 8, 1)


def test_the_reference_is_computed_once_and_again_when_it_changed_or_was_damaged(tmp_path, network, images, monkeypatch):
    for name, array in (("ours", images[0]), ("theirs", images[1])):
        np.savez(tmp_path / f"{name}.npz", array)
    calls = []

    def counted():
        before = len(calls)
        with pytest.warns(DeprecationWarning, match="torch.jit"):
            found = score(str(tmp_path / "ours.npz"), str(tmp_path / "theirs.npz"), network, ["fid", "kid"],
                          tmp_path / ".cache", 60, 1, on_batch=calls.append)
        return len(calls) - before, found["metrics"]["fid"]["value"]
    first = counted()
    assert first[0] == 2 and counted() == (1, first[1])
    (damaged,) = (tmp_path / ".cache").glob("*-pool.npz")
    damaged.write_bytes(damaged.read_bytes()[:-30])
    assert counted() == first
    np.savez(tmp_path / "theirs.npz", images[1] // 2)
    steps, value = counted()
    assert steps == 2 and value != first[1]


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    print_score("digits-test", "digits", "pixels", "fid, kid", tmp_path, 64, as_json=False)
    text = capsys.readouterr().out
    assert "fid (pixels)" in text and "kid (pixels)" in text and "297 samples of digits-test against 1,500 images" in text
    assert "not comparable" in text and "standard error" in text
    print_score("digits-test", "digits", "pixels", "fid", tmp_path, 64, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["headline"]["fid (pixels)"] == found["metrics"]["fid"]["value"] > 0
    for metrics in ("fid,speed", ""):
        with pytest.raises(UserError, match="--metrics: .*; there are fid, sfid, inception_score"):
            print_score("digits-test", "digits", "pixels", metrics, tmp_path, 64, as_json=True)
    with pytest.raises(UserError, match="metrics: sfid needs spatial features, but pixels gives"):
        print_score("digits-test", "digits", "pixels", "sfid", tmp_path, 64, as_json=True)


@pytest.mark.parametrize("ours, theirs, blamed", [((8, 8, 4), (8, 8, 3), "ours"), ((8, 8, 3), (8, 8, 4), "theirs"),
                                                  ((8, 8, 2), (8, 8, 1), "ours"), ((8, 8, 1), (8, 8, 3), "ours"),
                                                  ((16, 16, 3), (8, 8, 3), "ours")])
def test_images_of_two_kinds_are_both_named_and_the_unusual_one_is_blamed(tmp_path, ours, theirs, blamed):
    for name, shape in (("ours", ours), ("theirs", theirs)):
        np.savez(tmp_path / f"{name}.npz", np.zeros((60, *shape), np.uint8))
    with pytest.raises(UserError) as caught:
        score(str(tmp_path / "ours.npz"), str(tmp_path / "theirs.npz"), "pixels", ["fid"], tmp_path / ".cache", 13, 1)
    text = str(caught.value)
    (height, width, depth), other = (ours, "theirs") if blamed == "ours" else (theirs, "ours")
    assert text.startswith(f"{tmp_path / blamed}.npz: images are {height}x{width} with {depth} channel")
    assert f"{tmp_path / other}.npz" in text and len(text.splitlines()) == 1


@pytest.mark.slow
def test_what_cannot_be_compared_shows_before_torch_is_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((3, 3, 8, 8), np.uint8))
    code = ("import sys\nfrom slurm.cli.main import main\nsys.argv[1:] = ['score', 'a.npz', '--reference', 'digits']\n"
            "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "2 False\n" and "looks like [N, C, H, W]" in done.stderr


def test_score_says_what_was_left_out_and_made_rgb(tmp_path, images, capsys):
    from PIL import Image
    np.savez(tmp_path / "theirs.npz", images[1])
    (tmp_path / "ours").mkdir()
    for number, image in enumerate(images[0]):
        Image.fromarray(image[..., 0] if number == 0 else image).save(tmp_path / "ours" / f"{number:02}.png")
    (tmp_path / "ours" / "Thumbs.db").write_text("")
    print_score(str(tmp_path / "ours"), str(tmp_path / "theirs.npz"), "pixels", "fid", tmp_path, 13, False)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{tmp_path / 'ours'}: left out 1 file that is no picture: 1 .db", f"{tmp_path / 'ours'}: grey made RGB: 1"]
