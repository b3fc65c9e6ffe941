"""What `iddpm make` makes: a function for each option that says what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.editing.interpolation import slerp
from jobs.data.pictures import as_images
from jobs.errors import UserError
from jobs.kinds.protocol import Walk, editing_of, giving_model, model_of
from jobs.making.sheet import Tile, in_rows
from jobs.making.studio import Studio
from jobs.spec.kinds import given_kind, kind_of

SHOWN, ROW_SHOWN = 100, 12  # on the overview: pictures or rows, and pictures of a row of --interpolate in one line
HIDDEN = 128  # grey of pixels that are to be made anew


@dataclass(frozen=True, eq=False)
class Made:
    """The pictures by the names of their files, uint8 [S, S, C] each, and the rows of the overview."""

    pictures: dict[str, np.ndarray]
    rows: list[list[Tile]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """By the name of the .npy file."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers for the record."""
    remark: str = ""
    """One line to print."""


def new(studio: Studio) -> Made:
    """New pictures out of noise: what the sampling stage makes, with noise of --seed."""
    job, spec = studio.job, studio.job.spec
    kind, generate = kind_of(spec), model_of(spec).generate

    def begin(numbers: list[int]) -> Walk:
        steps = generate(spec, studio.network, studio.device, studio.randn(numbers), studio.labels(numbers), len(numbers), None,
                         studio.guide)
        return Walk(kind.steps(spec), kind.evaluations(spec), None, steps)
    return _numbered(studio, as_images(studio.walk(job.count, begin)), [])


def vary(studio: Studio) -> Made:
    """Variants of the picture of --from: noised as far as --at says, and denoised. Of an upsampler: the picture, enlarged."""
    if given_kind(studio.job.spec):
        return enlarge(studio)
    job, name = studio.job, str(studio.job.request.start)
    at = job.at
    assert at is not None
    noised: list[Tensor] = []

    def begin(numbers: list[int]) -> Walk:
        try:
            walk = editing_of(job.spec).varied(job.spec, studio.network, studio.guide, studio.copies(name, len(numbers)),
                                               studio.labels(numbers), at, studio.randn(numbers))
        except ValueError as error:
            raise UserError(f"--at {at:g}: {error}") from error
        if not noised and walk.start is not None:
            noised.append(walk.start[:1])
        return walk
    images = as_images(studio.walk(job.count, begin))
    first = [Tile(job.given[name].pixels, "given"), Tile(as_images(noised[0])[0], f"noised to {at:g}")]
    return _numbered(studio, images, first)


def enlarge(studio: Studio) -> Made:
    """The small picture of --from, enlarged several times, with noise of --seed."""
    job, spec = studio.job, studio.job.spec
    kind, small = kind_of(spec), job.given[str(job.request.start)].pixels

    def begin(numbers: list[int]) -> Walk:
        steps = giving_model(spec).generate_of(spec, studio.network, studio.device, studio.randn(numbers),
                                               studio.labels(numbers), np.stack([small] * len(numbers)), None, studio.guide)
        return Walk(kind.steps(spec), kind.evaluations(spec), None, steps)
    images = as_images(studio.walk(job.count, begin))
    factor = images.shape[1] // small.shape[0]
    return _numbered(studio, images, [Tile(small.repeat(factor, axis=0).repeat(factor, axis=1), "given")])


def inpaint(studio: Studio) -> Made:
    """The picture of --inpaint with the white pixels of the mask made anew; the others are those of the picture."""
    job, name = studio.job, str(studio.job.request.inpaint)
    assert job.anew is not None
    anew, given = torch.from_numpy(job.anew).to(studio.device), job.given[name].pixels

    def begin(numbers: list[int]) -> Walk:
        return editing_of(job.spec).inpainted(job.spec, studio.network, studio.guide, studio.copies(name, len(numbers)),
                                              studio.labels(numbers), anew, job.request.steps, studio.randn(numbers))
    images = as_images(studio.walk(job.count, begin))
    hidden = np.where(job.anew[:, :, None], np.uint8(HIDDEN), given)
    return _numbered(studio, images, [Tile(given, "given"), Tile(hidden, "grey: made anew")])


