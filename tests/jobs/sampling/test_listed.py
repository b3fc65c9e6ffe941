"""evaluate.samplings end to end: chunks, weights, the evaluation, and a list that changes under a finished run."""

import json

import h5py
import pytest
from noisy_runs import noisy_weights, save_weights

from jobs.run.study.freezing import freeze
from jobs.sampling import weights
from jobs.spec.reading.file import load
from jobs.spec.samplings import differing, samplings, with_sampling
from jobs.storage.files import read_json

SHORT = ("diffusion.diffusion_steps=20", "sample.num_samples=6", "evaluate.nll_examples=2")
LIST = "evaluate.samplings=[{sampler: ddim, timestep_respacing: [5, 7], ema_rate: [0.9, null]}, {seed: 3}, {precision: bf16}]"


def trained(run, step=12):
    """`run` as if trained; the raw weights and their average are noise of their own."""
    save_weights(run, step, noisy_weights(run, 0), {"0.9": noisy_weights(run, 1)})
    return run


def test_each_is_what_a_run_with_its_settings_would_have_made(make_run, alone):
    run = trained(make_run(*SHORT, LIST))
    assert alone(run, "sample") == "done" and run.is_done("sample")
    assert read_json(run.progress)["total"] == 2 * (20 + 2 * (5 + 7) + 20 + 20)
    for number, sampling in enumerate(samplings(run.spec)):
        changes = [f"sample.{key}={json.dumps(value)}" for key, value in differing(run.spec, sampling).items()]
        other = trained(make_run(*SHORT, *changes, folder=str(number)))
        assert other.spec.sample == with_sampling(run.spec, sampling).sample and alone(other, "sample") == "done"
        for name in ("chunk-00000.h5", "chunk-00001.h5"):
            assert (run.samples_folder(sampling) / name).read_bytes() == (other.samples / name).read_bytes()
        with h5py.File(run.samples_folder(sampling) / "samples.h5") as file:
            assert json.loads(file.attrs["differs"]) == differing(run.spec, sampling) and file.attrs["step"] == 12


def test_weights_are_loaded_once_for_all_samplings_of_them(make_run, alone, monkeypatch):
    run, loaded = trained(make_run(*SHORT, LIST)), []
    before = weights.load_sampled
    for module in ("jobs.sampling.weights", "jobs.sampling.loop"):
        monkeypatch.setattr(f"{module}.load_sampled", lambda run, network, sampling: (
            loaded.append(with_sampling(run.spec, sampling).sample.ema_rate), before(run, network, sampling))[1])
    assert alone(run, "sample") == "done"
    assert loaded == [0.9, None, 0.9, None]  # to look for finished chunks, then to sample


def test_the_list_may_change_under_a_finished_run(make_run, alone, tmp_path, capsys):
    run = trained(make_run(*SHORT, "evaluate.samplings=[{seed: 3}]"))
    assert alone(run, "sample") == alone(run, "evaluate") == "done"
    before = {file: file.stat().st_mtime_ns for file in run.samples.rglob("*.h5")}

    def changed(*overrides):
        return freeze(load(tmp_path / "small.yaml", (*SHORT, *overrides)), run.path.parents[1])[0]
    more = changed("evaluate.samplings=[{seed: [3, 4]}, {sampler: ddim}]")
    assert not more.is_done("sample") and not more.is_done("evaluate")
    assert alone(more, "sample") == alone(more, "evaluate") == "done" and more.is_done("evaluate")
    assert read_json(run.progress)["total"] is not None
    after = {file: file.stat().st_mtime_ns for file in run.samples.rglob("*.h5")}
    assert before.items() < after.items() and len(after) == 4 * 3
    curve = read_json(run.evaluation)["curve"]
    assert [entry["differs"] for entry in curve] == [{}, {"seed": 3}, {"seed": 4}, {"sampler": "ddim"}]
    assert [entry["evaluations"] for entry in curve] == [20] * 4 and all("fid" in entry["metrics"] for entry in curve)
    assert ["bits/dim" in entry["metrics"] for entry in curve] == [True, False, False, False]

    assert "no longer asks for" not in capsys.readouterr().out
    fewer = changed("evaluate.samplings=[{sampler: ddim}]")
    assert "no longer asks for 2 samplings (step-00000012,ancestral,full,seed=3, step-" in capsys.readouterr().out
    assert fewer.is_done("sample") and not fewer.is_done("evaluate")
    assert alone(fewer, "evaluate") == "done" and len(read_json(run.evaluation)["curve"]) == 2
    assert (run.samples / "step-00000012,ancestral,full,seed=4" / "samples.h5").exists()
    assert changed("evaluate.samplings=[{seed: [3, 4]}, {sampler: ddim}]").is_done("sample")


def test_bits_per_dim_follow_the_weights(make_run, alone):
    run = trained(make_run(*SHORT, "evaluate.samplings=[{ema_rate: null}, {ema_rate: null, seed: 1}]", "evaluate.metrics=[]"))
    assert alone(run, "sample") == alone(run, "evaluate") == "done"
    other = trained(make_run(*SHORT, "sample.ema_rate=null", "evaluate.metrics=[]", folder="raw"))
    assert alone(other, "sample") == alone(other, "evaluate") == "done"
    (main, raw, seeded), (alike,) = (read_json(each.evaluation)["curve"] for each in (run, other))
    assert raw["metrics"] == alike["metrics"] != main["metrics"] and seeded["metrics"] == {}


def test_an_evaluation_of_an_older_version_counts(make_run, alone):
    run = trained(make_run(*SHORT))
    assert alone(run, "sample") == alone(run, "evaluate") == "done"
    old = read_json(run.evaluation)
    del old["settings"]["samplings"]
    for entry in old["curve"]:
        del entry["differs"], entry["evaluations"]
    run.evaluation.write_text(json.dumps(old))
    assert run.is_done("evaluate")
    old["curve"][0]["sampling_steps"] = 19
    run.evaluation.write_text(json.dumps(old))
    assert not run.is_done("evaluate")


@pytest.mark.slow
def test_killed_in_the_middle_of_a_listed_chain_it_resumes_to_the_same_bytes(make_run, ranks, alone, monkeypatch):
    changes = ("diffusion.diffusion_steps=400", "sample.num_samples=6", "evaluate.samplings=[{ema_rate: null, seed: 1}]")
    run, other = (trained(make_run(*changes, folder=name)) for name in ("killed", "whole"))
    (process,) = ranks(run, "sample", wait=False)
    second = run.samples_folder(samplings(run.spec)[1]) / "chunk-00000.h5"
    while not second.exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not run.is_done("sample") and ranks(run, "sample") == 0 and alone(other, "sample") == "done"
    for sampling in samplings(run.spec):
        for name in ("chunk-00000.h5", "chunk-00001.h5"):
            assert (run.samples_folder(sampling) / name).read_bytes() == (other.samples_folder(sampling) / name).read_bytes()
