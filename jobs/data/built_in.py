"""Data sets that come with the code: a spec gives the name of one in place of a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class BuiltInData:
    """Rows `start` to `stop` of a file beside this one, which holds `images` uint8 [N, H, W] and `labels` uint8 [N].

    A licence file stands beside each such file.
    """

    file: str
    start: int
    stop: int
    class_names: tuple[str, ...]
    source: str

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, H, W, 1] and labels int64 [n]."""
        with np.load(_FOLDER / self.file) as arrays:
            return arrays["images"][self.start:self.stop, ..., None], arrays["labels"][self.start:self.stop].astype(np.int64)


_TEN = tuple("0123456789")
BUILT_IN_DATA = {
    "digits": BuiltInData("digits.npz", 0, 1500, _TEN, "scikit-learn handwritten digits, digits"),
    "digits-test": BuiltInData("digits.npz", 1500, 1797, _TEN, "scikit-learn handwritten digits, digits-test"),
}
