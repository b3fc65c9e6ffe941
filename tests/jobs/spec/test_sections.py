"""What a spec allows by itself, what is filled in, and which settings contradict each other."""

import pytest
from pydantic import ValidationError

from jobs.kinds.diffusion.sections import DiffusionSpecAsWritten, diffusion_contradictions, resolve
from jobs.spec.fields import Section
from jobs.spec.sections import Train, ranks_to_use


def make(name="study", **sections):
    """A resolved spec; sections as in a file, over the smallest valid one."""
    smallest = {"data": {"path": "digits", "image_size": 32}, "train": {"iterations": 1000}}
    return resolve(DiffusionSpecAsWritten.model_validate({"name": name, **smallest, **{
        section: smallest.get(section, {}) | fields for section, fields in sections.items()}}))


def refused(**sections):
    """The place of the one thing that is wrong with a field, and its kind."""
    with pytest.raises(ValidationError) as caught:
        make(**sections)
    (error,) = caught.value.errors()
    return ".".join(map(str, error["loc"])), error["type"]


def test_the_smallest_spec_is_in_order():
    assert diffusion_contradictions(make()) == []


def test_fields_cannot_be_assigned():
    with pytest.raises(ValidationError, match="frozen"):
        make().train.lr = 1.0


@pytest.mark.parametrize("section, field, value, kind", [
    ("train", "learning_rate", 1e-4, "extra_forbidden"),
    ("train", "lr", "1e-4", "float_type"),
    ("train", "lr", 0, "greater_than"),
    ("train", "iterations", 0, "greater_than_equal"),
    ("train", "iterations", 2.5, "int_type"),
    ("train", "iterations", True, "int_type"),
    ("train", "iterations", "5", "int_type"),
    ("train", "seed", -1, "greater_than_equal"),
    ("train", "ema_rate", 0.9999, "list_type"),
    ("train", "lr_anneal", 1, "bool_type"),
    ("train", "precision", "fp64", "literal_error"),
    ("train", "grad_clip", 0.0, "greater_than"),
    ("train", "compile", True, "value_error"),
    ("train", "compile", 0, "value_error"),
    ("train", "compile", "reduce-overhead", "value_error"),
    ("train", "gradient_checkpointing", 1, "value_error"),
    ("train", "gradient_checkpointing", [], "value_error"),
    ("train", "gradient_checkpointing", [16.0], "value_error"),
    ("train", "gradient_checkpointing", [True], "value_error"),
    ("train", "gradient_checkpointing", "16", "value_error"),
    ("sample", "precision", "bfloat16", "literal_error"),
    ("sample", "compile", None, "value_error"),
    ("model", "dropout", 1.0, "less_than"),
    ("model", "num_heads", None, "int_type"),
    ("diffusion", "diffusion_steps", 1, "greater_than_equal"),
    ("diffusion", "noise_schedule", "Cosine", "literal_error"),
    ("sample", "ema_rate", 1.0, "less_than"),
    ("sample", "ddim_eta", 1.5, "less_than_equal"),
    ("sample", "timestep_respacing", "25\n0", "value_error"),
    ("sample", "timestep_respacing", True, "string_type"),
    ("data", "path", "a\tb", "value_error"),
    ("data", "path", None, "string_type"),
])
def test_a_field_refuses(section, field, value, kind):
    assert refused(**{section: {field: value}}) == (f"{section}.{field}", kind)


@pytest.mark.parametrize("section, field", [("data", "path"), ("evaluate", "features"), ("evaluate", "reference")])
def test_file_names_are_not_empty(section, field):
    assert refused(**{section: {field: ""}})[0] == f"{section}.{field}"


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a b", "a/b", "x" * 65, "a\n", "ä"])
def test_a_study_name_is_a_file_name(name):
    assert refused(name=name) == ("name", "value_error")


@pytest.mark.parametrize("time, shown", [
    ("30", "0:30:00"), (30, "0:30:00"), (1440, "24:00:00"), ("30:00", "0:30:00"), ("90:30", "1:30:30"), ("2:30:00", "2:30:00"),
    ("100:00:00", "100:00:00"), ("1-12", "36:00:00"), ("1-12:30", "36:30:00"), ("2-12:30:15", "60:30:15"), ("24:0", "0:24:00")])
