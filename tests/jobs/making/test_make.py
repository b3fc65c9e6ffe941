"""`iddpm make` from end to end, in this process: what each option makes, and that equal seeds make equal bytes."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import iddpm_here
from PIL import Image

from jobs.kinds.diffusion.build import build_diffusion

STEPS = ("--steps", "5")


def files_of(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its hash and its time."""
    return {str(file.relative_to(folder)): f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.stat().st_mtime_ns}"
            for file in sorted(folder.rglob("*")) if file.is_file()}


def bytes_of(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def apart(one, other) -> int:
    """The largest difference of two pictures in grey levels."""
    return int(np.abs(pixels(one).astype(int) - pixels(other)).max())


def record(folder: str) -> dict:
    return json.loads((Path(folder) / "make.json").read_text())


def test_new_pictures_of_named_classes_take_turns(drawing_run):
    run = drawing_run()
    before = files_of(run.path.parent)
    text = iddpm_here("make", run.path, "--out", "a", "--labels", "3,8", "--num", "5", "--seed", "7", *STEPS)
    assert "5 pictures in 0:0" in text and "5 evaluations of the network for each; seed 7\n" in text and "a/overview.png" in text
    assert sorted(bytes_of("a")) == ["make.json", "overview.png", *(f"picture-00{number}.png" for number in range(5))]
    assert pixels("a/picture-004.png").shape == (8, 8) and record("a")["made"]["labels"] == [3, 8]
    assert files_of(run.path.parent) == before, "the run's folder is only read"


def test_equal_seeds_make_equal_bytes_and_a_picture_depends_on_no_other(drawing_run):
    run = drawing_run()
    for out, num in (("a", 3), ("b", 3), ("c", 2)):
        iddpm_here("make", run.path, "--out", out, "--num", num, "--seed", 7, "--film", *STEPS)
    assert bytes_of("a") == bytes_of("b")
    assert all(apart(f"a/picture-00{number}.png", f"c/picture-00{number}.png") <= 1 for number in range(2))
    iddpm_here("make", run.path, "--out", "d", "--num", 3, "--seed", 8, *STEPS)
    assert apart("a/picture-000.png", "d/picture-000.png") > 30


def test_a_seed_is_chosen_and_printed(drawing_run):
    run = drawing_run()
    seed = iddpm_here("make", run.path, "--out", "a", "--num", 1, *STEPS).split("; seed ")[1].split("\n")[0]
    iddpm_here("make", run.path, "--out", "b", "--num", 1, "--seed", seed, *STEPS)
    assert bytes_of("a") == bytes_of("b")


def test_pictures_are_made_by_the_runs_own_settings_unless_steps_are_given(drawing_run):
    run = drawing_run("sample.sampler=ddim", "sample.timestep_respacing='10'")
    assert " 10 evaluations" in iddpm_here("make", run.path, "--out", "a", "--num", 1)
    assert " 5 evaluations" in iddpm_here("make", run.path, "--out", "b", "--num", 1, *STEPS)
    assert record("b")["made"]["sample"] == record("a")["made"]["sample"] | {"timestep_respacing": "5"}


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "unipc", "heun"])
@pytest.mark.parametrize("work", ["new", "from"])
def test_every_sampler_makes_new_pictures_and_variants(drawing_run, picture, sampler, work):
    run = drawing_run(f"sample.sampler={sampler}")
    asked = ["--labels", "1,2"] + (["--from", picture(), "--at", "0.7"] if work == "from" else [])
    iddpm_here("make", run.path, "--out", "a", *asked, "--steps", "8", "--film")
    assert len(list(Path("a").glob("picture-*.png"))) == 2 and Path("a/film.gif").is_file()


