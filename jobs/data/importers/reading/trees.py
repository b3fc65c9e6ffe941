"""Read the images in folders, folder by folder: the names of a million images need not be in memory at once."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.data.image_files import Listing, list_images
from jobs.data.importers.encoded import Record


class Trees:
    """The images in and below folders, each with the name of its class or None. `total` counts them before they are read.

    Names of records are paths relative to `root`. Raises UserError, as `list_images` does, if a folder has no images.
    """

    def __init__(self, root: Path, folders: Sequence[tuple[Path, str | None]]):
        self._root, self._folders, self._others = root, folders, Counter[str]()
        self.total = 0
        for folder, _ in folders:
            listing = list_images(folder)
            self.total += len(listing.images)
            self._others += listing.others

    def records(self) -> Iterator[Record]:
        """The images, folder by folder, in the order of their paths."""
        for folder, label in self._folders:
            below = os.path.relpath(folder, self._root)
            for path in list_images(folder).images:
                yield Record(os.path.normpath(os.path.join(below, path)), folder / path, label)

    def remarks(self) -> list[str]:
        """What was left out, in words."""
        left_out = Listing([], self._others).left_out()
        return [f"left out {left_out}"] if left_out else []
