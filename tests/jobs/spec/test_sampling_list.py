"""evaluate.samplings: what a list of mappings stands for, and the mistakes in it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_files import SMALLEST

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.fields import Section
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import dump, parse_frozen
from jobs.spec.sampling_list import MOST, Listed, _choices
from jobs.spec.sampling_names import folder_name, in_words
from jobs.spec.samplings import Sampling, by_weights, differing, main_sampling, sampling_facts, samplings, with_sampling

SPEC = SMALLEST + "diffusion: {diffusion_steps: 100}\n"


@pytest.fixture
def listed(write):
    """listed("[{seed: 1}]") -> the resolved spec with this list."""
    def make(text: str, more: str = ""):
        return load(write(f"{SPEC}{more}evaluate:\n  samplings: {text}\n")).runs[0].spec
    return make


def others(spec):
    """What each sampling beside the main one has for itself."""
    return [differing(spec, sampling) for sampling in samplings(spec)[1:]]


def test_a_list_of_values_means_each_and_lists_multiply(listed):
    spec = listed("[{sampler: ddim, timestep_respacing: [10, 20]}, {seed: [1, 2], ddim_eta: [0.5, 1]}, {clip_denoised: false}]")
    assert others(spec) == [
        {"sampler": "ddim", "timestep_respacing": "10"}, {"sampler": "ddim", "timestep_respacing": "20"},
        {"ddim_eta": 0.5, "seed": 1}, {"ddim_eta": 1.0, "seed": 1}, {"ddim_eta": 0.5, "seed": 2}, {"ddim_eta": 1.0, "seed": 2},
        {"clip_denoised": False}]
    assert samplings(spec)[0] == main_sampling(spec) and {sampling.step for sampling in samplings(spec)} == {1000}
    assert with_sampling(spec, samplings(spec)[3]).sample.ddim_eta == 0.5
    assert parse_frozen(dump(spec), "x") == spec


def test_they_follow_the_other_samplings_and_count_once(write):
    study = load(write(SPEC + "sample: {at: [7, last]}\nevaluate:\n  respacings: [10]\n  samplings:\n    - {sampler: ancestral}\n"
                       "    - {timestep_respacing: [10, 20]}\n    - {timestep_respacing: 20, seed: 0}\n    - {seed: [3, 3]}\n"))
    assert others(study.runs[0].spec) == [{}, {"timestep_respacing": "10"}, {"sampler": "ddim", "timestep_respacing": "10"},
                                          {"timestep_respacing": "20"}, {"seed": 3}]
    assert study.notes == (
        "x.yaml:9: evaluate.samplings[0]: samples as the main sampling does, and counts once",
        "x.yaml:10: evaluate.samplings[1]: one of its ways samples as evaluate.respacings does, and counts once",
        "x.yaml:11: evaluate.samplings[2]: samples as evaluate.samplings[1] does, and counts once",
        "x.yaml:12: evaluate.samplings[3]: has two values that sample alike, which count once")


@pytest.mark.parametrize("text, message", [
    ("{sampler: ddim}", "evaluate.samplings: must be a list, such as [1, 2] (got {sampler: ddim})"),
    ("[ddim]", "evaluate.samplings[0]: must be a mapping of names to values (got ddim)"),
    ("[{}, {sampler: dim}]", "evaluate.samplings[1].sampler: must be 'ancestral'"),
    ("[{sampler: [ddim, dim]}]", "evaluate.samplings[0].sampler[1]: must be 'ancestral'"),
    ("[{samplr: [ddim, x]}]", "evaluate.samplings[0].samplr: unknown key; did you mean `sampler`?"),
    ("[{seed: []}]", "evaluate.samplings[0].seed: must have at least one value"),
    ("[{seed: -1}]", "evaluate.samplings[0].seed: must be at least 0 (got -1)"),
    ("[{seed: [[1, 2]]}]", "evaluate.samplings[0].seed[0]: must be a whole number (got [1, 2])"),
    ("[{ddim_eta: [0, x]}]", "evaluate.samplings[0].ddim_eta[1]: must be a number (got x)"),
    ("[{num_samples: 5}]", "evaluate.samplings[0].num_samples: belongs to all samplings of a run: metrics of unlike numbers"),
    ("[{at: [5]}]", "evaluate.samplings[0].at: belongs to all samplings of a run: "),
    ("[{batch_size: 5, seed: 1}]", "evaluate.samplings[0].batch_size: belongs to all samplings of a run: "),
    ("[{compile: default}]", "evaluate.samplings[0].compile: belongs to all samplings of a run: "),
    ("[{cuda_graph: true}]", "evaluate.samplings[0].cuda_graph: belongs to all samplings of a run: "),
    ("[{guidance: [null, {kind: classifier, scale: 2}]}]", "evaluate.samplings[0].guidance[1].run: required, but not given"),
    ("[{guidance: {kind: free}}]", "evaluate.samplings[0].guidance: must be a mapping whose kind is classifier_free, classifier"),
    ("[{ema_rate: [0.9999, 0.5]}]", "evaluate.samplings[0].ema_rate[1]: 0.5 is not among train.ema_rate [0.9999]"),
    ("[{timestep_respacing: [10, 200]}]", "evaluate.samplings[0].timestep_respacing[1]: section 1 of 1 has 100 of the 100 steps"),
    ("[{seed: [1, 2], sampler: [ddim], ddim_eta: 2}]", "evaluate.samplings[0].ddim_eta: must be at most 1 (got 2)"),
])
def test_mistakes_are_said_with_the_line_and_the_place_in_the_list(write, text, message):
    with pytest.raises(UserError) as raised:
        load(write(f"{SPEC}evaluate:\n  samplings: {text}\n"))
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"x.yaml:6: {message}") and len(lines) == len(set(lines))


def test_lists_that_multiply_without_end_are_refused_at_once(write):
    many = ", ".join(f"{key}: {list(range(900))}" for key in ("seed", "ddim_eta", "timestep_respacing", "sampler"))
    with pytest.raises(UserError, match=rf"samplings\[0\]: makes 656,100,000,000 samplings; {MOST:,} are the most"):
        load(write(f"{SPEC}evaluate:\n  samplings: [{{{many}}}]\n"))
    one = f"{{seed: [{', '.join(map(str, range(600)))}]}}"
    with pytest.raises(UserError, match=rf"samplings\[1\]: {MOST:,} samplings are the most"):
        load(write(f"{SPEC}evaluate:\n  samplings: [{one}, {one}]\n"))


def test_what_the_main_sampling_contradicts_is_said_of_it_alone(write):
    with pytest.raises(UserError) as raised:
        load(write(f"{SPEC}sample: {{ema_rate: 0.5}}\nevaluate: {{samplings: [{{seed: 1}}, {{ema_rate: 0.4}}]}}\n"))
    assert [line.split(" is ")[0] for line in str(raised.value).splitlines()] == [
        "x.yaml:5: sample.ema_rate: 0.5", "x.yaml:6: evaluate.samplings[1].ema_rate: 0.4"]


def test_a_point_of_a_sweep_may_have_a_list_of_its_own(write):
    study = load(write(f"{SPEC}sweep: {{grid: {{evaluate.samplings: [[], [{{seed: [1, 2]}}]]}}}}\n"))
    assert [len(samplings(run.spec)) for run in study.runs] == [1, 3]


# Lists inside a section of `sample` ------------------------------------------------------------------------------------

class Guide(Section):
    kind: str
    scale: float = 1.0
    interval: list[float] | None = None


class Own(Section):
    seed: int = 0
    guide: Guide | None = None


def values(entry):
    return [choice.value for choice in _choices(entry, [Own], ())]


def test_lists_inside_a_section_mean_each_and_a_key_that_is_a_list_needs_a_list_of_lists():
    assert values({"guide": {"kind": "a", "scale": [1, 2]}}) == [{"guide": {"kind": "a", "scale": 1}},
                                                               {"guide": {"kind": "a", "scale": 2}}]
    assert values({"guide": {"kind": "a", "interval": [1, 2]}}) == [{"guide": {"kind": "a", "interval": [1, 2]}}]
    assert values({"guide": {"kind": "a", "interval": [[1, 2], None]}}) == [
        {"guide": {"kind": "a", "interval": [1, 2]}}, {"guide": {"kind": "a", "interval": None}}]
    assert values({"guide": [None, {"kind": "a", "scale": [1, 2]}], "seed": 3}) == [
        {"guide": None, "seed": 3}, {"guide": {"kind": "a", "scale": 1}, "seed": 3},
        {"guide": {"kind": "a", "scale": 2}, "seed": 3}]


def test_the_place_of_a_value_in_nested_lists_is_known():
    choice = _choices({"guide": [None, {"kind": "a", "scale": [1, 2]}]}, [Own], ())[2]
    each = Listed((), 4, choice.places)
    assert each.key(("guide", "scale")) == "evaluate.samplings[4].guide[1].scale[1]"
    assert each.key(("guide", "a", "scale")) == "evaluate.samplings[4].guide[1].scale[1]"  # a union's tag is in pydantic's path
    assert each.key(("guide", "unknown")) == "evaluate.samplings[4].guide[1]"
    assert each.key(("other",)) == "evaluate.samplings[4]"


# Names, facts, and the order of work -----------------------------------------------------------------------------------

def test_folders_say_what_differs(listed):
    spec = listed("[{sampler: ddim, timestep_respacing: [10, '']}, {ema_rate: null, seed: 2}, {clip_denoised: false}]")
    assert [folder_name(spec, sampling) for sampling in samplings(spec)[1:]] == [
        "step-00001000,ddim,10", "step-00001000,ddim,full", "step-00001000,ancestral,full,ema_rate=none,seed=2",
        "step-00001000,ancestral,full,clip_denoised=false"]
    assert [in_words(differing(spec, sampling)) for sampling in samplings(spec)] == [
        "", "ddim, 10 steps", "ddim", "no ema_rate, seed 2", "clip_denoised false"]


def test_sections_are_named_by_their_values():
    guide = {"guidance": {"kind": "classifier_free", "scale": 1.5, "interval": [0.1, 3.0], "at": None}}
    assert in_words({"sampler": "unipc", "timestep_respacing": ""} | guide) == (
        "unipc, full chain, guidance classifier_free 1.5 interval 0.1–3")
    assert in_words({"guidance": None}) == "no guidance"


SETTINGS = st.fixed_dictionaries({}, optional={
    "sampler": st.sampled_from(["ancestral", "ddim"]), "timestep_respacing": st.sampled_from(["", "1", "10", "ddim10", "5,5"]),
    "seed": st.integers(0, 2 ** 62), "ddim_eta": st.floats(0, 1), "ema_rate": st.sampled_from([None, 0.9, 0.99, 0.999]),
    "precision": st.sampled_from(["fp32", "bf16"]), "clip_denoised": st.booleans()})


@settings(max_examples=50)
@given(st.lists(SETTINGS, max_size=6))
def test_no_two_samplings_share_a_folder(tmp_path_factory, entries):
    file = tmp_path_factory.getbasetemp() / "x.yaml"
    file.write_text(SPEC.replace("iterations: 1000", "iterations: 1000, ema_rate: [0.9, 0.99, 0.999]")
                    + f"sample: {{ema_rate: 0.9}}\nevaluate: {{samplings: {entries!r}}}\n".replace("None", "null")
                    .replace("True", "true").replace("False", "false").replace("'", '"'))
    run = RunDir(file.parent, load(file).runs[0].spec)
    folders = [run.samples_folder(sampling).name for sampling in samplings(run.spec)]
    assert len(set(map(str.lower, folders))) == len(folders) == len(set(samplings(run.spec)))
    assert all(re.fullmatch(r"[A-Za-z0-9.,_=+-]{1,200}", name) for name in folders)


def test_a_thousand_samplings_that_differ_in_one_value_have_unlike_hashes(listed):
    several = samplings(listed("[{guidance: {kind: autoguidance, at: 1, interval: [[0.1, 1], [0.2, 2]], "
                     f"scale: [{', '.join(str(1 + one / 100) for one in range(1, 501))}]}}}}]"))
    assert len(set(map(hash, several))) == len(several) == 1001
    assert hash(Sampling(1, (("at", [1, "last"]),))) == hash(Sampling(1, (("at", [1, "last"]),)))


def test_facts_count_evaluations_and_say_what_differs(listed):
    spec = listed("[{sampler: ddim, timestep_respacing: 10}]")
    assert [sampling_facts(spec, sampling) for sampling in samplings(spec)] == [
        {"step": 1000, "sampler": "ancestral", "timestep_respacing": "", "sampling_steps": 100, "evaluations": 100,
         "differs": {}},
        {"step": 1000, "sampler": "ddim", "timestep_respacing": "10", "sampling_steps": 10, "evaluations": 10,
         "differs": {"sampler": "ddim", "timestep_respacing": "10"}}]


def test_samplings_of_the_same_weights_are_done_one_after_another(listed):
    spec = listed("[{ema_rate: null}, {seed: 1}, {ema_rate: null, seed: 1}]", "sample: {at: [7]}\n")
    assert [(sampling.step, sorted(differing(spec, sampling))) for sampling in by_weights(spec)] == [
        (1000, []), (1000, ["seed"]), (1000, ["ema_rate"]), (1000, ["ema_rate", "seed"]), (7, [])]


def test_an_average_by_its_rate_replaces_one_by_its_length(write):
    lengths = SPEC.replace("train: {", "train: {ema_rate: [0.9], ema_sigma_rel: [0.05, 0.1], ")
    assert lengths != SPEC
    spec = load(write(lengths + "sample: {ema_rate: null, ema_sigma_rel: 0.07}\n"
                      "evaluate: {samplings: [{ema_rate: 0.9}, {ema_sigma_rel: 0.1}]}\n")).runs[0].spec
    assert [(with_sampling(spec, one).sample.ema_rate, with_sampling(spec, one).sample.ema_sigma_rel)
            for one in samplings(spec)] == [(None, 0.07), (0.9, None), (None, 0.1)]
    both = load(write(lengths + "sample:\n  ema_rate: 0.9\n  ema_sigma_rel: 0.07\n"))
    (note,) = both.notes
    assert "sample.ema_rate has no effect where sample.ema_sigma_rel chooses the average" in note