def test_a_film_shows_noise_that_becomes_the_pictures(drawing_run):
    iddpm_here("make", drawing_run().path, "--out", "a", "--num", 3, "--film", *STEPS)
    with Image.open("a/film.gif") as film:
        assert film.n_frames == 5 and film.info["loop"] == 0
        film.seek(film.n_frames - 1)
        assert film.info["duration"] == 2000
        last = np.asarray(film.convert("L"))[10:74:8, 10:74:8]
        assert np.abs(last.astype(int) - pixels("a/picture-000.png")).max() <= 4, "a GIF has a palette"


@pytest.mark.parametrize("at, least, most", [("0.05", 0, 30), ("1", 30, 255)])
def test_at_says_how_much_of_the_picture_stays(drawing_run, picture, at, least, most):
    given = picture()
    iddpm_here("make", drawing_run().path, "--out", "a", "--from", given, "--at", at, "--labels", "1", "--num", 2)
    assert sorted(bytes_of("a")) == ["make.json", "overview.png", "picture-000.png", "picture-001.png"]
    assert least <= np.abs(pixels("a/picture-000.png").astype(int) - pixels(given)).mean() <= most
    assert apart("a/picture-000.png", "a/picture-001.png") > 0


def test_inpainting_keeps_known_pixels_exactly(drawing_run, picture, mask):
    given = picture()
    text = iddpm_here("make", drawing_run().path, "--out", "a", "--inpaint", given, "--mask", mask(), "--labels", "1,2", *STEPS)
    assert "2 pictures" in text
    for number in range(2):
        made = pixels(f"a/picture-00{number}.png")
        assert (made[:4] == pixels(given)[:4]).all() and (made[4:] != pixels(given)[4:]).any()
    assert apart("a/picture-000.png", "a/picture-001.png") > 0


def test_inpainting_a_photograph_keeps_the_pixels_that_the_network_sees(drawing_run, picture, mask):
    run = drawing_run("data.channels=3", "data.path=missing.h5")
    given, anew = picture("a.jpg", (40, 30), "RGB"), mask(size=(40, 30))
    text = iddpm_here("make", run.path, "--out", "a", "--inpaint", given, "--mask", anew, "--labels", "1", "--num", 1, *STEPS)
    assert "a.jpg: 40x30 pixels; resized, cropped to the middle square: 8x8 pixels are used" in text
    made, overview = pixels("a/picture-000.png"), pixels("a/overview.png")
    assert made.shape == (8, 8, 3) and (made[:4] == overview[10:66:14, 10:122:14]).all()


def test_interpolation_between_seeds(drawing_run):
    run = drawing_run()
    text = iddpm_here("make", run.path, "--out", "a", "--interpolate", 1, 2, "--labels", "3,4", "--num", 3, *STEPS)
    assert "6 pictures" in text and "; seed" not in text
    assert apart("a/picture-000.png", "a/picture-002.png") > 30 and apart("a/picture-000.png", "a/picture-003.png") > 0
    iddpm_here("make", run.path, "--out", "b", "--interpolate", 2, 1, "--labels", "3,4", "--num", 3, *STEPS)
    assert apart("b/picture-002.png", "a/picture-000.png") <= 1, "the row is the same the other way round"


def test_a_seeds_end_is_the_noise_that_the_seed_starts_with(drawing_run):
    run = drawing_run("sample.sampler=ddim", "sample.timestep_respacing=logsnr5")
    iddpm_here("make", run.path, "--out", "a", "--interpolate", 1, 2, "--labels", "3", "--num", 2, *STEPS)
    iddpm_here("make", run.path, "--out", "b", "--seed", 2, "--labels", "3", "--num", 1)
    assert apart("a/picture-001.png", "b/picture-000.png") <= 1


def test_interpolation_from_a_picture_to_a_seed_begins_at_the_picture(drawing_run, picture):
    given = picture()
    run = drawing_run("sample.clip_denoised=false", spread=0)
    iddpm_here("make", run.path, "--out", "a", "--interpolate", given, 2, "--labels", "3")
    assert len(list(Path("a").glob("picture-*.png"))) == 8
    assert apart("a/picture-000.png", given) <= 3 and apart("a/picture-007.png", given) > 30


