"""Encoded images, and archives, tables and databases of them, made in the test."""

import io
import json
import tarfile

import numpy as np
from made_images import noise
from PIL import Image


def encoded(pixels=None, kind="png"):
    """The bytes of an image file; of noise, 8x8 grey, unless `pixels` are given."""
    buffer = io.BytesIO()
    Image.fromarray(noise(8, 8) if pixels is None else pixels).save(buffer, kind)
    return buffer.getvalue()


def member(name, size=0, kind=tarfile.REGTYPE, form=tarfile.GNU_FORMAT, **settings):
    """The header of a member, with the headers that a long name needs."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in settings.items():
        setattr(info, key, value)
    return info.tobuf(form)


def file_in_tar(name, content, **settings):
    """A member with its content, filled to whole blocks."""
    return member(name, len(content), **settings) + content + bytes(-len(content) % 512)


def tar(path, files, end=bytes(1024)):
    """Write the archive `path` of pairs (name, content). Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(file_in_tar(name, content) for name, content in files) + end)
    return path


def parquet(path, images, labels=None, names=None, struct=True, rows=3):
    """Write the table `path` as Hugging Face does; `images` are bytes, or None. Returns the path."""
    import pyarrow
    from pyarrow import parquet
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]) if struct else pyarrow.binary()
    fields, columns = [("image", kind)], {"image": [{"bytes": image, "path": f"{place}.png"} if struct else image
                                                    for place, image in enumerate(images)]}
    features = {"image": {"_type": "Image"}}
    if labels is not None:
        fields.append(("label", pyarrow.string() if isinstance(labels[0], str) else pyarrow.int64()))
        columns["label"] = list(labels)
    if names is not None:
        features["label"] = {"_type": "ClassLabel", "names": names}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pyarrow.table(columns, schema=pyarrow.schema(fields, metadata=metadata)), path, row_group_size=rows)
    return path


def database(path, entries):
    """Write the LMDB database `path`, a folder, of {key: value}. Returns the path."""
    import lmdb
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 22) as opened, opened.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return path


def greys(count):
    """Images uint8 [count, 8, 8] that are told apart by their mean."""
    return np.stack([np.full((8, 8), 10 * number, np.uint8) for number in range(count)])
