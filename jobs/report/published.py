"""Figures that papers published for the data sets of configs/, with their sources."""

from dataclasses import dataclass
from pathlib import PurePath

from jobs.report.diffusion_facts import Setting, setting_of
from jobs.spec.sections import Spec

IDDPM = "Nichol & Dhariwal 2021 (arXiv 2102.09672), table {}"
DDPM = "Ho, Jain & Abbeel 2020 (arXiv 2006.11239), table 1"

ADM = "Dhariwal & Nichol 2021 (arXiv 2105.05233)"


@dataclass(frozen=True)
class Published:
    iterations: int
    diffusion_steps: int
    noise_schedule: str
    loss: str
    bits_per_dim: float | None
    fid: float | None
    samples: int
    """Number of samples behind FID, which compares Inception features with those of the whole training set."""
    source: str
    note: str = ""

    def has_setting(self, setting: Setting | None, iterations: int) -> bool:
        """Whether a model of `setting`, trained for `iterations`, equals this row's in everything that the row says."""
        ours = setting and (iterations, setting.diffusion_steps, setting.noise_schedule, setting.loss.removesuffix("_unscaled"))
        return ours == (self.iterations, self.diffusion_steps, self.noise_schedule, self.loss)


Row = tuple[int, int, str, str, float | None, float | None]


def _table(number: int, samples: int, note: str, *rows: Row) -> list[Published]:
    return [Published(*row, samples=samples, source=IDDPM.format(number), note=note) for row in rows]


# Rows: iterations, steps, schedule, loss, NLL, FID
_CIFAR10 = [
    *_table(2, 50_000, "dropout 0.1 with linear, 0.3 with cosine",
            (500_000, 1000, "linear", "simple", 3.73, 3.29), (500_000, 4000, "linear", "simple", 3.37, 2.90),
            (500_000, 4000, "linear", "hybrid", 3.26, 3.07), (500_000, 4000, "cosine", "simple", 3.26, 3.05),
            (500_000, 4000, "cosine", "hybrid", 3.17, 3.19), (500_000, 4000, "cosine", "vlb", 2.94, 11.47)),
    Published(800_000, 1000, "linear", "simple", None, 3.17, 50_000, DDPM, "Inception score 9.46"),
]
_IMAGENET64 = _table(
    1, 10_000, "unconditional; 10,000 samples bias FID upwards",
    (200_000, 1000, "linear", "simple", 3.99, 32.5), (200_000, 4000, "linear", "simple", 3.77, 31.3),
    (200_000, 4000, "linear", "hybrid", 3.66, 32.2), (200_000, 4000, "cosine", "simple", 3.68, 27.0),
    (200_000, 4000, "cosine", "hybrid", 3.62, 28.0), (200_000, 4000, "cosine", "vlb", 3.57, 56.7),
    (1_500_000, 4000, "cosine", "hybrid", 3.57, 19.2), (1_500_000, 4000, "cosine", "vlb", 3.53, 40.1))
_IMAGENET64_COND = [
    *_table(4, 50_000, "class-conditional, 270 M parameters, 250 sampling steps; precision 0.82, recall 0.71",
            (250_000, 4000, "cosine", "hybrid", None, 2.92)),
    Published(540_000, 1000, "cosine", "hybrid", None, 2.07, 50_000, ADM,
              "class-conditional, 296 M parameters, 250 sampling steps, no guidance; precision 0.74, recall 0.63"),
]


def published_for(spec: Spec) -> tuple[str, list[Published]]:
    """Return the name of the training data, which the file's name and the image size give away, and the rows published for it."""
    if setting_of(spec) is None:  # the rows are of diffusion models
        return spec.data.path, []
    name, size = PurePath(spec.data.path).stem.lower().replace("-", "").replace("_", ""), spec.data.image_size
    if name.startswith("cifar10") and not name.startswith("cifar100") and size == 32 and not spec.data.class_cond:
        return "CIFAR-10", _CIFAR10
    if name.startswith("imagenet64") and size == 64:
        return "ImageNet 64x64", _IMAGENET64_COND if spec.data.class_cond else _IMAGENET64
    return spec.data.path, []
