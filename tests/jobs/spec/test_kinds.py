"""`kind:` in specs: unknown kinds, sections of other kinds, and sweeps over kinds."""

import deep_kind
import linear_kind
import pytest
from spec_files import SMALLEST, complaints_about, one_spec

from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import difference, dump, load_frozen

FOREIGN = "belongs to kind: linear, but this spec is of kind: diffusion"
FOREIGN_TO_LINEAR = "belongs to kind: diffusion, but this spec is of kind: linear"


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    """Have three kinds, so that messages that name all of them stay what they are."""
    for name in KINDS.keys() - {"diffusion", "noisy_classifier"}:
        monkeypatch.delitem(KINDS, name)
    monkeypatch.setitem(KINDS, *linear_kind.ADD)


# One kind

def test_diffusion_is_the_default(write):
    spec = one_spec(write(SMALLEST))
    assert type(spec) is DiffusionSpec and spec.kind == "diffusion"
    assert one_spec(write(SMALLEST + "kind: diffusion\n")) == spec


def test_another_kind_has_its_own_sections(write):
    (run,) = load(write(SMALLEST + "kind: linear\nlinear: {latent: 3}\n")).runs
    assert type(run.spec) is linear_kind.LinearSpec and run.spec.linear.latent == 3
    assert not hasattr(run.spec, "diffusion") and not hasattr(run.spec, "model")
    assert load_frozen(write(dump(run.spec), "spec.yaml")) == run.spec
    assert dump(run.spec).splitlines()[:3] == ["name: x", "kind: linear", "data:"]


@pytest.mark.parametrize("kind, shown", [
    ("difusion", "difusion"), ("null", "null"), ("3", "3"), ("[diffusion]", "[diffusion]"), ("{diffusion: 1}", "{diffusion: 1}"),
    ("Diffusion", "Diffusion")])
def test_an_unknown_kind_is_refused(write, kind, shown):
    expected = f"x.yaml:4: kind: must be 'diffusion', 'noisy_classifier' or 'linear' (got {shown})"
    assert complaints_about(write(SMALLEST + f"kind: {kind}\nlinear: {{}}\n")) == [expected]
    swept = f"x.yaml:4: kind: must be 'diffusion', 'noisy_classifier' or 'linear' (got {shown}); in run "
    assert complaints_about(write(SMALLEST + f"sweep: {{grid: {{kind: [diffusion, {kind}]}}}}\n"))[0].startswith(swept)


@pytest.mark.parametrize("line, expected", [
    ("linear: {latent: 3}", f"linear: {FOREIGN}"),
    ("linear:", f"linear: {FOREIGN}"),
    ("kind: linear\nmodel: {num_heads: 2}",
     "model: belongs to kind: diffusion or noisy_classifier, but this spec is of kind: linear"),
    ("kind: linear\nsample: {seed: 1, ddim_eta: 1}", f"sample.ddim_eta: {FOREIGN_TO_LINEAR}"),
    ("kind: linear\nevaluate: {respacings: []}", f"evaluate.respacings: {FOREIGN_TO_LINEAR}"),
    ("kind: linear\nlinear: {latnt: 3}", "linear.latnt: unknown key; did you mean `latent`?"),
    ("kind: linear\nzzz: 1", "zzz: unknown key; allowed: name, kind, data, linear, train, sample, evaluate, "
     "resources, extends, sweep"),
])
def test_sections_and_keys_of_another_kind_are_refused_with_its_name(write, line, expected):
    assert complaints_about(write(f"{SMALLEST}\n{line}\n")) == [f"x.yaml:{5 + line.count(chr(10))}: {expected}"]


def test_a_key_that_two_other_kinds_have_is_refused_with_both(write, monkeypatch):
    monkeypatch.setitem(KINDS, "linear-2", linear_kind.ADD[1])
    assert complaints_about(write(SMALLEST + "linear: {}\n")) == [
        "x.yaml:4: linear: belongs to kind: linear or linear-2, but this spec is of kind: diffusion"]


def test_the_command_line_sets_the_kind(write):
    path = write(SMALLEST)
    (run,) = load(path, ["kind=linear", "linear.latent=7"]).runs
    assert run.spec.linear.latent == 7
    assert complaints_about(path, ["linear.latent=7"]) == [f"command line: linear.latent=7: linear: {FOREIGN}"]


def test_specs_of_two_kinds_differ_by_the_keys_of_both(write):
    ours, theirs = (load(write(SMALLEST + f"kind: {kind}\n")).runs[0].spec for kind in ("diffusion", "linear"))
    found = difference(ours, theirs, ignore=["model", "train", "sample", "evaluate"])
    assert found[0] == "kind: diffusion -> linear" and "linear.latent: null -> 4" in found
    assert "diffusion.loss: hybrid -> null" in found


# A sweep over kinds

BOTH = SMALLEST + ("linear: {latent: 6}\nmodel: {num_heads: 2}\ndiffusion: {loss: simple}\n"
                   "sample: {seed: 5, sampler: ddim}\n")


