"""What weights tell of a spec, and what `iddpm import` asks a person to write down."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import GOLDEN
from small_runs import SMALL_SPEC

from diffusion.networks.half_unet import HalfUNet
from diffusion.networks.pools import POOLS
from diffusion.networks.unet import UNet
from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.kinds.diffusion.told_by_shapes import told_of_half_unet, told_of_unet, untold_by_weights
from jobs.kinds.foreign_settings import settled
from jobs.kinds.foreign_weights import open_weights, read_state_dict
from jobs.run.checkpoints import final_checkpoint
from jobs.run.directory import RunDir
from slurm.cli.weights import import_run

PUBLISHED = {name: flags for file in ("published_configs", "published_configs_adm")
             for name, flags in json.loads((GOLDEN / f"{file}.json").read_text()).items()}
UNTOLD = {"model": {"use_new_attention_order": False, "num_heads": 4, "num_heads_upsample": None},
          "diffusion": {"rescale_timesteps": True, "noise_schedule": "cosine", "diffusion_steps": 40, "predict": "epsilon"}}
"""The least that a spec says of weights."""


def shapes_of(network: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in network.state_dict().items()}


UNET = {name: flags for name, flags in PUBLISHED.items() if flags.get("network", "UNetModel") == "UNetModel"}
CLASSIFIERS = {name: flags for name, flags in PUBLISHED.items() if flags.get("network") == "EncoderUNetModel"}


@pytest.mark.parametrize("name", UNET)
def test_published_networks_tell_their_shape(golden, name):
    multipliers = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}
    flags = {"num_head_channels": -1, "num_heads_upsample": -1, "resblock_updown": False, "use_new_attention_order": False,
             "channel_mult": multipliers.get(UNET[name]["image_size"]),
             "num_classes": 1000 if UNET[name]["class_cond"] else None} | UNET[name]
    with torch.device("meta"):
        shapes = shapes_of(UNet(**golden.adm_settings(flags)))
    told = told_of_unet(shapes, {"data": {"image_size": flags["image_size"]}})
    keys = ("num_channels", "num_res_blocks", "channel_mult", "resblock_updown", "use_scale_shift_norm", "learn_sigma")
    expected = {f"model.{key}": flags[key] for key in keys} | {"data.channels": 3, "data.class_cond": flags["class_cond"]}
    expected |= {"data.num_classes": 1000} if flags["class_cond"] else {}
    expected |= {"diffusion.loss": "simple"} if not flags["learn_sigma"] else {}
    attended = {int(size) for size in flags["attention_resolutions"].split(",")}
    assert set(told.pop("model.attention_resolutions")) == attended
    assert told == expected


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_published_classifiers_tell_their_shape(golden, name):
    flags = CLASSIFIERS[name]
    with torch.device("meta"):
        shapes = shapes_of(HalfUNet(**golden.half_settings(flags)))
    told = told_of_half_unet(shapes, {"data": {"image_size": flags["image_size"]}})
    assert told == {
        "data.channels": 3, "data.class_cond": True, "data.num_classes": 1000, "model.pool": "attention",
        "model.num_channels": 128, "model.num_res_blocks": flags["classifier_depth"], "model.channel_mult": flags["channel_mult"],
        "model.resblock_updown": True, "model.use_scale_shift_norm": True, "model.attention_resolutions": [32, 16, 8]}
    assert told_of_unet(shapes, {"data": {"image_size": flags["image_size"]}}) == {}


@settings(max_examples=60, deadline=None)
@given(channel_mult=st.lists(st.sampled_from([0.5, 0.3, 1, 2, 1.7]), min_size=1, max_size=4), num_res_blocks=st.integers(1, 3),
       attention=st.sets(st.sampled_from([16, 8, 4, 2])), num_channels=st.sampled_from([6, 10, 32]), pool=st.sampled_from(POOLS),
       updown=st.booleans(), scale_shift=st.booleans(), num_classes=st.sampled_from([None, 7]),
       out_channels=st.sampled_from([1, 2]))
def test_any_network_that_is_built_as_it_tells_has_its_shapes(channel_mult, num_res_blocks, attention, num_channels, pool, updown,
                                                               scale_shift, num_classes, out_channels):
    built = dict(image_size=16, in_channels=1, num_channels=num_channels, num_res_blocks=num_res_blocks,
                 channel_mult=channel_mult, attention_resolutions=sorted(attention), num_heads=1,
                 resblock_updown=updown, use_scale_shift_norm=scale_shift)
    written = {"data": {"image_size": 16}}
    with torch.device("meta"):
        whole = UNet(**built, out_channels=out_channels, num_classes=num_classes)
        half = HalfUNet(**built, out_channels=5, pool=pool)
        for network, tell in ((whole, told_of_unet), (half, told_of_half_unet)):
            told = tell(shapes_of(network), written)
            assert told["data.channels"] == 1 and told["model.use_scale_shift_norm"] == scale_shift
            if "model.num_res_blocks" not in told:
                # Several depths would have these shapes.
                assert network is half and (updown or len(channel_mult) == 1) and pool != "attention"
                assert "model.num_res_blocks" in untold_by_weights(UNTOLD, told, decoder=False)
                continue
            again = built | {key.removeprefix("model."): value for key, value in told.items() if hasattr(whole, key[6:])}
            again |= {"num_res_blocks": told["model.num_res_blocks"], "channel_mult": told["model.channel_mult"]}
            rebuilt = (UNet(**again, out_channels=out_channels, num_classes=told.get("data.num_classes")) if network is whole
                       else HalfUNet(**again, out_channels=told["data.num_classes"], pool=told["model.pool"]))
            assert shapes_of(rebuilt) == shapes_of(network)


def test_what_no_weights_tell_has_to_be_written():
    assert set(untold_by_weights({}, {}, decoder=True)) == {
        "model.use_new_attention_order", "model.num_heads", "model.num_heads_upsample", "diffusion.rescale_timesteps",
        "diffusion.noise_schedule", "diffusion.diffusion_steps", "diffusion.predict"}
    assert untold_by_weights(UNTOLD, {}, decoder=True) == {}
    # Channels of a head say all about heads.
    heads = {"model": {"use_new_attention_order": True, "num_head_channels": 64}, "diffusion": UNTOLD["diffusion"]}
    assert untold_by_weights(heads, {}, decoder=True) == {}
    heads["model"]["num_head_channels"] = None
    assert set(untold_by_weights(heads, {}, decoder=True)) == {"model.num_heads", "model.num_heads_upsample"}
    # A classifier has no way up, and its default of channels of a head wins over num_heads unless it is null.
    assert set(untold_by_weights({}, {}, decoder=False)) == {
        "model.use_new_attention_order", "model.num_head_channels", "diffusion.rescale_timesteps", "diffusion.noise_schedule",
        "diffusion.diffusion_steps"}
    assert set(untold_by_weights(heads, {}, decoder=False)) == {"model.num_heads"}


@pytest.fixture
def spec_file(tmp_path, monkeypatch):
    """Write x.yaml: the small spec without any setting of the network, but with those that no weights tell."""
    monkeypatch.chdir(tmp_path)

    def write(**changes) -> Path:
        small = {key: value for key, value in SMALL_SPEC.items() if key not in ("model", "diffusion", "data")}
        Path("x.yaml").write_text(json.dumps(small | {"data": {"path": "digits", "image_size": 8}} | UNTOLD | changes))
        return Path("x.yaml")
    return write


def weights(**changes) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    built = dict(image_size=8, in_channels=1, out_channels=2, num_channels=8, num_res_blocks=2, channel_mult=[0.5, 1.5],
                 attention_resolutions=[4], num_heads=4, num_classes=10, resblock_updown=True)
    return {key: torch.randn_like(value) for key, value in UNet(**built | changes).state_dict().items()}


def test_a_spec_without_the_network_takes_it_from_the_weights(spec_file, capsys):
    torch.save(weights(), "model000012.pt")
    import_run(Path("model000012.pt"), spec_file(), [], Path("runs"), None)
    out = capsys.readouterr().out
    told = ["data.channels=1", "model.num_channels=8", "model.num_res_blocks=2", "model.channel_mult=[0.5,1.5]",
            "model.attention_resolutions=[4]", "model.resblock_updown=true", "data.class_cond=true", "data.num_classes=10"]
    assert all(setting in out for setting in told) and "learn_sigma" not in out  # which the default loss has already
    run = RunDir(Path("runs/small/run"))
    assert (run.spec.model.channel_mult, run.spec.data.num_classes, run.spec.model.learn_sigma) == ([0.5, 1.5], 10, True)
    for key, value in weights().items():
        assert torch.equal(final_checkpoint(run).weights(None)[key], value)
    # The command that it prints agrees with the frozen spec.
    from jobs.run.study.freezing import freeze
    from jobs.spec.reading.file import load
    assert freeze(load("x.yaml", told), Path("runs"))[0].path == run.path


def test_a_classifier_is_imported_and_demands_its_heads(spec_file, capsys):
    torch.manual_seed(0)
    built = dict(image_size=8, in_channels=1, out_channels=10, num_channels=8, num_res_blocks=1, channel_mult=[1, 2],
                 attention_resolutions=[4], num_head_channels=4, resblock_updown=True, pool="spatial_v2")
    own = {key: torch.randn_like(value) for key, value in HalfUNet(**built).state_dict().items()}
    torch.save(own, "model000012.pt")
    network = {"num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4], "resblock_updown": True}
    spec = spec_file(kind="noisy_classifier", model=network | {"use_new_attention_order": False},
                     diffusion={key: value for key, value in UNTOLD["diffusion"].items() if key != "predict"},
                     sample={"ema_rate": 0.9}, evaluate={})
    with pytest.raises(UserError, match="\n  model.num_head_channels: 64 in the published classifiers") as refusal:
        import_run(Path("model000012.pt"), spec, [], Path("runs"), None)
    assert len(str(refusal.value).splitlines()) == 2
    import_run(Path("model000012.pt"), spec, ["model.num_head_channels=4"], Path("runs"), None)
    out = capsys.readouterr().out
    assert "model.pool=spatial_v2" in out and "data.num_classes=10" in out and "evaluates it" in out
    saved = final_checkpoint(RunDir(Path("runs/small/run"))).weights(None)
    assert all(torch.equal(saved[key], value) for key, value in own.items())


def test_weights_without_a_learned_variance_choose_the_loss(spec_file, capsys):
    torch.save(weights(out_channels=1), "model000012.pt")
    import_run(Path("model000012.pt"), spec_file(), [], Path("runs"), None)
    assert "diffusion.loss=simple" in capsys.readouterr().out
    assert RunDir(Path("runs/small/run")).spec.model.learn_sigma is False


def test_each_setting_that_no_weights_tell_is_named_and_nothing_is_written(spec_file):
    torch.save(weights(), "model000012.pt")
    for section, key in [(section, key) for section, values in UNTOLD.items() for key in values]:
        spec = spec_file(**{section: {name: value for name, value in UNTOLD[section].items() if name != key}})
        message = rf"write them in x.yaml \(a default does not count\):\n  {section}.{key}: "
        with pytest.raises(UserError, match=message) as refusal:
            import_run(Path("model000012.pt"), spec, [], Path("runs"), None)
        assert len(str(refusal.value).splitlines()) == 2
        import_run(Path("model000012.pt"), spec, [f"{section}.{key}={json.dumps(UNTOLD[section][key])}", f"name={section}-{key}"],
                   Path("elsewhere"), None)
    assert not Path("runs").exists()
    with pytest.raises(UserError) as refusal:
        import_run(Path("model000012.pt"), spec_file(model={}, diffusion={}), [], Path("runs"), None)
    assert all(f"\n  {section}.{key}: " in str(refusal.value) for section, values in UNTOLD.items() for key in values)


def test_what_is_written_stays_and_is_compared_with_the_weights(spec_file):
    torch.save(weights(), "a.pt")
    spec = spec_file(model=UNTOLD["model"] | {"num_channels": 16})
    study, told = settled(Path("a.pt"), read_state_dict(Path("a.pt")), spec, [])
    assert study.runs[0].spec.model.num_channels == 16 and not any("num_channels" in setting for setting in told)
    with pytest.raises(UserError, match=r"time_embed.0.weight is \(32, 8\), the spec's network has \(64, 16\)"):
        open_weights(Path("a.pt"), study.runs[0].spec)


def test_a_sweep_of_one_run_says_its_settings_too_and_one_of_several_is_refused(spec_file):
    torch.save(weights(), "a.pt")
    read = read_state_dict(Path("a.pt"))
    model = {"channel_mult": [0.5, 1.5], "attention_resolutions": [4], "num_heads": 4, "num_heads_upsample": None}
    spec = spec_file(model=model, sweep={"grid": {"model.use_new_attention_order": [True]}})
    assert settled(Path("a.pt"), read, spec, [])[0].runs[0].spec.model.use_new_attention_order is True
    with pytest.raises(UserError, match="but this spec is a sweep of 2"):
        settled(Path("a.pt"), read, spec_file(model=model, sweep={"grid": {"train.seed": [0, 1]}}), [])


def test_other_weights_are_refused_for_what_they_are(spec_file):
    torch.save({"layer.weight": torch.zeros(2)}, "other.pt")
    with pytest.raises(UserError, match="other.pt: weights of another network: missing time_embed.0.weight"):
        import_run(Path("other.pt"), spec_file(model={"channel_mult": [1], "attention_resolutions": []}), [], Path("runs"), None)


@pytest.mark.parametrize("name", ["adm_new_order", "adm_half_width", "iddpm_heads_upsample"])
def test_a_network_of_the_reference_is_imported_and_gives_its_numbers(golden, spec_file, name):
    facts = golden.facts("adm_unets")[name]
    torch.save(golden.formula_weights(facts["state_dict"]), "model000012.pt")
    heads = {key: facts[key] if facts[key] != -1 else None for key in ("num_heads", "num_head_channels", "num_heads_upsample")}
    spec = spec_file(data={"path": "digits", "image_size": facts["image_size"]}, evaluate={"metrics": []},
                     model=heads | {"use_new_attention_order": facts["use_new_attention_order"]})
    import_run(Path("model000012.pt"), spec, [], Path("runs"), None)
    run = RunDir(Path("runs/small/run"))
    network = build_network(run.spec).eval()
    network.load_state_dict(final_checkpoint(run).weights("0.9"))
    arrays = golden.tensors("adm_unets")
    with torch.no_grad():
        out = network(arrays[f"{name}_x"], arrays[f"{name}_t"], arrays.get(f"{name}_y"))
    assert (out - arrays[f"{name}_out"]).norm() <= 1e-5 * out.norm()
