"""Every refusal of `iddpm make` is one sentence and exit status 2, before torch and the weights are loaded."""

import os
from pathlib import Path

import pytest
from command_line import iddpm_here

from jobs.making.request import parsed_labels


@pytest.fixture
def refused(drawing_run, monkeypatch):
    """refused(run or overrides, *options) -> the sentence. Fails if the work was begun, or anything was written."""
    def begun(*arguments):
        raise AssertionError("the work was begun")

    def ask(run, *options) -> str:
        monkeypatch.setattr("jobs.making.make.make", begun)
        if not any(option == "--out" for option in options):
            options = ("--out", "out", *options)
        before = sorted(map(str, Path(".").rglob("*")))
        text = iddpm_here("make", run.path, *options, status=2)
        assert sorted(map(str, Path(".").rglob("*"))) == before
        return text.removeprefix("iddpm: error: ").removesuffix("\n")
    return ask


@pytest.mark.parametrize("options, message", [
    (("--from", "a.png", "--inpaint", "b.png"), "--from and --inpaint exclude each other: name one of them"),
    (("--interpolate", "1", "2", "--encode", "b.png"), "--interpolate and --encode exclude each other: name one of them"),
    (("--at", "0.4"), "--at says how far --from PICTURE is noised: give --from, too"),
    (("--encode", "a.png", "--at", "0.4"), "--at says how far --from PICTURE is noised: give --from, too"),
    (("--mask", "m.png"), "--mask says what --inpaint PICTURE makes anew: give --inpaint, too"),
    (("--inpaint", "a.png"),
     "--inpaint needs --mask MASK, a picture that is white where pixels are made anew and black where they stay"),
    (("--film", "--encode", "a.png"), "--film and --encode exclude each other: a film shows new pictures, or those of --from and "
                                      "--inpaint"),
    (("--film", "--interpolate", "1", "2"), "--film and --interpolate exclude each other: a film shows new pictures, or those of "
                                            "--from and --inpaint"),
    (("--seed", "1", "--interpolate", "1", "2"), "--interpolate draws nothing at random: leave --seed out"),
    (("--seed", "1", "--encode", "a.png"), "--encode draws nothing at random: leave --seed out"),
    (("--num", "2", "--encode", "a.png"), "--encode makes one picture: leave --num out"),
    (("--num", "1", "--interpolate", "1", "2"), "--num 1: a row of --interpolate has at least its 2 ends"),
    (("--num", "10001"), "--num 10001 is too many: at most 10,000 pictures are made at a time"),
    (("--num", "5001", "--labels", "1,2", "--interpolate", "1", "2"),
     "--num 5001 is too many: at most 10,000 pictures are made at a time"),
    (("--seed", "9" * 19), f"--seed {'9' * 19}: at most 18 digits"),
    (("--labels", "3,x"), "--labels 3,x: `x` is no class; write whole numbers with commas, such as 3,3,8"),
    (("--labels", ""), "--labels : `` is no class; write whole numbers with commas, such as 3,3,8"),
    (("--labels", "3,"), "--labels 3,: `` is no class; write whole numbers with commas, such as 3,3,8"),
    (("--labels", "-1"), "--labels -1: `-1` is no class; write whole numbers with commas, such as 3,3,8"),
    (("--labels", "3,10"), "--labels 10: RUN has 10 classes, 0 to 9"),
    (("--labels", "1,2,3", "--num", "2"), "--labels names 3 classes, and --num 2 is less"),
    (("--labels", "1,2", "--encode", "a.png"), "--encode takes one class: name one in --labels"),
    (("--from", "a.png"), "--from: RUN is conditioned on 10 classes: name one, such as --labels 0"),
    (("--interpolate", "1", "2"), "--interpolate: RUN is conditioned on 10 classes: name one, such as --labels 0"),
    (("--steps", "41"), "--steps 41: section 1 of 1 has 40 of the 40 steps; 41 cannot be taken from it"),
    (("--from", "none.png", "--labels", "1"), "none.png: no such picture"),
    (("--interpolate", "1", "none", "--labels", "1"), "none: no such picture"),
    (("--interpolate", "1", "./2", "--labels", "1"), "2: no such picture"),
])
def test_options_that_contradict_each_other_or_the_run(drawing_run, refused, options, message):
    run = drawing_run()
    assert refused(run, *options) == message.replace("RUN", str(run.path))