@pytest.mark.parametrize("ways", ["grid: {kind: [diffusion, linear]}", "zip: {kind: [diffusion, linear]}",
                                  "list: [{kind: diffusion}, {kind: linear}]"])
def test_each_point_takes_its_own_part(write, ways):
    diffusion, linear = load(write(f"{BOTH}sweep: {{{ways}}}\n")).runs
    assert [run.name for run in (diffusion, linear)] == ["kind=diffusion", "kind=linear"]
    assert (diffusion.spec.model.num_heads, diffusion.spec.diffusion.loss, diffusion.spec.sample.sampler) == (2, "simple", "ddim")
    assert (linear.spec.linear.latent, linear.spec.sample.seed) == (6, 5)
    assert type(linear.spec) is linear_kind.LinearSpec and not hasattr(linear.spec.sample, "sampler")
    assert diffusion.spec == one_spec(write(BOTH.replace("linear: {latent: 6}\n", "")))


def test_a_point_without_a_kind_has_the_one_of_the_spec(write):
    points = "sweep: {list: [{name: base}, {name: other, kind: %s}]}\n"
    base, other = load(write(BOTH + points % "linear")).runs
    assert (base.name, base.spec.kind, other.name, other.spec.kind) == ("base", "diffusion", "other", "linear")
    base, other = load(write(BOTH + "kind: linear\n" + points % "diffusion")).runs
    assert (base.spec.kind, other.spec.kind) == ("linear", "diffusion")
    assert (base.spec.linear.latent, other.spec.diffusion.loss) == (6, "simple")


def test_points_of_several_kinds_sweep_keys_of_their_own(write):
    path = write(BOTH + "sweep:\n  list:\n    - {name: ae, kind: linear, linear: {latent: 2}}\n"
                        "    - {name: ddpm, diffusion.loss: vlb}\n  grid: {train.seed: [0, 1]}\n")
    runs = {run.name: run.spec for run in load(path).runs}
    assert list(runs) == ["ae,seed=0", "ddpm,seed=0", "ae,seed=1", "ddpm,seed=1"]
    assert runs["ae,seed=1"].linear.latent == 2 and runs["ddpm,seed=1"].diffusion.loss == "vlb"
    assert runs["ae,seed=1"].train.seed == 1


def test_a_point_that_sets_another_kinds_key_is_refused(write):
    path = write(SMALLEST + "sweep:\n  grid:\n    kind: [diffusion, linear]\n    linear.latent:\n      - 2\n")
    assert complaints_about(path) == [
        f"x.yaml:8: linear: {FOREIGN}; in run kind=diffusion,latent=2"]
    assert complaints_about(write(SMALLEST + "sweep:\n  grid:\n    linear.latent: [2, 3]\n")) == [f"x.yaml:6: linear: {FOREIGN}"]


def test_a_section_of_a_kind_that_no_point_has_is_refused(write, monkeypatch):
    monkeypatch.setitem(KINDS, *deep_kind.ADD)
    path = write(BOTH + "deep: {encoder: {width: 1}}\nsweep: {grid: {kind: [diffusion, linear]}}\n")
    assert complaints_about(path) == [
        "x.yaml:8: deep: belongs to kind: deep, but this spec is of kind: diffusion; in run kind=diffusion",
        "x.yaml:8: deep: belongs to kind: deep, but this spec is of kind: linear; in run kind=linear"]
    three = load(write(BOTH + "deep: {encoder: {width: 1}}\nsweep: {grid: {kind: [diffusion, linear, deep]}}\n")).runs
    assert [run.spec.kind for run in three] == ["diffusion", "linear", "deep"] and three[2].spec.deep.encoder.width == 1


def test_mistakes_in_a_kinds_part_are_told_for_its_points_alone(write):
    path = write(BOTH.replace("latent: 6", "latent: 0") + "sweep: {grid: {kind: [diffusion, linear], train.seed: [0, 1]}}\n")
    assert complaints_about(path) == [
        "x.yaml:4: linear.latent: must be at least 1 (got 0); in run kind=linear,seed=0 and 1 more"]
    assert complaints_about(write(BOTH + "zzz: 1\nsweep: {grid: {kind: [diffusion, linear]}}\n"))[0].startswith(
        "x.yaml:8: zzz: unknown key; ")


def test_a_mistake_in_the_sweep_does_not_make_sections_foreign(write):
    path = write(BOTH + "sweep: {grid: {kind: [diffusion, linear], train.sed: [1]}}\n")
    assert complaints_about(path) == ["x.yaml:8: sweep.grid.train.sed: unknown key; did you mean `train.seed`?"]


def test_a_kind_set_on_the_command_line_cannot_be_swept(write):
    path = write(BOTH + "sweep: {grid: {kind: [diffusion, linear]}}\n")
    assert complaints_about(path, ["kind=linear"])[0] == (
        "x.yaml:8: sweep.grid.kind: is swept here, but also set by `command line: kind=linear`; drop one of the two")
