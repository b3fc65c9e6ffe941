"""The pictures of a report, as data URIs: samples, both processes, nearest training images."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
from PIL import Image

from diffusion.schedules import betas_of
from jobs.data.dataset import ImageData, open_data
from jobs.report.board import BoardLog
from jobs.report.neighbours import nearest, searched
from jobs.report.run import RunReport
from jobs.spec.sections import Spec

CELL = 40  # smaller images are enlarged to this many pixels, by a whole factor
COLUMNS, CLASSES, STRIP, COMPARED, YARDSTICK = 6, 10, 9, 6, 64


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int
    """On the page, in CSS pixels."""
    caption: str
    smooth: bool = False
    """Large images may be scaled smoothly, small ones show their pixels."""


def tiles(images: np.ndarray, columns: int, caption: str) -> Picture:
    """uint8 [N, H, W, C] row by row, a transparent pixel between: right on light and on dark ground."""
    images = images if images.shape[3] == 3 else images[:, :, :, :1]
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels + 1), np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        canvas[top:top + height, left:left + width] = np.dstack([image, np.full((height, width), 255, np.uint8)])
    buffer = io.BytesIO()
    # Many large images would make the page heavy; the eye does not see this loss.
    kind = {"format": "PNG", "optimize": True} if height <= 64 else {"format": "WEBP", "quality": 90}
    Image.fromarray(canvas).save(buffer, **kind)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind['format'].lower()};base64,{data}", canvas.shape[1] * -(-CELL // height), caption,
                   smooth=height > CELL)


def samples_picture(run: RunReport, class_names: Sequence[str]) -> Picture | None:
    """The first samples; of a conditional model a row for each of the first classes. None where there are none."""
    def read() -> Picture:
        with h5py.File(run.run.samples_h5, "r") as file:
            rows = 6 if file["images"].shape[1] <= 64 else 3
            if "labels" not in file:
                images = file["images"][:rows * COLUMNS]
                return tiles(images, COLUMNS, f"{run.name}: samples 0 to {len(images) - 1}")
            labels = file["labels"][:100_000]
            shown = [label for label in range(CLASSES if rows == 6 else 4) if np.any(labels == label)]
            per_class = min(COLUMNS, *(int((labels == label).sum()) for label in shown))
            indices = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in shown])
            order = np.sort(indices)
            images = file["images"][order][np.searchsorted(order, indices)]
        words = ", ".join(class_names[label] if label < len(class_names) else str(label) for label in shown)
        return tiles(images, per_class, f"{run.name}: a row for each class ({words})")
    return run.read(run.run.samples_h5, read, None)


def denoising_picture(run: RunReport, log: BoardLog | None) -> Picture | None:
    """The last strip that training left in TensorBoard."""
    if not log or "denoising" not in log.pictures:
        return None
    step, png = log.pictures["denoising"]

    def read() -> Picture:
        with Image.open(io.BytesIO(png)) as opened:
            strip = np.array(opened.convert("L" if run.spec.data.channels == 1 else "RGB"))
        # jobs.data.pictures.grid: one row of enlarged images with a white gap around each; apart and small again here.
        size = run.spec.data.image_size
        scale, gap = divmod(strip.shape[0], size)
        strip, side, gap = strip.reshape(*strip.shape[:2], -1), size * scale, gap // 2
        images = [strip[gap:gap + side:scale, left:left + side:scale] for left in range(gap, strip.shape[1] - side, side + gap)]
        return tiles(np.stack(images), len(images), f"{run.name}, after {step:,} iterations")
    return run.read(run.run.tensorboard, read, None)


def noising_picture(spec: Spec, images: np.ndarray) -> Picture:
    """x_0 of the data at STRIP evenly spaced t of the forward process (Ho et al. 2020, eq. 4), always with the same noise."""
    steps = spec.diffusion.diffusion_steps
    alphas_cumprod = np.cumprod(1 - betas_of(spec.diffusion.noise_schedule, steps))
    t = np.linspace(0, steps - 1, STRIP).round().astype(int)
    signal = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(0).standard_normal(images[0].shape)
    x = np.sqrt(signal) * (np.asarray(images[0], dtype=np.float64) / 127.5 - 1) + np.sqrt(1 - signal) * noise
    return tiles(np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8), STRIP,
                 f"{spec.diffusion.noise_schedule}, T = {steps:,}: t = {', '.join(f'{step:,}' for step in t)}")


def training_data(run: RunReport) -> ImageData | None:
    """What `run` trains on, None with a remark where it cannot be opened here."""
    data = run.spec.data
    try:
        return open_data(data.path, data.image_size, data.channels)
    except Exception as error:  # the report may be written where the data are not
        run.remarks.append(f"training data: {str(error).splitlines()[0]}")
        return None


def neighbours_picture(run: RunReport, data: ImageData) -> Picture | None:
    """Samples above the training images nearest to them."""
    def read() -> Picture:
        with h5py.File(run.run.samples_h5, "r") as file:
            samples = file["images"][:COMPARED]
        index, distance = nearest(samples, data.images)
        return tiles(np.concatenate([samples, data.images[index]]), len(samples),
                     f"{run.name}: {', '.join(f'{value:.0f}' for value in distance)} grey levels apart")
    return run.read(run.run.samples_h5, read, None)


def usual_distance(run: RunReport, data: ImageData) -> str:
    """How far unseen images are from their nearest training images, in a sentence to compare samples with."""
    spec = run.spec
    try:
        unseen = open_data(spec.evaluate.nll_data, spec.data.image_size, spec.data.channels).images[:YARDSTICK]
        distance, whose = nearest(unseen, data.images)[1], f"{len(unseen)} held-out images of {spec.evaluate.nll_data}"
    except Exception:  # there may be no held-out data, or not here
        own = searched(len(data))[:: max(1, min(len(data), 50_000) // YARDSTICK)][:YARDSTICK]
        distance = nearest(data.images[own], data.images, not_itself=own)[1]
        whose = f"{len(own)} training images (themselves apart)"
    low, middle, high = np.quantile(distance, [0.05, 0.5, 0.95])
    return (f"For comparison, {whose} lie {middle:.0f} grey levels from the nearest training image in the median "
            f"({low:.0f} to {high:.0f} for nine in ten). Copies would lie much nearer than that.")
