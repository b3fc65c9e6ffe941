"""The specs in configs/ against the flags of the published checkpoints that they name."""

import json

import pytest
import torch
from paths import GOLDEN, ROOT

from jobs.cost.count import run_cost
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.diffusion.told_by_shapes import untold_by_weights
from jobs.kinds.protocol import model_of
from jobs.spec.reading.file import load, written_values
from jobs.spec.reading.frozen import difference
from jobs.spec.samplings import samplings

PUBLISHED = {name: flags for file in ("published_configs", "published_configs_adm")
             for name, flags in json.loads((GOLDEN / f"{file}.json").read_text()).items()}
CONFIGS = {"cifar10": "cifar10_uncond_50M_500K", "imagenet64": "imagenet64_uncond_100M_1500K",
           "imagenet64-cond": "imagenet64_cond_270M_250K", "imagenet64-adm": "64x64_diffusion",
           "upsampler-64-256": "64_256_upsampler"}
LOSSES = {(True, True): "hybrid", (True, False): "hybrid_unscaled", (False, False): "simple"}
"""By learn_sigma and rescale_learned_sigmas."""
MULTIPLIERS = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4]}


def spec_of(config: str) -> DiffusionSpec:
    return load(ROOT / "configs" / f"{config}.yaml").runs[0].spec


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_has_the_flags_of_its_published_checkpoint(config):
    spec, flags = spec_of(config), PUBLISHED[CONFIGS[config]]
    flags = {"image_size": flags.get("large_size"), **flags}
    if config.startswith("upsampler"):
        assert spec.upsampler.low_res_size == flags["small_size"]
    model = spec.model.model_dump()
    for name in ("num_channels", "num_res_blocks", "dropout", "learn_sigma", "use_scale_shift_norm"):
        assert model[name] == flags[name], name
    assert model["resblock_updown"] == flags.get("resblock_updown", False)
    assert model["use_new_attention_order"] == flags.get("use_new_attention_order", False)
    for name in ("num_head_channels", "num_heads_upsample"):
        assert model[name] == (None if flags.get(name, -1) == -1 else flags[name]), name
    if model["num_head_channels"] is None:
        assert model["num_heads"] == flags["num_heads"]
    assert model["channel_mult"] == flags.get("channel_mult", MULTIPLIERS.get(flags["image_size"]))
    assert model["attention_resolutions"] == [int(size) for size in flags["attention_resolutions"].split(",")]
    if "diffusion_steps" in flags:  # the older file has the networks alone
        process = spec.diffusion
        assert (process.diffusion_steps, process.noise_schedule) == (flags["diffusion_steps"], flags["noise_schedule"])
        assert process.predict == "epsilon" and process.rescale_timesteps == flags["rescale_timesteps"]
        assert process.loss == LOSSES[flags["learn_sigma"], flags["rescale_learned_sigmas"]]
    assert (spec.data.image_size, spec.data.class_cond) == (flags["image_size"], flags["class_cond"])
    cost = run_cost(spec)
    assert (cost.parameters, cost.tensors) == (flags["parameters"], flags["keys"])


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_writes_all_that_its_checkpoint_does_not_tell(config):
    written = written_values(ROOT / "configs" / f"{config}.yaml")
    assert untold_by_weights(written, {}, decoder=True) == {}
    with torch.device("meta"):
        assert model_of(spec_of(config)).network(spec_of(config)).num_classes == spec_of(config).data.classes


def test_the_classifier_has_the_flags_of_its_published_checkpoint_and_the_process_of_the_network_that_it_guides():
    spec, flags = load(ROOT / "configs" / "imagenet64-classifier.yaml").runs[0].spec, PUBLISHED["64x64_classifier"]
    model = spec.model.model_dump()
    names = {"num_channels": "classifier_width", "num_res_blocks": "classifier_depth", "pool": "classifier_pool",
             "resblock_updown": "classifier_resblock_updown", "use_scale_shift_norm": "classifier_use_scale_shift_norm",
             "channel_mult": "channel_mult", "num_head_channels": "num_head_channels"}
    assert {ours: model[ours] for ours in names} == {ours: flags[theirs] for ours, theirs in names.items()}
    assert model["attention_resolutions"] == [int(size) for size in flags["classifier_attention_resolutions"].split(",")]
    assert (spec.data.image_size, spec.data.num_classes) == (flags["image_size"], flags["num_classes"])
    cost = run_cost(spec)
    assert (cost.parameters, cost.tensors) == (flags["parameters"], flags["keys"])
    guided = spec_of("imagenet64-adm").diffusion
    assert all(getattr(guided, name) == value for name, value in spec.diffusion.model_dump().items())
    assert untold_by_weights(written_values(ROOT / "configs" / "imagenet64-classifier.yaml"), {}, decoder=False) == {}


def test_the_guided_study_is_the_unguided_one_with_further_samplings():
    plain, guided = spec_of("imagenet64-adm"), spec_of("imagenet64-adm-guided")
    assert difference(plain, guided, ignore=["evaluate.samplings"]) == []
    names = [sampling.changes for sampling in samplings(guided)]
    assert len(names) == 4 and names[0] == () and all("classifier" in str(changes) for changes in names[1:])


def test_the_families_on_cifar10_are_those_of_the_papers_specs():
    study = {run.name: run.spec for run in load(ROOT / "configs" / "families-cifar10.yaml").runs}
    assert list(study) == ["gan", "vae", "ddpm", "iddpm"]
    for name, config in (("ddpm", "ddpm-cifar10"), ("iddpm", "cifar10")):
        changed = difference(spec_of(config), study[name], ignore=["name", "resources"])
        assert {text.partition(":")[0] for text in changed} == {"evaluate.metrics", "evaluate.samplings"}
    for name in ("gan", "vae"):  # of the size that baselines for 32x32 have
        assert 10e6 < run_cost(study[name]).parameters < 40e6
    assert len({spec.evaluate.features for spec in study.values()} | {spec.sample.num_samples for spec in study.values()}) == 2
