"""Sweeps and settings of the command line over keys of any depth, whole sections and null."""

import deep_kind
import pytest
from spec_files import SMALLEST, complaints_about, one_spec

from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import difference, dump, load_frozen

DEEP = SMALLEST + "kind: deep\n"


@pytest.fixture
def deep(monkeypatch):
    monkeypatch.setitem(KINDS, *deep_kind.ADD)


def sweep(ways: str, base: str = SMALLEST) -> str:
    """Return the text of a spec with a sweep; the sweep stands in line 4, below a `base` of three lines."""
    return f"{base}sweep: {{{ways}}}\n"


def runs(path):
    """The runs by name."""
    return {run.name: run for run in load(path).runs}


# Whole sections

def test_a_mapping_is_laid_over_the_section(write):
    base = SMALLEST + "model: {num_heads: 2, dropout: 0.1}\n"
    found = runs(write(sweep("grid: {model: [{num_heads: 8}, {num_heads: 1, num_channels: 64}, {}]}", base)))
    assert list(found) == ["model=8", "model=1-64", "model=empty"]
    assert [(run.spec.model.num_heads, run.spec.model.num_channels, run.spec.model.dropout) for run in found.values()] == [
        (8, 128, 0.1), (1, 64, 0.1), (2, 128, 0.1)]
    assert [run.differs for run in found.values()] == [
        {"model": {"num_heads": 8}}, {"model": {"num_heads": 1, "num_channels": 64}}, {"model": {}}]


def test_a_list_in_a_section_is_replaced_and_defaults_are_filled_in_anew(write):
    base = SMALLEST + "diffusion: {loss: simple}\nmodel: {channel_mult: [1, 1, 1]}\n"
    path = write(sweep("list: [{model: {channel_mult: [1, 2], attention_resolutions: [16]}}, "
                       "{model: {channel_mult: null}, diffusion.loss: vlb}]", base))
    found = list(runs(path).values())
    assert [(run.spec.model.channel_mult, run.spec.model.learn_sigma) for run in found] == [
        ([1, 2], False), ([1, 2, 2, 2], True)]
    assert found[1].differs == {"model": {"channel_mult": None}, "diffusion.loss": "vlb"}


def test_names_do_not_depend_on_how_a_number_in_a_section_is_written(write):
    names = [list(runs(write(sweep(f"grid: {{train: [{{{keys}}}]}}")))) for keys in (
        "lr: 1e-4, iterations: 500, weight_decay: 0", "lr: 0.0001, iterations: 5e2, weight_decay: 0.0")]
    assert names == [["train=0.0001-500-0.0"]] * 2


def test_sections_of_equal_values_get_names_of_their_own(write):
    first, second = runs(write(sweep("grid: {model: [{num_heads: 2}, {num_res_blocks: 2}]}")))
    assert first.startswith("model=2,") and second.startswith("model=2,") and first != second


def test_a_required_section_may_come_from_the_sweep(write):
    path = write("name: x\ndata: {path: digits, image_size: 32}\nsweep: {grid: {train: [{iterations: 1}, {iterations: 2}]}}\n")
    assert [run.spec.train.iterations for run in load(path).runs] == [1, 2]


@pytest.mark.parametrize("ways, expected", [
    ("grid: {model: [{num_heads: 0}]}", "x.yaml:4: model.num_heads: must be at least 1 (got 0)"),
    ("grid: {model: [{num_heds: 2}]}", "x.yaml:4: model.num_heds: unknown key; did you mean `num_heads`?"),
    ("grid: {model: [3]}", "x.yaml:4: model: must be a mapping with keys among num_channels, num_res_blocks, channel_mult, "
     "attention_resolutions, num_heads, num_head_channels, use_new_attention_order, resblock_updown, dropout, "
     "use_scale_shift_norm, num_heads_upsample, learn_sigma (got 3)"),
    ("list: [{model: null}]", "x.yaml:4: model: must be a mapping with keys among num_channels, num_res_blocks, channel_mult, "
     "attention_resolutions, num_heads, num_head_channels, use_new_attention_order, resblock_updown, dropout, "
     "use_scale_shift_norm, num_heads_upsample, learn_sigma (got null)"),
    ("grid: {data: [{}, {channels: 3}]}", "x.yaml:4: sweep.grid.data[1]: 2 points make the same run: data=empty, data=3"),
])
def test_mistakes_in_a_section_are_placed_in_the_sweep(write, ways, expected):
    assert complaints_about(write(sweep(ways))) == [expected]