def test_wall_times_are_slurms(time, shown):
    stage = make(resources={"train": {"time": time}}).resources.train
    assert stage.time == shown and make(resources={"train": {"time": shown}}).resources.train.time == shown


def test_minutes_are_rounded_up():
    stages = [make(resources={"train": {"time": time}}).resources.train for time in ("1:00", "1:01", "1:00:59")]
    assert [stage.minutes for stage in stages] == [1, 2, 61]


def test_the_report_takes_half_an_hour_but_no_longer_than_the_stages():
    def time_of(**resources):
        return make(resources=resources).resources.of_report.time
    short = {stage: {"time": "10:00"} for stage in ("train", "sample", "evaluate")}
    assert (time_of(), time_of(**short), time_of(**short, report={"time": "2:00:00"})) == ("0:30:00", "0:10:00", "2:00:00")


@pytest.mark.parametrize("time", ["", "1h", "1:2:3:4", "24:00:00\n", "-1:00:00", "1-", "-1", "UNLIMITED", "INFINITE", "0", "0:30",
                                  0, "366-0", "9" * 300, "1:-2", "１0", "3 0"])
def test_wall_times_refused(time):
    assert refused(resources={"train": {"time": time}}) == ("resources.train.time", "value_error")


def test_whole_floats_are_counts():
    iterations = make(train={"iterations": 5e5}).train.iterations
    assert iterations == 500_000 and type(iterations) is int


def test_a_respacing_may_be_written_as_a_number():
    assert make(sample={"timestep_respacing": 250}).sample.timestep_respacing == "250"


@pytest.mark.parametrize("resources, tasks, world_size", [
    ({}, 1, 1),
    ({"nodes": 2, "gpus_per_node": 8}, 8, 16),
    ({"nodes": 3, "tasks_per_node": 2}, 2, 6),
    ({"gpus_per_node": 8, "tasks_per_node": 4}, 4, 4),
])
def test_world_size(resources, tasks, world_size):
    train = make(resources={"train": resources}, train={"batch_size": 96}).resources.train
    assert (train.tasks, train.world_size) == (tasks, world_size)


@pytest.mark.parametrize("nodes, fewest, most", [("1-4", 1, 4), ("2-16", 2, 16), ("3-3", 3, 3), (5, 5, 5), (2.0, 2, 2)])
def test_a_range_of_nodes(nodes, fewest, most):
    train = make(resources={"train": {"nodes": nodes, "tasks_per_node": 2}}, train={"batch_size": 240}).resources.train
    assert (train.fewest_nodes, train.most_nodes, train.is_elastic) == (fewest, most, fewest < most)
    assert train.world_size == 2 * most and [end.nodes for end in train.ends] == list(dict.fromkeys((most, fewest)))


@pytest.mark.parametrize("nodes", [0, "0-4", "4-1", "1-", "-4", "1-2-3", "a-b", "1-2000000000", "", True, 1.5, "2", [1, 4]])
def test_what_is_no_range_of_nodes(nodes):
    assert refused(resources={"train": {"nodes": nodes}}) == ("resources.train.nodes", "value_error")


@pytest.mark.parametrize("batch_size, microbatch, granted, used", [
    (128, None, 12, 8), (128, None, 16, 16), (128, None, 7, 4), (96, None, 36, 32), (96, 8, 36, 12), (7, None, 6, 1),
    (2, None, 1000, 2), (12, 5, 6, 0)])
def test_the_most_ranks_that_share_a_batch(batch_size, microbatch, granted, used):
    assert ranks_to_use(Train(iterations=1, batch_size=batch_size, microbatch=microbatch), granted) == used


# What is filled in

@pytest.mark.parametrize("image_size, channel_mult", [
    (32, [1, 2, 2, 2]), (64, [1, 2, 3, 4]), (256, [1, 1, 2, 2, 4, 4]), (128, [])])
def test_channel_mult_follows_the_image_size(image_size, channel_mult):
    assert make(data={"image_size": image_size}).model.channel_mult == channel_mult


