"""The samplings of a run: which there are, the checkpoints and samples of each."""

import json
import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noisy_runs import noisy_weights, save_weights

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import (
    Diffusion,
    DiffusionEvaluateAsWritten,
    DiffusionSample,
    DiffusionSpecAsWritten,
    DiffusionTrain,
    diffusion_contradictions,
    resolve,
)
from jobs.run.checkpoints import final_checkpoint
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.sampling.gather import check_samples, gather, gather_run, recorded_settings
from jobs.sampling.weights import load_sampler
from jobs.spec.reading.file import load
from jobs.spec.samplings import sampling_facts, samplings, with_sampling
from jobs.spec.sections import Data
from jobs.storage.files import read_json

SHORT = ("diffusion.diffusion_steps=20", "sample.num_samples=6")


def trained(run, steps=(4, 12)):
    """`run` as if trained, with checkpoints at these steps; each has noise of its own for weights."""
    for step in steps:
        weights = noisy_weights(run, seed=step)
        save_weights(run, step, weights, {"0.9": weights})
    return run


def images(run, sampling):
    with h5py.File(run.samples_folder(sampling) / "samples.h5", "r") as file:
        return file["images"][:]


def written(folder):
    """What tells whether a file was written again."""
    return {str(file.relative_to(folder)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.rglob("*.h5")}


# Which there are -----------------------------------------------------------------------------------------------------

def _spec(sample=None, evaluate=None):
    return resolve(DiffusionSpecAsWritten(
        name="a", data=Data(path="digits", image_size=32), diffusion=Diffusion(diffusion_steps=100),
        train=DiffusionTrain(iterations=500), sample=sample or DiffusionSample(),
        evaluate=evaluate or DiffusionEvaluateAsWritten()))


def named(spec):
    """Step, sampler and chain of each sampling."""
    return [(facts["step"], facts["sampler"], facts["timestep_respacing"])
            for facts in (sampling_facts(spec, sampling) for sampling in samplings(spec))]


def test_without_a_word_there_is_the_main_one():
    assert named(_spec()) == [(500, "ancestral", "")]
    assert named(_spec(DiffusionSample(sampler="ddim", timestep_respacing="ddim50"))) == [(500, "ddim", "ddim50")]
    assert samplings(_spec(DiffusionSample(at=[]))) == samplings(_spec(DiffusionSample(at=["last", 500]))) == samplings(_spec())


def test_the_main_one_then_steps_then_chains_each_once():
    spec = _spec(DiffusionSample(at=[100, "last", 7, 100], sampler="ddim", timestep_respacing="25"),
                 DiffusionEvaluateAsWritten(respacings=["25", 50, ""]))
    assert named(spec) == [
        (500, "ddim", "25"), (100, "ddim", "25"), (7, "ddim", "25"), (500, "ancestral", "25"),
        (500, "ancestral", "50"), (500, "ddim", "50"), (500, "ancestral", ""), (500, "ddim", "")]


def test_folders_say_what_is_in_them(make_run):
    run = make_run("sample.at=[4]", "evaluate.respacings=['', ddim10]")
    assert [str(run.samples_folder(sampling).relative_to(run.path)) for sampling in samplings(run.spec)] == [
        "samples", "samples/step-00000004,ancestral,full", "samples/step-00000012,ddim,full",
        "samples/step-00000012,ancestral,ddim10", "samples/step-00000012,ddim,ddim10"]


@given(at=st.lists(st.integers(1, 500) | st.just("last"), max_size=5), sampler=st.sampled_from(["ancestral", "ddim"]),
       chains=st.lists(st.sampled_from(["", "1", "10", "ddim10", "5,5", "100"]), max_size=4))
def test_no_two_points_share_a_folder(tmp_path_factory, at, sampler, chains):
    spec = _spec(DiffusionSample(at=at, sampler=sampler, timestep_respacing="10"), DiffusionEvaluateAsWritten(respacings=chains))
    run = RunDir(tmp_path_factory.getbasetemp(), spec)
    assert diffusion_contradictions(spec) == []
    folders = [run.samples_folder(sampling) for sampling in samplings(spec)]
    assert folders[0] == run.samples and len(set(folders)) == len(folders) == len(set(samplings(spec)))
    assert {sampling.step for sampling in samplings(spec)} == {500, *(step for step in at if step != "last")}


@pytest.mark.parametrize("override, message", [
    ("sample.at=[13]", "sample.at: step 13 is beyond train.iterations 12"),
    ("sample.at=[0]", "sample.at[0]: must be a training step (1, 2, ...) or last (got 0)"),
    ("sample.at=[last, first]", "sample.at[1]: must be a training step (1, 2, ...) or last (got first)"),
    ("sample.at=[true]", "sample.at[0]: must be a training step (1, 2, ...) or last (got true)"),
    ("sample.at=[1.5]", "sample.at[0]: must be a training step (1, 2, ...) or last (got 1.5)"),
    ("sample.at=4", "sample.at: must be a list, such as [1, 2] (got 4)"),
    ("evaluate.respacings=[10, 41]", "evaluate.respacings: section 1 of 1 has 40 of the 40 steps; 41 cannot be taken from it"),
    ("evaluate.respacings=[half]", "evaluate.respacings: 'half' is not a respacing; "),
    ("evaluate.respacings=[true]", "evaluate.respacings[0]: must be text (got true)"),
])
def test_what_cannot_be_sampled_is_refused_in_the_spec(make_run, override, message):
    with pytest.raises(UserError, match=f"^command line: .*: {re.escape(message)}"):
        make_run(override)


def test_counts_may_be_written_as_yaml_reads_them(make_run):
    spec = make_run("sample.at=[4e0, last]", "evaluate.respacings=[10]").spec
    assert (spec.sample.at, spec.evaluate.respacings) == ([4, "last"], ["10"])


# Training keeps their checkpoints ------------------------------------------------------------------------------------

@pytest.mark.slow
def test_training_saves_at_these_steps_and_keeps_them(make_run, alone):
    run, plain = make_run("sample.at=[3, 5, last]", folder="points"), make_run(folder="plain")
    for either in (run, plain):
        assert alone(either, "train") == "done"
    assert [folder.name[-2:] for folder in run.checkpoint_folders()] == ["03", "05", "08", "12"]
    assert [folder.name[-2:] for folder in plain.checkpoint_folders()] == ["08", "12"]
    ours, theirs = (final_checkpoint(either).weights("0.9") for either in (run, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


# Sampling at all of them ---------------------------------------------------------------------------------------------

def test_each_is_what_a_run_with_nothing_else_would_have_made(make_run, alone):
    run = trained(make_run(*SHORT, "sample.at=[4]", "evaluate.respacings=[7]"))
    assert alone(run, "sample") == "done" and run.is_done("sample")
    assert len(samplings(run.spec)) == 4
    seen = [images(run, sampling) for sampling in samplings(run.spec)]
    assert all(not np.array_equal(a, b) for number, a in enumerate(seen) for b in seen[:number])
    progress = read_json(run.progress)
    assert (progress["done"], progress["total"]) == (108, 108) == (2 * (20 + 20 + 7 + 7),) * 2
    for number, sampling in enumerate(samplings(run.spec)):
        sample = with_sampling(run.spec, sampling).sample
        other = trained(make_run(*SHORT, f"train.iterations={sampling.step}", f"sample.sampler={sample.sampler}",
                                 f'sample.timestep_respacing="{sample.timestep_respacing}"', folder=str(number)),
                        (sampling.step,))
        assert alone(other, "sample") == "done"
        for name in ("chunk-00000.h5", "chunk-00001.h5"):
            assert (run.samples_folder(sampling) / name).read_bytes() == (other.samples / name).read_bytes()
        assert np.array_equal(images(run, sampling), images(other, samplings(other.spec)[0]))
        assert {file.name for file in run.samples_folder(sampling).iterdir() if file.is_file()} == (
            {"chunk-00000.h5", "chunk-00001.h5", "samples.h5", "samples.png"}
            | ({"samples.npz", "samples-grid.png"} if number == 0 else set()))


def test_several_processes_share_the_chunks_of_all_samplings(make_run, ranks, alone):
    changes = (*SHORT, "sample.batch_size=2", "sample.at=[4]", "evaluate.respacings=[7]")
    run, other = (trained(make_run(*changes, folder=name)) for name in ("two", "one"))
    started = ranks(run, "sample", 2, wait=False)
    assert alone(other, "sample") == "done"
    assert [process.wait() for process in started] == [0, 0]
    for sampling in samplings(run.spec):
        assert np.array_equal(images(run, sampling), images(other, sampling))


def test_points_may_be_added_to_a_run_that_is_done(make_run, alone, tmp_path):
    run = trained(make_run(*SHORT))
    assert alone(run, "sample") == "done"
    before = written(run.samples)
    study = load(tmp_path / "small.yaml", (*SHORT, "sample.at=[4, last]", "evaluate.respacings=[7]"))
    again = freeze(study, run.path.parents[1])[0]
    assert again.path == run.path and again.spec.sample.at == [4, "last"] and not again.is_done("sample")
    assert alone(again, "sample") == "done" and again.is_done("sample")
    after = written(run.samples)
    assert before.items() < after.items() and len(after) == 4 * 3
    assert read_json(run.progress)["total"] == 2 * (20 + 7 + 7)
    (again.samples_folder(samplings(again.spec)[2]) / "samples.h5").unlink()
    assert not again.is_done("sample")


def test_settings_that_name_samples_do_not_name_other_samplings(make_run, alone):
    run = trained(make_run(*SHORT, "sample.at=[4]"))
    assert alone(run, "sample") == "done"
    main, early = (recorded_settings(run, sampling) for sampling in samplings(run.spec))
    assert "at" not in main["sample"] and main["weights_sha256"] != early["weights_sha256"]
    assert early | {"weights_sha256": ""} == main | {"weights_sha256": ""}
    check_samples(run, early, samplings(run.spec)[1])
    with pytest.raises(UserError, match="step-00000004,ancestral,full/samples.h5: made with other .*: weights_sha256"):
        check_samples(run, main, samplings(run.spec)[1])


def test_a_point_whose_checkpoint_is_gone_is_refused_before_anything_is_sampled(make_run, alone):
    run = trained(make_run(*SHORT, "sample.at=[6]"))
    with pytest.raises(UserError, match=r"checkpoints/step-00000006: not there.*sample.at can name: 4, 12\."):
        alone(run, "sample")
    assert not run.samples.exists()
    trained(run, (6,))
    file = run.checkpoints / "step-00000006" / "ema-0.9.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{file}: damaged .*take step 6 out of sample.at"):
        alone(run, "sample")
    assert not run.samples.exists()


def test_samples_of_other_weights_are_refused_at_any_point(make_run, alone):
    run = trained(make_run(*SHORT, "sample.at=[4]"))
    assert alone(run, "sample") == "done"
    early = run.samples_folder(samplings(run.spec)[1])
    (early / "samples.h5").unlink()
    for file in early.glob("chunk-*.h5"):
        file.write_bytes((run.samples / file.name).read_bytes())
    before = written(run.samples)
    with pytest.raises(UserError, match=f"{early}/chunk-00000.h5: made with other weights .*Remove {early}, and"):
        alone(run, "sample")
    assert written(run.samples) == before


def test_gathering_again_takes_all_samplings(make_run, alone):
    run = trained(make_run(*SHORT, "sample.at=[4]"))
    assert alone(run, "sample") == "done"
    files = [run.samples_folder(sampling) / "samples.h5" for sampling in samplings(run.spec)]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    early = samplings(run.spec)[1]
    gather(run, recorded_settings(run, early), early)  # which needs nothing of the main one
    assert [file.exists() for file in files] == [False, True]
    gather_run(run)
    assert [file.read_bytes() for file in files] == before
    # Without chunks, what is gathered speaks for itself; what is not is missing.
    for file in run.samples.rglob("chunk-*.h5"):
        file.unlink()
    gather_run(run)
    files[1].unlink()
    with pytest.raises(UserError, match=f"{files[1].parent}: no chunks to gather"):
        gather_run(run)


def test_the_sampler_of_a_point_has_its_weights_and_settings(make_run, alone):
    run = trained(make_run(*SHORT, "sample.at=[4]", "evaluate.respacings=[7]"))
    assert alone(run, "sample") == "done"
    group = SimpleNamespace(device=torch.device("cpu"))
    for sampling in samplings(run.spec):
        network, settings = load_sampler(run, group, sampling)
        assert settings == recorded_settings(run, sampling)
        assert json.loads(json.dumps(settings)) == settings and not network.training
        assert settings["sample"]["sampler"] == sampling_facts(run.spec, sampling)["sampler"]
    assert load_sampler(run, group)[1] == recorded_settings(run, samplings(run.spec)[0])
