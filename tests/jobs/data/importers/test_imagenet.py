"""ImageNet as ILSVRC gives it: folders and archives, and the files that give classes to validation images."""

import pytest
from made_archives import encoded, greys, tar

from jobs.data.dataset import open_data
from jobs.data.importers.encoded import Form
from jobs.data.importers.imagenet import import_imagenet
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

ANT, BEE, CAT = "n00000003", "n00000010", "n02000000"
FORM = Form(8, 1)


def read(output):
    data = open_data(str(output), 8, 1)
    return (data.images[:, 0, 0, 0] // 10).tolist(), None if data.labels is None else data.labels.tolist(), data.class_names


@pytest.fixture
def source(tmp_path):
    """train/ with images 0 to 4 of three classes, val/ with images 5 to 7."""
    images = [encoded(pixels) for pixels in greys(8)]
    for number, wnid in enumerate((ANT, ANT, BEE, CAT, CAT)):
        (tmp_path / "ilsvrc/train" / wnid).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ilsvrc/train" / wnid / f"{wnid}_{number}.JPEG").write_bytes(images[number])
    (tmp_path / "ilsvrc/val").mkdir()
    for number in (1, 2, 3):
        (tmp_path / f"ilsvrc/val/ILSVRC2012_val_{number:08}.JPEG").write_bytes(images[4 + number])
    return tmp_path / "ilsvrc"


def test_training_images_in_the_folders_of_their_classes(source, output):
    (source / "train/notes.txt").write_text("x")
    (source / "train" / ANT / "notes.txt").write_text("x")
    reports = []
    summary = import_imagenet(source, Writer(output, lambda *pair: reports.append(pair)), FORM, "train")
    assert read(output) == ([0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [ANT, BEE, CAT])
    assert summary.remarks[-2:] == ["left out beside the classes: notes.txt", "left out 1 file that is no picture: 1 .txt"]
    assert reports[-1] == (5, 5)
    assert import_imagenet(source / "train", Writer(output), FORM, "val").count == 5, "the folder itself"


def test_folders_as_kaggle_has_them(source, output, tmp_path):
    kaggle = tmp_path / "kaggle/ILSVRC/Data/CLS-LOC"
    kaggle.parent.mkdir(parents=True)
    source.rename(kaggle)
    assert import_imagenet(tmp_path / "kaggle", Writer(output), FORM, "val").count == 3


def test_folders_of_tiny_imagenet(source, output, tmp_path):
    """train/CLASS/images/*.JPEG, and val/images/*.JPEG beside the file of their classes."""
    for folder in (*(source / "train").iterdir(), source / "val"):
        files = list(folder.iterdir())
        (folder / "images").mkdir()
        for file in files:
            file.rename(folder / "images" / file.name)
    classes = {1: BEE, 2: ANT, 3: ANT}
    lines = "".join(f"ILSVRC2012_val_0000000{number}.JPEG\t{wnid}\t0\t32\t44\t62\n" for number, wnid in classes.items())
    (source / "val/val_annotations.txt").write_text(lines)
    import_imagenet(source, Writer(output), FORM, "train")
    assert read(output) == ([0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [ANT, BEE, CAT])
    import_imagenet(source, Writer(output), FORM, "val", source / "val/val_annotations.txt")
    assert read(output) == ([5, 6, 7], [1, 0, 0], [ANT, BEE, CAT])


@pytest.mark.parametrize("lines, synsets", [
    ([CAT, ANT, CAT], None),
    ([f"ILSVRC2012_val_00000002.JPEG {ANT}", f"ILSVRC2012_val_00000001.JPEG {CAT}", f"ILSVRC2012_val_00000003.JPEG {CAT}"], None),
    (["ImageId,PredictionString", f"ILSVRC2012_val_00000001,{CAT} 1 2 3 4",
      f"ILSVRC2012_val_00000002,{ANT} 5 6 7 8 {BEE} 1 2 3 4", f"ILSVRC2012_val_00000003,{CAT} 0 0 0 0"], None),
    (["ILSVRC2012_val_00000001.JPEG 2", "ILSVRC2012_val_00000002.JPEG 0", "ILSVRC2012_val_00000003.JPEG 2"], None),
    (["3", "7", "3"], [f"{ANT} 7 red_ant", f"{CAT} 3 cat", f"{BEE} 1 bee"])])
def test_classes_of_validation_images(source, output, tmp_path, lines, synsets):
    labels, words = tmp_path / "labels.txt", tmp_path / "synsets.txt"
    labels.write_text("\n".join(lines) + "\n")
    words.write_text("\n".join(synsets or []))
    import_imagenet(source, Writer(output), FORM, "val", labels, words if synsets else None)
    names = [f"{ANT} red ant", f"{BEE} bee", f"{CAT} cat"] if synsets else [ANT, BEE, CAT]
    assert read(output) == ([5, 6, 7], [2, 0, 2], names)


def test_words_for_classes(source, output, tmp_path):
    (tmp_path / "words.txt").write_text(f"{ANT} ant, emmet, pismire\n{BEE} bee\n\n{CAT}\nn09999999 zebra\n")
    import_imagenet(source, Writer(output), FORM, "train", None, tmp_path / "words.txt")
    assert read(output)[2] == [f"{ANT} ant", f"{BEE} bee", CAT]


def test_validation_images_without_classes(source, output):
    summary = import_imagenet(source, Writer(output), FORM, "val")
    assert read(output) == ([5, 6, 7], None, []) and summary.remarks == ["no classes; --labels FILE gives them"]


def test_archives(source, output, tmp_path):
    classes = {wnid: sorted((source / "train" / wnid).iterdir()) for wnid in (ANT, BEE, CAT)}
    inner = [(f"{wnid}.tar", tar(tmp_path / "inner.tar", [(file.name, file.read_bytes()) for file in files]).read_bytes())
             for wnid, files in classes.items()]
    import_imagenet(tar(tmp_path / "train.tar", inner), Writer(output), FORM, "train")
    assert read(output) == ([0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [ANT, BEE, CAT])
    flat = tar(tmp_path / "val.tar", [(file.name, file.read_bytes()) for file in sorted((source / "val").iterdir())])
    import_imagenet(flat, Writer(output), FORM, "val")
    assert read(output) == ([5, 6, 7], None, [])
    mountain = tar(tmp_path / "mountains.tar", [("mountain00000003.jpg", encoded(greys(2)[1]))])
    import_imagenet(mountain, Writer(output), FORM, "val")
    assert read(output) == ([1], None, []), "no WordNet id"
    (tmp_path / "labels.txt").write_text(f"{CAT}\n{ANT}\n{CAT}\n")
    import_imagenet(flat, Writer(output), FORM, "val", tmp_path / "labels.txt")
    assert read(output) == ([5, 6, 7], [1, 0, 1], [ANT, CAT])


@pytest.mark.parametrize("labels, synsets, message", [
    ("1\n2\n3\n", None, "has the numbers of ILSVRC's development kit; --synsets must name a file"),
    ("1\n2\n3\n", f"{ANT} 1 ant\n", "line 2 is 2, which --synsets does not have"),
    ("a b c\nd e f\n", None, "line 2 is d e f; lines are a class"),
    (f"{ANT}\nx.JPEG {ANT}\n", None, "must have a class in each line, or the name of an image and its class in each line"),
    ("", None, "has 0 lines"),
    (b"\xff\xfe", None, "labels.txt: not a text file"),
    (f"{ANT}\n", "ant\n", "synsets.txt: line 1 is ant; lines are such as"),
    (f"{ANT}\n{ANT}\n", None, "1 of 3 images cannot be used(.|\n)*val_00000003.JPEG: no line of .*labels.txt is for it"),
    (f"ILSVRC2012_val_00000001 {ANT}\nILSVRC2012_val_00000002 {ANT}\n", None, "val_00000003.JPEG: has no label"),
    (f"n09999999\n{ANT}\n{ANT}\n", None, "val_00000001.JPEG: its class n09999999 is not among the 3")])
def test_wrong_labels_are_named(source, output, tmp_path, labels, synsets, message, assert_nothing_written):
    (tmp_path / "labels.txt").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    words = tmp_path / "synsets.txt" if synsets else None
    if words:
        words.write_text(synsets)
    with pytest.raises(UserError, match=message):
        import_imagenet(source, Writer(output), FORM, "val", tmp_path / "labels.txt", words)
    assert_nothing_written()


def test_wrong_folders_are_named(source, output, tmp_path, assert_nothing_written):
    (tmp_path / "cats/train/black").mkdir(parents=True)
    (tmp_path / "packed/train").mkdir(parents=True)
    (tmp_path / "packed/train" / f"{ANT}.tar").write_bytes(b"")
    (tmp_path / "only/train").mkdir(parents=True)
    (source / "train" / BEE).rename(tmp_path / BEE)
    (source / "train" / BEE).mkdir()
    for folder, split, message in (("cats", "train", "not named by WordNet ids .*, but black; `iddpm data folder"),
                                   ("packed", "train", "holds archives of classes"), ("only", "val", "only: has no folder val"),
                                   ("nowhere", "train", "nowhere: no such file or folder"),
                                   ("ilsvrc", "train", f"{BEE}: no pictures in it or below")):
        with pytest.raises(UserError, match=message):
            import_imagenet(tmp_path / folder, Writer(output), FORM, split)
    assert_nothing_written()