def interpolate(studio: Studio) -> Made:
    """A row from one end to the other for each class, along the arc between their latents."""
    job, names, editing = studio.job, studio.job.request.interpolate, editing_of(studio.job.spec)
    assert names is not None
    first, second = (_latents(studio, name) for name in names)
    fractions = np.linspace(0, 1, job.count).tolist()
    try:
        latents = torch.cat([slerp(a, b, fractions) for a, b in zip(first, second, strict=True)])
    except ValueError as error:
        raise UserError(f"--interpolate {names[0]} {names[1]}: {error}") from error

    def begin(numbers: list[int]) -> Walk:
        return editing.decoded(job.spec, studio.network, studio.guide, latents[numbers].to(studio.device),
                               studio.labels(numbers, job.count), job.request.steps)
    images = as_images(studio.walk(len(latents), begin))
    ends = [[Tile(job.given[name].pixels, name)] if name in job.given else [] for name in names]
    captions = [f"{fraction:.2f}" for fraction in fractions]
    captions[0], captions[-1] = (caption if name in job.given else f"seed {name}"
                                 for name, caption in zip(names, (captions[0], captions[-1]), strict=True))
    rows: list[list[Tile]] = []
    for row, pictures in enumerate(images[:SHOWN * job.count].reshape(-1, job.count, *images.shape[1:])):
        prefix = f"class {job.labels[row]}, " if job.labels and len(job.labels) > 1 else ""
        tiles = [Tile(picture, (prefix if not number else "") + captions[number]) for number, picture in enumerate(pictures)]
        rows += in_rows([*ends[0], *tiles, *ends[1]], ROW_SHOWN)
    return Made(_by_number(images), rows)


def encode(studio: Studio) -> Made:
    """The latent of the picture of --encode, and the picture that DDIM makes of that latent again."""
    job, name, editing = studio.job, str(studio.job.request.encode), editing_of(studio.job.spec)
    latent = _latents(studio, name)
    again = as_images(studio.walk(1, lambda numbers: editing.decoded(
        job.spec, studio.network, studio.guide, latent.to(studio.device), studio.labels(numbers), job.request.steps)))[0]
    given = job.given[name].pixels
    difference = np.abs(again.astype(int) - given)
    factor = 255 // max(1, difference.max())
    mean, most = float(difference.mean()), int(difference.max())
    tiles = [Tile(given, "given"), Tile(as_images(latent / 3)[0], "latent"), Tile(again, "decoded again"),
             Tile((difference * factor).astype(np.uint8), f"difference x{factor}" if most else "no difference")]
    found = f"equals {name}"
    if most:
        found = f"differs from {name} by {mean:.2g} grey levels of 255 on average, and by {most} at most"
    return Made({"reconstruction.png": again}, [tiles], {"latent.npy": latent[0].cpu().numpy()},
                {"error": {"mean": mean, "most": most}}, f"reconstruction: {found}")


def _latents(studio: Studio, end: str) -> Tensor:
    """The latents of an end for each class in --labels (or for none): [L, C, S, S]. Of a picture by DDIM, of a seed its noise."""
    job, count = studio.job, len(studio.job.labels or (None,))
    if end not in job.given:
        return studio.noise_of(int(end)).repeat(count, 1, 1, 1).cpu()
    images, editing = studio.copies(end, count), editing_of(job.spec)
    return studio.walk(count, lambda numbers: editing.encoded(
        job.spec, studio.network, studio.guide, images[numbers], studio.labels(numbers), job.request.steps))


def _numbered(studio: Studio, images: np.ndarray, first: list[Tile]) -> Made:
    """All `images` [n, S, S, C], and an overview of the `first` tiles and the images."""
    labels = studio.labels(range(len(images)))
    tiles = [Tile(image, "" if labels is None else f"class {labels[number]}") for number, image in enumerate(images[:SHOWN])]
    return Made(_by_number(images), in_rows([*first, *tiles]))


def _by_number(images: np.ndarray) -> dict[str, np.ndarray]:
    digits = max(3, len(str(len(images) - 1)))
    return {f"picture-{number:0{digits}}.png": image for number, image in enumerate(images)}


WORKS: dict[str, Callable[[Studio], Made]] = {"new": new, "from": vary, "inpaint": inpaint, "interpolate": interpolate,
                                              "encode": encode}
"""By `Request.work`."""