def test_mistakes_are_placed_where_their_value_is_written(write):
    base = "name: x\ndata: {path: digits, image_size: 32}\ntrain:\n  iterations: 1000\n  lr: -1\n"
    path = write(f"{base}sweep:\n  grid:\n    train:\n      - {{seed: 1}}\n      - {{seed: 2, batch_size: 0}}\n")
    assert complaints_about(path) == [
        "x.yaml:5: train.lr: must be greater than 0 (got -1)",
        "x.yaml:10: train.batch_size: must be at least 1 (got 0); in run train=2-0"]


def test_a_key_that_a_swept_section_lacks_is_missed_there(write):
    path = write("name: x\ntrain: {iterations: 9}\nsweep:\n  grid:\n    data:\n      - {path: a.h5}\n")
    assert complaints_about(path) == ["x.yaml:6: data.image_size: required, but not given"]


# Keys of any depth, and null

def test_keys_of_any_depth(write, deep):
    found = runs(write(sweep("grid: {deep.encoder.width: [4, 16]}", DEEP)))
    assert list(found) == ["width=4", "width=16"]
    assert [(run.spec.deep.encoder.width, run.spec.deep.encoder.depth) for run in found.values()] == [(4, 2), (16, 2)]


def test_equal_ends_of_deep_keys_are_named_by_what_tells_them_apart(write, deep):
    path = write(sweep("zip: {deep.encoder.width: [4, 16], deep.decoder.width: [5, 17], deep.encoder.depth: [1, 2]}", DEEP))
    assert list(runs(path)) == ["encoder.width=4,decoder.width=5,depth=1", "encoder.width=16,decoder.width=17,depth=2"]


def test_a_section_that_may_be_null_is_swept_with_null(write, deep):
    base = DEEP + "deep: {decoder: {width: 3}}\n"
    found = runs(write(sweep("grid: {deep.decoder: [null, {depth: 5}]}", base)))
    assert list(found) == ["decoder=none", "decoder=5"]
    none, some = (run.spec.deep.decoder for run in found.values())
    assert none is None and (some.width, some.depth) == (3, 5)
    whole = runs(write(sweep("grid: {deep: [{decoder: null}, {encoder: {width: 7}}]}", base)))
    assert [(run.spec.deep.decoder, run.spec.deep.encoder.width) for run in whole.values()] == [
        (None, 8), (deep_kind.Block(width=3), 7)]
    assert list(whole) == ["deep=none", "deep=7"]


def test_a_key_inside_a_section_that_is_null_makes_the_section(write, deep):
    path = write(sweep("grid: {deep.decoder.width: [4]}", DEEP))
    assert load(path).runs[0].spec.deep.decoder == deep_kind.Block(width=4)


def test_null_where_it_is_not_allowed(write, deep):
    assert complaints_about(write(sweep("grid: {deep.encoder: [null]}", DEEP))) == [
        "x.yaml:5: deep.encoder: must be a mapping with keys among width, depth (got null)"]
    assert complaints_about(write(sweep("grid: {deep.decoder: [3]}", DEEP))) == [
        "x.yaml:5: deep.decoder: must be a mapping with keys among width, depth or null (got 3)"]
    assert complaints_about(write(sweep("grid: {deep.decoder.width: [null]}", DEEP))) == [
        "x.yaml:5: deep.decoder.width: must be a whole number (got null)"]


