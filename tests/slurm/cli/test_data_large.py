"""`iddpm data` for collections as others publish them, as a user types it."""

import json

import numpy as np
import pytest
from command_line import iddpm_here
from made_archives import database, encoded, greys, parquet, tar
from PIL import Image


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder of sources, each with images 1 to 4 of two classes."""
    folder = tmp_path_factory.mktemp("sources")
    images = [encoded(pixels) for pixels in greys(5)][1:]
    for number, image in enumerate(images):
        of_class = folder / "ilsvrc/train" / ("n00000001", "n00000002")[number // 2]
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / f"{number}.JPEG").write_bytes(image)
        database(folder / f"lsun/{('bridge', 'tower')[number // 2]}_train_lmdb", {f"{number}": image})
        parquet(folder / f"hf/train-{number}-of-4.parquet", [image], [number // 2], ["ant", "bee"])
        label = json.dumps({"kind": ("ant", "bee")[number // 2]}).encode()
        tar(folder / f"shards/{number}.tar", [(f"{number}.jpg", image), (f"{number}.json", label)])
    return folder


@pytest.mark.parametrize("arguments, classes", [
    (("imagenet", "ilsvrc"), "n00000001, n00000002"), (("lsun", "lsun"), "bridge, tower"), (("parquet", "hf"), None),
    (("parquet", "hf/train-0-of-4.parquet", "hf/train-[1-3]*"), None),
    (("webdataset", "shards/{0..3}.tar", "--json-key", "kind"), "ant, bee"),
    (("webdataset", "shards", "--json-key", "kind"), "ant, bee")])
def test_every_collection(sources, tmp_path, monkeypatch, arguments, classes):
    monkeypatch.chdir(tmp_path)
    kind, *names = arguments
    names = [name if name.startswith("-") or name == "kind" else sources / name for name in names]
    lines = iddpm_here("data", kind, *names, "data.h5", "--image-size", 8, "--channels", 1).splitlines()
    assert lines[0] == "data.h5: 4 images, 2 classes"
    assert classes is None or f"classes in the order of the alphabet: {classes}" in lines
    shown = iddpm_here("data", "show", "data.h5").splitlines()
    assert shown[0] == "data.h5: 4 images, 8x8, grey, 256 B of pixels" and "mean      25.0 of 0 .. 255" in shown
    with Image.open("data.h5.png") as picture:
        assert {10, 20, 30, 40} <= set(np.asarray(picture).ravel().tolist())


def test_an_output_that_is_a_source_is_refused(sources, monkeypatch):
    monkeypatch.chdir(sources)
    assert "exists and is not an HDF5 file; choose another output" in iddpm_here(
        "data", "webdataset", "shards/0.tar", "shards/1.tar", "--image-size", 8, status=2)
