"""The evaluation stage: metrics of samples and bits/dim, and what is kept from one attempt to the next."""

import hashlib
import json
import os
import signal
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from evaluated_runs import noisy_network, result, terms
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import jobs.evaluation.evaluate
import jobs.kinds.diffusion.likelihood
import jobs.kinds.diffusion.model
from diffusion.losses import bits_per_dim
from jobs.data.dataset import open_data
from jobs.data.pictures import to_x
from jobs.errors import UserError
from jobs.evaluation.metrics.registry import measure
from jobs.kinds.diffusion.build import build_diffusion
from jobs.randomness import generator_for, randn_from
from jobs.sampling.chunks import chunk_file, chunk_indices, read_chunk, write_chunk
from jobs.sampling.gather import gather, recorded_settings
from jobs.spec.samplings import samplings

# Metrics of the samples ---------------------------------------------------------------------------------------------

def test_samples_of_one_value_are_refused_and_some_of_them_named(sampled, alone):
    run = sampled()
    settings = recorded_settings(run, samplings(run.spec)[0])

    def blacken(chunks):
        for chunk in chunks:
            file, indices = chunk_file(run.samples, chunk), chunk_indices(run.spec, chunk)
            whole = read_chunk(file, indices, settings)
            write_chunk(file, replace(whole, images=whole.images * 0), settings)
        run.samples_h5.unlink()
        gather(run, settings, samplings(run.spec)[0])

    blacken([1])
    assert alone(run, "evaluate") == "done"
    assert "; 4 of 10 samples have the same value in every pixel" in result(run)["metrics"]["fid"]["note"]
    blacken([0, 2])
    run.evaluation.unlink()
    (run.path / "evaluated.json").unlink()
    with pytest.raises(UserError, match="in each of the 10 samples every pixel has the same value"):
        alone(run, "evaluate")
    assert not run.evaluation.exists()


TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the format that FID networks come in


class WithOption(torch.nn.Module):
    def forward(self, x, return_features: bool = False):
        scores = x.float().mean(dim=[2, 3])
        return scores * 2 if return_features else scores * 0