@pytest.mark.parametrize("key, expected", [
    ("deep.encoder.widht", "unknown key; did you mean `deep.encoder.width`?"),
    ("deep.width", "unknown key; did you mean `deep.encoder.width`?"),
    ("deep.encoder.width.more", "unknown key; did you mean `deep.encoder.width`?"),
])
def test_unknown_deep_keys(write, deep, key, expected):
    assert complaints_about(write(sweep(f"grid: {{{key}: [1]}}", DEEP))) == [f"x.yaml:5: sweep.grid.{key}: {expected}"]


# Overlapping keys

@pytest.mark.parametrize("ways, expected", [
    ("grid: {model: [{num_heads: 2}], model.dropout: [0.1]}",
     "sweep.grid.model.dropout: overlaps with model, which is swept too"),
    ("grid: {model.dropout: [0.1], model: [{num_heads: 2}]}",
     "sweep.grid.model: overlaps with model.dropout, which is swept too"),
    ("zip: {train.lr: [1], train: [{seed: 2}]}", "sweep.zip.train: overlaps with train.lr, which is swept too"),
    ("grid: {train.lr: [1]}, list: [{}, {train: {seed: 2}}]", "sweep.list[1].train: overlaps with train.lr, which is swept too"),
    ("list: [{train.lr: 1}, {train: {seed: 2}}]", "sweep.list[1].train: overlaps with train.lr, which is swept too"),
])
def test_overlapping_keys_are_refused(write, ways, expected):
    assert complaints_about(write(sweep(ways))) == [f"x.yaml:4: {expected}"]


def test_keys_that_begin_alike_do_not_overlap(write):
    assert len(load(write(sweep("grid: {sample.ddim_eta: [0, 1], sample.sampler: [ddim], sample.seed: [1]}"))).runs) == 2


# The command line

def test_sections_and_null_from_the_command_line(write, deep):
    path = write(DEEP + "deep: {decoder: {width: 3}, encoder: {depth: 9}}\n")
    spec = one_deep(path, "deep={encoder: {width: 5}, decoder: null}")
    assert spec.deep == deep_kind.Deep(encoder=deep_kind.Block(width=5, depth=9), decoder=None)
    spec = one_deep(path, "deep.decoder.depth=4", "deep.encoder.width=6")
    assert spec.deep.decoder == deep_kind.Block(width=3, depth=4) and spec.deep.encoder.width == 6
    spec = one_deep(path, "deep.decoder=null", "deep.decoder.width=1")
    assert spec.deep.decoder == deep_kind.Block(width=1)
    assert complaints_about(path, ["deep=null"]) == [
        "command line: deep=null: deep: must be a mapping with keys among encoder, decoder (got null)"]


def one_deep(path, *overrides):
    (run,) = load(path, overrides).runs
    return run.spec


def test_a_section_of_the_command_line_rules_out_only_the_keys_that_it_sets(write):
    path = write(sweep("grid: {train.seed: [1, 2]}"))
    assert [run.spec.train.lr for run in load(path, ["train={lr: 3}"]).runs] == [3.0, 3.0]
    whole = write(sweep("grid: {train: [{seed: 1}]}"), "y.yaml")
    for override in ("train.lr=3", "train={lr: 3}"):
        assert complaints_about(whole, [override]) == [
            f"y.yaml:4: sweep.grid.train: is swept here, but also set by `command line: {override}`; drop one of the two"]


# Frozen

def test_nested_sections_and_null_survive_their_file(write, deep):
    with_decoder, without = (run.spec for run in load(write(sweep("grid: {deep.decoder: [{width: 4}, null]}", DEEP))).runs)
    for spec in (with_decoder, without):
        assert load_frozen(write(dump(spec), "spec.yaml")) == spec
    assert difference(with_decoder, without) == ["deep.decoder: {width: 4, depth: 2} -> null"]
    assert one_spec(write(SMALLEST)).kind == "diffusion"
