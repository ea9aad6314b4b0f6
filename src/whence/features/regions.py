"""Superpixels: regions of similar colour in pictures, by scikit-image's segmentations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from whence.errors import BadInput
from whence.naming import unknown

if TYPE_CHECKING:
    from whence.features.kinds import Superpixels

COUNT = 50


def regions(
    pictures: Float[np.ndarray, "rows ..."], axes: tuple[int, int], asked: Superpixels
) -> Int[np.ndarray, "rows height width"]:
    """Return the number of each pixel's region, from 0, picture by picture.

    Raises:
        BadInput: there is no such segmentation, or it has no such option.
    """
    make = _METHODS.get(asked.method)
    if make is None:
        raise BadInput(unknown("kind of superpixels", asked.method, _METHODS))
    flat = np.moveaxis(pictures, axes, (-2, -1))
    flat = flat.reshape(len(flat), -1, *flat.shape[-2:]).transpose(0, 2, 3, 1)
    options, count = dict(asked.options), asked.count or COUNT
    try:
        found = [make(_shown(each), count, options) for each in flat]
    except TypeError as problem:
        raise BadInput(f"superpixels {asked.method}: {problem}") from None
    return np.stack([np.unique(each, return_inverse=True)[1].reshape(each.shape) for each in found])


def _shown(picture: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w 3"]:
    """Return a picture as colours in [0, 1]: of what a model's preprocessing has left, its own range."""
    least, most = float(picture.min()), float(picture.max())
    if least < 0 or most > 1:
        picture = (picture - least) / max(most - least, 1e-12)
    if picture.shape[2] not in (1, 3):
        picture = picture.mean(2, keepdims=True)
    return np.repeat(picture, 3, 2) if picture.shape[2] == 1 else picture


def _slic(picture: Any, count: int, options: dict[str, Any]) -> Any:
    from skimage.segmentation import slic

    given: dict[str, Any] = {"n_segments": count, "start_label": 0} | options
    return slic(picture, **given)


def _felzenszwalb(picture: Any, count: int, options: dict[str, Any]) -> Any:
    from skimage.segmentation import felzenszwalb

    given: dict[str, Any] = {"scale": 100, "min_size": picture.size // (6 * count)} | options
    return felzenszwalb(picture, **given)


def _quickshift(picture: Any, count: int, options: dict[str, Any]) -> Any:
    from skimage.segmentation import quickshift

    # What lime's pictures are cut with.
    given: dict[str, Any] = {"kernel_size": 4, "max_dist": 200, "ratio": 0.2} | options
    return quickshift(picture, **given)


def _watershed(picture: Any, count: int, options: dict[str, Any]) -> Any:
    from skimage.color import rgb2gray
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    given: dict[str, Any] = {"markers": count, "compactness": 0.001} | options
    return watershed(sobel(rgb2gray(picture)), **given)


_METHODS = {"slic": _slic, "felzenszwalb": _felzenszwalb, "quickshift": _quickshift, "watershed": _watershed}