@pytest.mark.parametrize("loss, learned", [
    ("simple", False), ("hybrid", True), ("vlb", True), ("hybrid_unscaled", True), ("vlb_unscaled", True)])
def test_learn_sigma_follows_the_loss(loss, learned):
    assert make(diffusion={"loss": loss}).model.learn_sigma is learned


def test_the_reference_follows_the_data():
    assert make(data={"path": "a.h5"}).evaluate.reference == "a.h5"


def test_what_is_set_stays():
    spec = make(model={"channel_mult": [1, 1, 1, 2], "learn_sigma": False}, evaluate={"reference": "b.h5"},
                diffusion={"loss": "vlb"})
    assert (spec.model.channel_mult, spec.model.learn_sigma, spec.evaluate.reference) == ([1, 1, 1, 2], False, "b.h5")


def test_resolving_again_changes_nothing():
    assert resolve(make()) == make()


# What no single field shows

@pytest.mark.parametrize("sections, key, parts", [
    ({"data": {"class_cond": True}}, "data.num_classes", ["class_cond"]),
    ({"data": {"image_size": 128}}, "model.channel_mult", ["image_size 32, 64, 256"]),
    ({"data": {"image_size": 36}, "model": {"channel_mult": [1, 2, 2, 2], "attention_resolutions": []}},
     "data.image_size", ["36", "3 times", "multiple of 8"]),
    ({"model": {"attention_resolutions": [16, 7]}}, "model.attention_resolutions", ["7", "32, 16, 8, 4"]),
    ({"train": {"gradient_checkpointing": [32, 7]}}, "train.gradient_checkpointing", ["7", "32, 16, 8, 4"]),
    ({"model": {"num_heads": 3}}, "model.num_heads", ["3 heads", "256 channels"]),
    ({"diffusion": {"loss": "simple"}, "model": {"learn_sigma": True}}, "model.learn_sigma",
     ["simple", "loss: hybrid"]),
    ({"model": {"learn_sigma": False}}, "model.learn_sigma", ["hybrid", "loss: simple"]),
    ({"diffusion": {"sigma_small": True}}, "diffusion.sigma_small", ["learn_sigma"]),
    ({"diffusion": {"noise_schedule": "linear", "diffusion_steps": 20}}, "diffusion.diffusion_steps",
     ["20", "linear", "at least 21"]),
    ({"diffusion": {"loss": "vlb", "loss_weight": "min_snr"}}, "diffusion.loss_weight",
     ["vlb does not have", "hybrid or simple"]),
    ({"diffusion": {"loss": "vlb_unscaled", "loss_weight": "p2"}}, "diffusion.loss_weight",
     ["vlb_unscaled", "loss_weight: none"]),
    ({"diffusion": {"predict": "x_prev", "loss_weight": "p2"}}, "diffusion.loss_weight",
     ["predict: x_prev", "epsilon, x_start or v"]),
    ({"diffusion": {"min_snr_gamma": 3.0}}, "diffusion.min_snr_gamma", ["only with loss_weight: min_snr", "loss_weight is none"]),
    ({"diffusion": {"loss_weight": "min_snr", "p2_k": 2.0}}, "diffusion.p2_k", ["only with loss_weight: p2", "is min_snr"]),
    ({"train": {"ema_rate": [0.99]}}, "sample.ema_rate", ["0.9999", "[0.99]"]),
    ({"sample": {"ema_sigma_rel": 0.07}}, "sample.ema_sigma_rel", ["0.07", "train.ema_sigma_rel, such as [0.05, 0.1]"]),
    ({"train": {"ema_sigma_rel": [0.1, 0.1]}}, "train.ema_sigma_rel", ["[0.1, 0.1]", "twice"]),
    ({"train": {"ema_snapshots": 8}}, "train.ema_snapshots", ["only with train.ema_sigma_rel"]),
    ({"train": {"ema_sigma_rel": [0.05, 0.1]}, "sample": {"ema_sigma_rel": 0.02}}, "sample.ema_sigma_rel",
     ["0.02: 16 snapshots", "[0.05, 0.1]", "0.03 to 0.23"]),
    ({"train": {"ema_sigma_rel": [0.05, 0.1], "ema_snapshots": 1}, "sample": {"ema_sigma_rel": 0.07}}, "sample.ema_sigma_rel",
     ["0.07: 1 snapshot", "0.045 to 0.06 or 0.085 to 0.11"]),
    ({"train": {"ema_sigma_rel": [0.05, 0.1]}, "sample": {"ema_sigma_rel": 0.2, "at": [100, "last"]}}, "sample.ema_sigma_rel",
     ["up to step 100"]),
    ({"evaluate": {"nll_examples": 10}}, "evaluate.nll_data", ["held-out"]),
    ({"train": {"batch_size": 10}, "resources": {"train": {"tasks_per_node": 4}}}, "train.batch_size",
     ["10", "4 ranks"]),
    ({"train": {"batch_size": 16, "microbatch": 3}, "resources": {"train": {"tasks_per_node": 2}}},
     "train.microbatch", ["3", "8 examples", "16 over 2 ranks"]),
    ({"sample": {"timestep_respacing": "5000"}}, "sample.timestep_respacing", ["5000", "4000"]),
    ({"sample": {"timestep_respacing": "abc"}}, "sample.timestep_respacing", ["'abc'", "ddim50"]),
    ({"sample": {"timestep_respacing": "ddim3999"}}, "sample.timestep_respacing", ["ddim2000 and ddim4000"]),
])
def test_contradictions(sections, key, parts):
    ((found, message),) = diffusion_contradictions(make(**sections))
    assert found == key
    for part in parts:
        assert part in message


