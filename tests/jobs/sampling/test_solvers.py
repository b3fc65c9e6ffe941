"""Chains of the solvers through the sampling stage: stopped or killed at any step, and on any number of ranks, equal samples."""


import h5py
import numpy as np
import pytest
from broken_sampling import Killed, die_in_the_first_chunk
from noisy_runs import same, samples, trained

import jobs.sampling.loop
from diffusion.samplers.table import SAMPLERS
from jobs.kinds.diffusion.kind import KIND
from jobs.kinds.diffusion.likelihood import basis
from jobs.sampling.chunks import differences, sampling_settings
from jobs.sampling.partial import partial_file
from jobs.spec.samplings import sampling_facts, samplings

SHORT = ("sample.timestep_respacing=logsnr6", "sample.num_samples=6")  # six steps, two chunks
STATES = {"ancestral": {"x"}, "ddim": {"x"}, "heun": {"x"}, "dpmpp_2m": {"x", "before"},
          "unipc": {"x", "corrected", "before", "earlier"}}


@pytest.fixture(autouse=True)
def stops_after_any_step(monkeypatch):
    monkeypatch.setattr(jobs.sampling.loop, "TELL_EVERY", 1)


@pytest.fixture
def after_each_step(monkeypatch, alone):
    """after_each_step(action): from now on sampling meets `action` after the first step that it takes.

    `action`: "stop" or "kill"; None: nothing happens any more. It asks before each chunk, too.
    """
    ask = jobs.parallel.agreement.asked_to_stop

    def prepare(action):
        asked = []

        def answer(group, interruption):
            asked.append(1)
            if len(asked) == 2 and action == "kill":
                raise Killed
            interruption.requested |= len(asked) == 2 and action == "stop"
            return ask(group, interruption)
        monkeypatch.setattr(jobs.sampling.loop, "asked_to_stop", answer)
    return prepare


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stopped_after_each_step_no_step_is_walked_twice_and_samples_are_the_same(make_run, alone, walked, after_each_step,
                                                                                  sampler):
    run, unbroken = (trained(make_run(*SHORT, f"sample.sampler={sampler}", folder=name)) for name in ("run", "unbroken"))
    assert alone(unbroken, "sample") == "done"
    assert walked == 2 * [5, 4, 3, 2, 1, 0]
    walked.clear()
    for taken in range(12):
        after_each_step("stop")
        assert alone(run, "sample") == "interrupted"
        assert len(walked) == taken + 1
        if walked[-1]:
            with h5py.File(partial_file(run.samples, taken // 6)) as file:
                assert set(file) == STATES[sampler] | {"generator"}
    after_each_step(None)
    assert alone(run, "sample") == "done"
    assert walked == 2 * [5, 4, 3, 2, 1, 0] and same(run, unbroken)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_after_each_step_samples_are_the_same(make_run, alone, walked, after_each_step, monkeypatch, sampler):
    run, unbroken = (trained(make_run(*SHORT, f"sample.sampler={sampler}", folder=name)) for name in ("run", "unbroken"))
    assert alone(unbroken, "sample") == "done"
    monkeypatch.setattr(jobs.sampling.loop, "SAVE_EVERY_S", 0.0)
    save, written = jobs.sampling.loop.save_partial, []

    def save_and_die(*arguments):
        save(*arguments)
        written.append(1)
        raise Killed
    monkeypatch.setattr(jobs.sampling.loop, "save_partial", save_and_die)
    walked.clear()
    for _ in range(10):  # each of two chunks is saved after five of its steps
        with pytest.raises(Killed):
            alone(run, "sample")
    assert alone(run, "sample") == "done" and len(written) == 10
    assert walked == 2 * [5, 4, 3, 2, 1, 0] and same(run, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "heun"])
def test_kill_9_within_a_chain_and_another_number_of_ranks_change_no_byte(make_run, ranks, alone, sampler):
    run, unbroken = (trained(make_run(*SHORT, f"sample.sampler={sampler}", folder=name)) for name in ("run", "unbroken"))
    assert alone(unbroken, "sample") == "done"
    die_in_the_first_chunk(run)  # after three of six steps
    assert ranks(run, "sample", 2) == 0
    assert same(run, unbroken)


@pytest.mark.slow
def test_samplers_chains_and_thresholds_show_in_the_samples(make_run, alone):
    changes = [(f"sample.sampler={sampler}", f"sample.timestep_respacing={chain}") for sampler in SAMPLERS
               for chain in ("logsnr6", "ddim8" if sampler == "heun" else "quad6")]
    by_unipc = ("sample.sampler=unipc", "sample.timestep_respacing=logsnr6", "sample.clip_denoised=dynamic")
    changes += [(*by_unipc[:2], "sample.clip_denoised=false"), by_unipc, (*by_unipc, "sample.dynamic_thresholding_ratio=0.5")]
    made = []
    for number, change in enumerate(changes):
        run = trained(make_run("sample.num_samples=6", *change, folder=str(number)))
        assert alone(run, "sample") == "done"
        made.append(samples(run)["images"])
    for number, images in enumerate(made):
        assert not any(np.array_equal(images, before) for before in made[:number]), changes[number]


def test_a_younger_key_is_part_of_the_samples_identity_only_where_it_changes_them(make_run):
    settings = sampling_settings(make_run().spec, "ab")
    assert "dynamic_thresholding_ratio" not in settings["sample"] and settings["sample"]["clip_denoised"] is True
    changed = make_run("sample.clip_denoised=dynamic", "sample.dynamic_thresholding_ratio=0.9", folder="other").spec
    assert differences(sampling_settings(changed, "ab"), settings) == (
        "sample.clip_denoised dynamic instead of True; sample.dynamic_thresholding_ratio 0.9 instead of None")


def test_the_bound_clips_to_the_range_of_the_data_where_samples_are_clipped_dynamically(make_run):
    number = KIND.numbers(make_run().spec)[0]
    bases = {clip: basis(make_run(f"sample.clip_denoised={clip}", folder=clip).spec, number)
             for clip in ("true", "false", "dynamic")}
    assert bases["dynamic"] == bases["true"] != bases["false"]


def test_facts_have_the_steps_that_there_are_and_the_evaluations_that_they_take(make_run):
    spec = make_run("sample.sampler=heun", "sample.timestep_respacing=logsnr30").spec
    facts = sampling_facts(spec, samplings(spec)[0])
    assert (facts["timestep_respacing"], facts["sampling_steps"], facts["evaluations"]) == ("logsnr30", 23, 45)