@TORCHSCRIPT
def test_the_file_of_features_is_recorded_with_its_number(sampled, alone, tmp_path):
    torch.jit.script(WithOption()).save(tmp_path / "small-net.pt")
    run = sampled(f"evaluate.features={tmp_path / 'small-net.pt'}", "evaluate.nll_examples=0")
    assert alone(run, "evaluate") == "done"
    found = result(run)
    sha256 = hashlib.sha256((tmp_path / "small-net.pt").read_bytes()).hexdigest()
    assert found["features"] == {"name": "small-net.pt", "sha256": sha256, "comparable": False,
                                 "note": f"features of small-net.pt, sha256 {sha256}"}
    assert found["headline"] == {"fid (small-net.pt)": found["metrics"]["fid"]["value"]}
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
    found = result(run)
    assert found["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-5)
    assert "of 10 samples: biased upwards" in found["metrics"]["fid"]["note"]
    assert found["features"].pop("note").endswith("not comparable with Inception's numbers")
    assert found["features"] == {"name": "pixels", "sha256": None, "comparable": False}
    assert (found["samples"], found["reference"]) == (10, {"path": "digits", "images": 1500})
    assert found["settings"] == run.spec.evaluate.model_dump(mode="json")
    assert found["curve"] == [{"step": 12, "sampler": "ancestral", "timestep_respacing": "", "sampling_steps": 40,
                               "evaluations": 40, "differs": {}, "samples": 10, "intervals": {},
                               "metrics": {"fid": found["metrics"]["fid"]["value"]}}]


def test_two_processes_find_what_one_does(sampled, ranks, alone):
    # The second process has no batch of samples of its own; the first has the short batch of held-out examples.
    run = sampled("sample.num_samples=9", "evaluate.batch_size=16", "evaluate.nll_examples=33", "diffusion.diffusion_steps=10",
                  "evaluate.features=classifier",
                  "evaluate.metrics=[fid, sfid, inception_score, precision_recall, kid, label_accuracy]")
    assert ranks(run, "evaluate", 2) == 0
    two, two_terms = result(run), terms(run)
    (run.path / "evaluated.json").unlink()
    for file in (run.path.parent.parent / ".cache").glob("reference-*"):
        file.unlink()
    assert alone(run, "evaluate") == "done"
    one, one_terms = result(run), terms(run)
    for name in one_terms:
        np.testing.assert_allclose(two_terms[name], one_terms[name], rtol=1e-5, atol=1e-9)
    assert len(two_terms["total"]) == 33
    assert list(one["headline"]) == [*(f"{name} (classifier)" for name in (
        "fid", "sfid", "inception score", "precision", "recall", "kid", "label seen")), "bits/dim"]
    for key in ("fid", "sfid", "inception_score", "precision", "recall", "kid", "label_accuracy"):
        assert two["metrics"][key]["value"] == pytest.approx(one["metrics"][key]["value"], rel=1e-6), key
    assert two["metrics"]["kid"]["standard_error"] == pytest.approx(one["metrics"]["kid"]["standard_error"], rel=1e-6)
    for key in ("value", "standard_error", "prior"):
        assert two["bits_per_dim"][key] == pytest.approx(one["bits_per_dim"][key], rel=1e-5)
    assert [two[key] for key in ("features", "reference", "settings", "samples")] == \
        [one[key] for key in ("features", "reference", "settings", "samples")]


CURVE = ("sample.at=[6, last]", "evaluate.respacings=[10]", "sample.num_samples=8", "evaluate.nll_examples=4")


@pytest.mark.slow
def test_every_point_has_its_interval(sampled, alone):
    run = sampled("evaluate.respacings=[2]", "sample.num_samples=20", "sample.batch_size=10", "evaluate.nll_examples=0",
                  "diffusion.diffusion_steps=4")
    assert alone(run, "evaluate") == "done"
    found = result(run)
    for point in found["curve"]:
        low, high = point["intervals"]["fid"]
        assert low < point["metrics"]["fid"] < high
    assert found["curve"][0]["intervals"]["fid"] == found["metrics"]["fid"]["interval"]


@pytest.mark.slow
def test_every_point_has_its_metrics_and_an_ancestral_one_its_bound(sampled, alone):
    run = sampled(*CURVE)
    assert alone(run, "evaluate") == "done"
    found = result(run)
    assert [(point["step"], point["sampler"], point["timestep_respacing"], point["sampling_steps"], point["samples"])
            for point in found["curve"]] == [(12, "ancestral", "", 40, 8), (6, "ancestral", "", 40, 8),
                                             (12, "ancestral", "10", 10, 8), (12, "ddim", "10", 10, 8)]
    main, earlier, short, ddim = (point["metrics"] for point in found["curve"])
    assert main == {"fid": found["metrics"]["fid"]["value"], "bits/dim": found["bits_per_dim"]["value"]}
    assert ddim.keys() == {"fid"} and earlier.keys() == short.keys() == {"fid", "bits/dim"}
    assert len({point["metrics"]["fid"] for point in found["curve"]}) == 4
    assert earlier["bits/dim"] != main["bits/dim"]  # of the weights at that step
    assert len(terms(run)["vb"]) == 40
    # Over the shorter chain, by another way.
    spec, data = run.spec, open_data("digits-test", 8, 1, 10)
    x = to_x(torch.from_numpy(data.images[:4])).permute(0, 3, 1, 2)
    randn = randn_from(generator_for("cpu", 0, "bits per dim", 0), 4)
    bound = bits_per_dim(build_diffusion(spec, "cpu", "10"), noisy_network(spec), x, randn,
                         model_kwargs={"y": torch.from_numpy(data.labels[:4])})
    assert short["bits/dim"] == pytest.approx(bound.total.mean().item(), rel=1e-5)


@pytest.mark.slow
def test_what_was_evaluated_survives_a_stop(sampled, alone, monkeypatch):
    run = sampled(*CURVE)
    kill_at, measured, bounded = [3], [], []

    def counted_measure(*arguments, **options):
        if len(measured) + 1 == kill_at[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        found = measure(*arguments, **options)
        measured.append(found)
        return found

    def counted_bound(*arguments, **options):
        if len(bounded) + 1 == kill_at[0]:
            os.kill(os.getpid(), signal.SIGUSR2)
        found = jobs.kinds.diffusion.likelihood.measure(*arguments, **options)
        bounded.append(found)
        return found
    monkeypatch.setattr(jobs.evaluation.evaluate, "measure", counted_measure)
    monkeypatch.setattr(jobs.kinds.diffusion.model, "measure", counted_bound)
    assert alone(run, "evaluate") == "interrupted"  # at the first batch of the third point
    assert (len(measured), len(bounded)) == (2, 0) and not run.evaluation.exists()
    kill_at[0] = 2
    assert alone(run, "evaluate") == "interrupted"  # in the second bound; all points are measured
    assert (len(measured), len(bounded)) == (4, 1) and not run.evaluation.exists()
    kill_at[0] = 0
    assert alone(run, "evaluate") == "done"
    assert (len(measured), len(bounded)) == (4, 3)
    found = result(run)
    (run.path / "evaluated.json").unlink()
    assert alone(run, "evaluate") == "done"
    assert result(run) == found and (len(measured), len(bounded)) == (8, 6)


def test_only_what_changed_is_evaluated_again(sampled, make_run, alone, monkeypatch):
    run = sampled("evaluate.nll_examples=4", "diffusion.diffusion_steps=5")
    assert alone(run, "evaluate") == "done"
    before = result(run)
    monkeypatch.setattr(jobs.evaluation.evaluate, "measure", None)  # not called
    again = make_run("evaluate.nll_examples=5", "diffusion.diffusion_steps=5")
    assert alone(again, "evaluate") == "done"
    found = result(again)
    assert found["metrics"] == before["metrics"] and found["bits_per_dim"]["examples"] == 5
    (run.path / "bits_per_dim.npz").unlink()
    assert alone(again, "evaluate") == "done" and len(terms(run)["total"]) == 5
    monkeypatch.undo()
    without = make_run("evaluate.nll_examples=0", "evaluate.batch_size=3", "diffusion.diffusion_steps=5")
    assert alone(without, "evaluate") == "done"
    assert not (run.path / "bits_per_dim.npz").exists() and "bits_per_dim" not in result(run)


def test_being_asked_to_stop_leaves_no_result(sampled, alone, monkeypatch):
    run = sampled("evaluate.metrics=[]")

    def interrupted(*arguments, on_step, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return bits_per_dim(*arguments, on_step=on_step, **options)
    with monkeypatch.context() as patch:
        patch.setattr(jobs.kinds.diffusion.likelihood, "bits_per_dim", interrupted)
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
        points = [(sampling.step, sampling.value) for sampling in events.Scalars(tag)]
        assert points == [(12, pytest.approx(found["headline"][name], rel=1e-6))]
    start = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    row = start.session_start_info.hparams
    assert row["noise_schedule"].string_value == "cosine"
    assert (row["lr"].number_value, row["iterations"].number_value) == (1e-3, 12)