@pytest.mark.parametrize("options", [("--num", "0"), ("--steps", "0"), ("--seed", "-1"),
                                     ("--interpolate", "1"), ("--at", "x", "--from", "a.png")])
def test_values_that_no_run_takes(drawing_run, refused, options):
    assert "Error: " in refused(drawing_run(), *options)


@pytest.mark.parametrize("at", ["0.0", "1.1", "-1.0", "nan", "inf"])
def test_fractions_that_are_none(drawing_run, refused, at):
    assert refused(drawing_run(), "--from", "a.png", "--labels", "1", "--at", at) == \
        f"--at {at}: write a number above 0 and at most 1"


def test_labels_of_an_unconditional_run(drawing_run, refused):
    run = drawing_run("data.class_cond=false", "data.num_classes=null")
    assert refused(run, "--labels", "1") == \
        f"--labels: {run.path} is not conditioned on classes (data.class_cond is false): leave --labels out"


def test_a_run_without_weights(make_run, refused):
    run = make_run()
    assert refused(run) == f"{run.path}: has no weights yet; `iddpm train {run.path}` trains it"


def test_a_folder_that_is_no_run(drawing_run, refused):
    run = drawing_run()
    assert refused(type(run)(run.path.parent)).startswith(f"{run.path.parent}: not a run's directory")


@pytest.mark.parametrize("out, message", [
    (".", "the current folder; name a new folder"),
    ("small.yaml", "not a folder; name a new folder"),
    ("small.yaml/a", "cannot be made, because HERE/small.yaml is no folder"),
    ("runs", "has files in it that `iddpm make` did not write; name a new folder"),
    ("RUN/pictures", "lies in the folder of a run, RUN, in which only the run itself writes; name another"),
    ("RUN", "lies in the folder of a run, RUN, in which only the run itself writes; name another"),
    ("OTHER/checkpoints", "lies in the folder of a run, OTHER, in which only the run itself writes; name another"),
])
def test_folders_that_pictures_do_not_go_to(drawing_run, make_run, refused, out, message):
    run, other = drawing_run(), make_run(folder="others")
    places = {"RUN": str(run.path), "OTHER": str(other.path), "HERE": str(Path.cwd())}
    for name, place in places.items():
        out, message = out.replace(name, place), message.replace(name, place)
    assert refused(run, "--out", out) == f"--out {out}: {message}"


def test_a_folder_that_cannot_be_written(drawing_run, refused, monkeypatch):
    run = drawing_run()
    monkeypatch.setattr("os.access", lambda path, mode, **options: not mode & os.W_OK)  # root may write everywhere
    assert refused(run, "--out", "a/b") == f"--out a/b: cannot be made, because {Path.cwd()} cannot be written"


def test_pictures_of_another_call_are_not_overwritten(drawing_run):
    run = drawing_run()
    iddpm_here("make", run.path, "--out", "a", "--num", 1, "--seed", 1, "--steps", 2)
    before = {file: file.read_bytes() for file in Path("a").iterdir()}
    assert iddpm_here("make", run.path, "--out", "a", "--num", 1, "--seed", 2, "--steps", 2, status=2) == \
        "iddpm: error: --out a: holds pictures of another `iddpm make` (a/make.json); name a new folder\n"
    assert {file: file.read_bytes() for file in Path("a").iterdir()} == before
    os.remove("a/overview.png")
    text = iddpm_here("make", run.path, "--out", "a", "--num", 1, "--seed", 1, "--steps", 2, status=2)
    assert "--out a: overview.png is missing from these pictures" in text


def test_at_so_near_zero_that_no_step_is_left(drawing_run, picture):
    run = drawing_run()
    assert iddpm_here("make", run.path, "--out", "a", "--from", picture(), "--at", "0.001", "--labels", "1", status=2) == \
        "iddpm: error: --at 0.001: the chain has no step below 0 of 40\n"
    assert not Path("a").exists()


def test_labels_are_whole_numbers():
    assert parsed_labels("3, 3,8") == (3, 3, 8)


def test_a_picture_of_a_run_with_four_channels(drawing_run, refused, picture):
    run = drawing_run("data.channels=4", "data.path=missing.h5")
    assert refused(run, "--from", picture(), "--labels", "1") == \
        f"{Path.cwd() / 'a.png'}: this run's images have 4 channels; pictures can be given to runs with 1 or 3"