def test_encoding_writes_the_latent_and_the_reconstruction_with_its_error(drawing_run, picture):
    given = picture()
    run = drawing_run("sample.clip_denoised=false", spread=0)
    assert f"reconstruction: equals {given}" in iddpm_here("make", run.path, "--out", "a", "--encode", given, "--labels", "3")
    latent = np.load("a/latent.npy")
    scale = build_diffusion(run.spec, "cpu", "logsnr40").coefficients.alphas_cumprod[-1] ** 0.5
    np.testing.assert_allclose(latent[0], scale * (pixels(given) / 127.5 - 1), rtol=1e-4, atol=1e-6)
    assert apart("a/reconstruction.png", given) == 0 and record("a")["error"] == {"mean": 0, "most": 0}
    rough = drawing_run(folder="rough")
    text = iddpm_here("make", rough.path, "--out", "b", "--encode", given, "--labels", "3")
    error = np.abs(pixels("b/reconstruction.png").astype(int) - pixels(given))
    assert record("b")["error"] == {"mean": pytest.approx(error.mean()), "most": error.max()}
    assert f"grey levels of 255 on average, and by {error.max()} at most" in text


def test_an_unconditional_run_needs_no_labels(drawing_run, picture, mask):
    run = drawing_run("data.class_cond=false", "data.num_classes=null")
    for out, asked in (("a", ["--num", 2]), ("b", ["--from", picture()]), ("c", ["--inpaint", picture(), "--mask", mask()]),
                       ("d", ["--interpolate", 1, 2]), ("e", ["--encode", picture()])):
        iddpm_here("make", run.path, "--out", out, *asked, *STEPS)
        assert Path(out, "overview.png").is_file()


def test_many_pictures_go_through_the_network_in_batches(drawing_run, monkeypatch):
    import jobs.making.studio as studio
    run = drawing_run()
    iddpm_here("make", run.path, "--out", "a", "--num", 5, "--seed", 1, *STEPS)
    monkeypatch.setattr(studio, "MOST_AT_ONCE", 2)
    assert " 5 evaluations" in iddpm_here("make", run.path, "--out", "b", "--num", 5, "--seed", 1, *STEPS)
    assert all(apart(f"a/picture-00{number}.png", f"b/picture-00{number}.png") <= 1 for number in range(5))


def test_repeating_a_command_makes_nothing_again(drawing_run):
    run = drawing_run()
    asked = ("make", run.path, "--out", "a", "--num", 1, "--seed", 1, *STEPS)
    iddpm_here(*asked)
    before = files_of(Path("a"))
    assert iddpm_here(*asked) == "a: these pictures are there already; seed 1\n" and files_of(Path("a")) == before


def test_an_unfinished_run_gives_its_newest_weights_and_says_so(drawing_run):
    run = drawing_run(step=8)
    text = iddpm_here("make", run.path, "--out", "a", "--num", 1, *STEPS)
    assert f"{run.path}: training is at step 8 of 12; the weights of that step are used" in text
    assert record("a")["made"]["step"] == 8


def test_a_long_chain_says_that_it_may_be_shorter(drawing_run, picture, mask):
    asked = ("make", drawing_run("diffusion.diffusion_steps=120").path, "--num", 1, "--labels", "1", "--inpaint", picture(),
             "--mask", mask())
    hint = "evaluations of the network for each picture; --steps 50 takes fewer"
    assert f"note: 1,164 {hint}" in iddpm_here(*asked, "--out", "a")
    assert hint not in iddpm_here(*asked, "--out", "b", "--steps", 4)


def test_an_empty_folder_may_be_filled(drawing_run):
    os.mkdir("a")
    iddpm_here("make", drawing_run().path, "--out", "a", "--num", 1, *STEPS)
    assert Path("a/make.json").is_file() and sorted(path.name for path in Path(".").iterdir()) == ["a", "runs", "small.yaml"]
