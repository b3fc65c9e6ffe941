"""Runs that enlarge images: trained, killed, sampled from another run's samples, evaluated, counted, imported and exported."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from broken_sampling import die_in_the_first_chunk
from command_line import iddpm_here
from noisy_runs import noisy, same, samples
from PIL import Image
from safetensors.torch import load_file
from small_runs import kill_in_training, logs
from small_training import events
from small_upsampler import write_small_digits
from torch.utils.flop_counter import FlopCounterMode

from diffusion.networks.super_resolution import SuperResolutionUNet, reduced
from jobs.cost.bench.measure import flops_of_one_image
from jobs.cost.count import run_cost
from jobs.errors import UserError
from jobs.kinds.foreign_weights import open_weights, read_weights
from jobs.kinds.protocol import Draw, Examples, model_of
from jobs.kinds.weight_files import export_weights
from jobs.report.page.pictures import given_picture
from jobs.report.run import read_run
from jobs.report.write import report
from jobs.run.checkpoints import final_checkpoint
from jobs.spec.kinds import MODEL, kind_of
from jobs.storage.files import read_json

WITH_NOISE = ("upsampler.low_res_noise=0.4", "sample.low_res_noise=0.2")


def network_inputs(run, device: str = "meta") -> dict:
    given = {"low_res": torch.zeros(1, 1, 4, 4, device=device), "y": torch.zeros(1, dtype=torch.int64, device=device)}
    return given | ({"level": torch.zeros(1, device=device)} if run.spec.upsampler.low_res_noise else {})


@pytest.mark.parametrize("overrides", [(), WITH_NOISE, ("model.resblock_updown=true",)])
def test_its_layers_are_counted_as_torch_counts_them(make_upsampler, overrides):
    run = make_upsampler(*overrides)
    with torch.device("meta"):
        network = model_of(run.spec).network(run.spec)
    assert isinstance(network, SuperResolutionUNet) and network.input_blocks[0][0].weight.shape[1] == 2
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, 8, 8, device="meta"), torch.empty(1, device="meta"), **network_inputs(run))
    layers = kind_of(run.spec).layers(run.spec)[MODEL]
    assert sum(layer.parameters for layer in layers) == sum(each.numel() for each in network.parameters())
    assert sum(layer.tensors for layer in layers) == len(network.state_dict())
    assert sum(layer.flops for layer in layers) == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert run_cost(run.spec).evaluations == 6


def test_a_pair_is_made_of_the_large_image_and_its_noise_is_that_of_each_example(make_upsampler):
    run = make_upsampler(*WITH_NOISE)
    kind = model_of(run.spec).trainable(run.spec, torch.device("cpu"))
    images, labels = torch.rand(12, 1, 8, 8) * 2 - 1, torch.arange(12) % 10

    def drawn(share: slice):
        return kind.inputs(Examples(images[share], labels[share]), Draw(0, 3, 12, share, torch.device("cpu")))
    whole, half = drawn(slice(0, 12)), drawn(slice(6, 12))
    for name in ("low_res", "level", "noise", "t"):
        assert torch.equal(getattr(whole, name)[6:], getattr(half, name)), name
    assert whole.level.min() >= 0 and whole.level.max() < 0.4 and len(set(whole.level.tolist())) == 12
    small, level = reduced(images, 4), whole.level[:, None, None, None]
    noise = (whole.low_res - (1 - level ** 2).sqrt() * small) / level
    assert abs(float(noise.std()) - 1) < 0.2 and not torch.allclose(whole.low_res, small, atol=0.01)
    plain = make_upsampler(folder="plain")
    inputs = model_of(plain.spec).trainable(plain.spec, torch.device("cpu")).inputs(
        Examples(images, labels), Draw(0, 3, 12, slice(0, 12), torch.device("cpu")))
    assert torch.equal(inputs.low_res, small) and inputs.level is None


def test_two_ranks_train_it_and_a_killed_run_ends_with_the_same_bits(make_upsampler, ranks):
    overrides = (*WITH_NOISE, "data.random_flip=true", "model.dropout=0.1")
    whole, killed = make_upsampler(*overrides, folder="whole"), make_upsampler(*overrides, folder="killed")
    assert ranks(whole, "train", 2) == 0, logs(whole)
    kill_in_training(killed, ranks)
    assert ranks(killed, "train", 2) == 0, logs(killed)
    for name in ("model.safetensors", "ema-0.9.safetensors"):
        ours, theirs = (load_file(run.checkpoint_folder(12) / name) for run in (killed, whole))
        assert ours and all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    pictures = events(whole).Images("samples_ema_0.9")
    assert [picture.step for picture in pictures] == [4, 8, 12]
    assert pictures[0].width > pictures[0].height > 0  # three rows of eight


@pytest.mark.slow
def test_kill_9_within_a_chain_and_another_number_of_ranks_change_no_byte(make_stages, ranks, alone):
    noise = {"upsampler.low_res_noise": 0.4, "sample.low_res_noise": 0.2}  # drawn once, and kept in the state of a chunk half-way
    runs = {name: make_stages(noise, folder=name) for name in ("killed", "unbroken")}
    for large_run, base in runs.values():
        noisy(large_run), noisy(base)
        assert alone(base, "sample") == "done"
    (killed, _), (unbroken, _) = runs.values()
    assert alone(unbroken, "sample") == "done"
    die_in_the_first_chunk(killed)  # after three of six steps
    assert ranks(killed, "sample", 2) == 0, logs(killed)
    assert same(killed, unbroken)


@pytest.fixture
def sampled(make_stages, alone):
    """The two runs of a study, as if trained, and sampled: (large, base)."""
    large, base = make_stages(None, {"sample.num_samples": 13})
    noisy(large), noisy(base)
    with pytest.raises(UserError, match="samples.h5: no such file"):
        alone(large, "sample")
    assert alone(base, "sample") == alone(large, "sample") == "done"
    return large, base


def test_sample_i_is_made_of_small_image_i_and_is_known_by_the_small_images(sampled, alone, make_upsampler):
    large, base = sampled
    ours, theirs = samples(large), samples(base)
    assert ours["images"].shape == (10, 8, 8, 1) and ours["sample_index"].tolist() == list(range(10))
    assert ours["labels"].tolist() == theirs["labels"][:10].tolist()
    with h5py.File(large.samples_h5) as file:
        settings = json.loads(file.attrs["settings"])
    assert settings["given"].keys() == {"sha256"} and settings["sample"]["low_res_noise"] == 0
    assert "base" not in json.dumps(settings)

    # The same images from elsewhere, and as a file, give equal samples; one other image changes its own sample alone.
    file = base.path.parent / "other.h5"
    for changed in (None, 9):
        with h5py.File(file, "w") as opened:
            images = theirs["images"].copy()
            if changed is not None:
                images[changed] = 255 - images[changed]
            opened["images"], opened["labels"] = images, theirs["labels"]
        again = noisy(make_upsampler(f"sample.low_res={{path: {file}}}", folder=f"again-{changed}"))
        assert alone(again, "sample") == "done"
        equal = (samples(again)["images"] == ours["images"]).all((1, 2, 3))
        assert equal.tolist() == [number != changed for number in range(10)]


def test_labels_are_those_of_the_small_images(make_upsampler, alone, tmp_path):
    run = noisy(make_upsampler(f"sample.low_res={{path: {write_small_digits(tmp_path / 'x.h5', 12)}}}"))
    assert alone(run, "sample") == "done"
    with h5py.File(tmp_path / "x.h5") as file:
        assert samples(run)["labels"].tolist() == file["labels"][:10].tolist() != list(range(10))[::-1]
    reduced_ones = noisy(make_upsampler("sample.low_res={path: digits}", folder="reduced"))
    assert alone(reduced_ones, "sample") == "done"
    close = np.abs(samples(run)["images"].astype(int) - samples(reduced_ones)["images"]).mean()
    assert 0 < close < 4  # means over squares, without and with rounding to whole grey levels


def test_samples_of_other_small_images_are_foreign(sampled, alone):
    large, base = sampled
    shutil.rmtree(base.samples)
    base.samples.mkdir()
    with h5py.File(base.samples_h5, "w") as file:
        file["images"] = np.zeros((13, 4, 4, 1), np.uint8)
        file["labels"] = np.arange(13) % 10
    with pytest.raises(UserError, match="made with other weights or settings: given.sha256"):
        alone(large, "sample")


def test_guidance_without_a_class_sees_the_small_images_too(make_upsampler, alone):
    def drawn(guidance: str, folder: str):
        run = noisy(make_upsampler("train.label_dropout=0.1", f"sample.guidance={guidance}", folder=folder))
        assert alone(run, "sample") == "done"
        return samples(run)["images"]
    plain, none = drawn("null", "plain"), drawn("{kind: classifier_free, scale: 1}", "none")
    assert np.array_equal(plain, none)
    assert not np.array_equal(plain, drawn("{kind: classifier_free, scale: 3}", "guided"))


def test_it_is_evaluated_given_the_small_images(make_upsampler, alone):
    run = noisy(make_upsampler("evaluate.nll_examples=4", "diffusion.diffusion_steps=8", "sample.timestep_respacing=''"))
    assert alone(run, "sample") == alone(run, "evaluate") == "done"
    found = read_json(run.evaluation)
    assert set(found["headline"]) == {"fid (pixels)", "bits/dim given low_res"}
    assert found["bits_per_dim_given_low_res"]["examples"] == 4 and "bits_per_dim" not in found
    terms = np.load(run.path / "bits_per_dim_given_low_res.npz")
    assert terms["total"].shape == (4,) and found["bits_per_dim_given_low_res"]["value"] == pytest.approx(terms["total"].mean())


def test_weights_go_out_and_come_in_strictly(make_upsampler, tmp_path):
    run = noisy(make_upsampler())
    expected = final_checkpoint(run).weights("0.9")
    for name in ("out.pt", "out.safetensors"):
        export_weights(run, tmp_path / name, 0.9)
        found = read_weights(tmp_path / name, run.spec)
        assert list(found) and all(torch.equal(found[key], value) for key, value in expected.items())
    assert list(torch.load(tmp_path / "out.pt")) == list(model_of(run.spec).network(run.spec).state_dict())
    other = make_upsampler("upsampler.low_res_noise=0.2", folder="noise")
    with pytest.raises(UserError, match="weights of another network: .*level_embed"):
        open_weights(tmp_path / "out.pt", other.spec)
    told = kind_of(run.spec).told_by_weights({key: list(value.shape) for key, value in expected.items()},
                                             {"data": {"image_size": 8}})
    assert told["data.channels"] == 1 and told["model.learn_sigma"] and told["data.num_classes"] == 10


def test_the_report_shows_what_samples_are_made_of(sampled, alone):
    large, base = sampled
    assert alone(large, "evaluate") == alone(base, "evaluate") == "done"
    page = report(large.path.parent).read_text()
    assert "Small images and what was made of them" in page and "bits/dim given low_res" in page
    assert "The samples are compared with different images (digits, " in page
    shown = given_picture(read_run(large.path, {}))
    assert shown.caption == "large: above, what they are made of" and given_picture(read_run(base.path, {})) is None


def test_make_enlarges_a_picture(make_upsampler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = noisy(make_upsampler(*WITH_NOISE))
    Image.fromarray(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)).save("small.png")
    for out, options in (("a", ("--num", 4)), ("b", ("--num", 4)), ("c", ("--steps", 3, "--num", 2))):
        text = iddpm_here("make", run.path, "--out", out, "--from", "small.png", "--labels", "3", "--seed", 1, *options)
        evaluations, count = (3, 2) if out == "c" else (6, 4)
        assert f"{evaluations} evaluations" in text and len(list(Path(out).glob("picture-*.png"))) == count
    with Image.open("a/picture-000.png") as picture:
        assert picture.size == (8, 8)
    names = [file.name for file in Path("a").glob("*.png")]
    assert all((Path("a") / name).read_bytes() == (Path("b") / name).read_bytes() for name in names)
    assert Path("a/picture-000.png").read_bytes() != Path("a/picture-001.png").read_bytes()
    for options, message in [((), "give --from PICTURE; `iddpm sample"), (("--encode", "small.png", "--labels", 3), "--encode: "),
                             (("--from", "small.png", "--labels", 3, "--at", 0.5), "leave --at out"),
                             (("--from", "small.png"), "name one, such as --labels 0")]:
        assert message in iddpm_here("make", run.path, "--out", "d", *options, status=2)


def test_bench_measures_it_and_counts_one_evaluation_as_torch_does(make_upsampler):
    run = make_upsampler("upsampler.low_res_noise=0.2", "sample.sampler=heun", "sample.timestep_respacing=logsnr6")
    network = model_of(run.spec).network(run.spec).eval()
    counted = flops_of_one_image(run.spec, network, torch.device("cpu"))
    assert counted == pytest.approx(run_cost(run.spec).forward_flops, rel=0.03)