@pytest.mark.parametrize("sections", [
    {"data": {"class_cond": True, "num_classes": 10}},
    {"data": {"image_size": 24}, "model": {"channel_mult": [1, 2, 2, 2], "attention_resolutions": [12, 6]}},
    {"diffusion": {"loss": "simple", "sigma_small": True}},
    {"diffusion": {"predict": "v", "loss_weight": "min_snr", "min_snr_gamma": 3.0, "input_perturbation": 0.1}},
    {"diffusion": {"loss": "simple", "loss_weight": "p2", "p2_k": 2.0, "p2_gamma": 0.5}},
    {"diffusion": {"loss": "vlb", "predict": "v", "input_perturbation": 0.1}},
    {"diffusion": {"loss": "vlb"}, "model": {"learn_sigma": False}},
    {"train": {"ema_rate": []}, "sample": {"ema_rate": None}},
    {"train": {"ema_rate": [], "ema_sigma_rel": [0.05, 0.1]}, "sample": {"ema_sigma_rel": 0.07, "at": [500, "last"]}},
    {"train": {"ema_sigma_rel": [0.1], "ema_snapshots": 1}, "sample": {"ema_sigma_rel": 0.1}},
    {"train": {"batch_size": 16, "microbatch": 2}, "resources": {"train": {"nodes": 2, "gpus_per_node": 4}}},
    {"train": {"batch_size": 7}, "resources": {"train": {"nodes": "1-4"}}},  # of any grant, one rank can do it
    {"evaluate": {"nll_examples": 10, "nll_data": "digits-test"}},
    {"sample": {"timestep_respacing": "ddim50"}},
    {"train": {"gradient_checkpointing": [32, 8], "compile": False}},
    {"train": {"compile": "default", "gradient_checkpointing": True}, "sample": {"compile": "max-autotune", "precision": "fp16"}},
])
def test_these_do_not_contradict(sections):
    assert diffusion_contradictions(make(**sections)) == []


def test_every_contradiction_is_found_at_once():
    spec = make(train={"ema_rate": [0.9], "batch_size": 3}, sample={"timestep_respacing": "x"},
                resources={"train": {"nodes": 2}})
    assert [key for key, _ in diffusion_contradictions(spec)] == [
        "sample.ema_rate", "train.batch_size", "sample.timestep_respacing"]


def test_contradictions_name_fields_that_exist():
    spec = make(data={"class_cond": True}, diffusion={"sigma_small": True}, evaluate={"nll_examples": 1},
                train={"ema_rate": []})
    for key, _ in diffusion_contradictions(spec):
        section = spec
        for part in key.split("."):
            assert isinstance(section, Section) and part in type(section).model_fields
            section = getattr(section, part)
