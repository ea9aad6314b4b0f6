"""NumPy's indexing of TensorFlow's tensors: integers, slices, None, and arrays of places."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def taken(tensor: Any, key: Any) -> Any:
    """Return tensor[key], with NumPy's meaning."""
    keys = _complete(tensor, key if isinstance(key, tuple) else (key,))
    places = [place for place, each in enumerate(keys) if _is_array(each)]
    if not places:
        return tensor[keys]
    if len(places) == 1 and not any(isinstance(each, (int, np.integer)) for each in keys):
        (place,) = places
        plain = tensor[(*keys[:place], slice(None), *keys[place + 1 :])]
        return tf.gather(plain, _places(keys[place], plain.shape[place]), axis=place)
    return _together(tensor, keys)


def _together(tensor: Any, keys: tuple[Any, ...]) -> Any:
    """Return what several arrays (and integers) choose together: position by position, on the axes that they name."""
    plain = tensor[tuple(slice(None) if _chooses(each) else each for each in keys)]
    axes = [place for place, each in enumerate(keys) if _chooses(each)]
    chosen = [_places(keys[place], plain.shape[place]) for place in axes]
    side_by_side = axes == list(range(axes[0], axes[0] + len(axes)))
    rest = [axis for axis in range(plain.shape.rank) if axis not in axes]
    first = tf.transpose(plain, [*axes, *rest])
    places = np.stack(np.broadcast_arrays(*chosen), -1)
    found = tf.gather_nd(first, places)
    if not side_by_side or axes[0] == 0:
        return found
    # NumPy leaves the chosen axes where they were when they stand side by side.
    new = places.ndim - 1
    before = list(range(new, new + axes[0]))
    after = list(range(new + axes[0], found.shape.rank))
    return tf.transpose(found, [*before, *range(new), *after])


def _complete(tensor: Any, keys: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return one key for every axis, with an ellipsis written out and masks as places."""
    plain = [_plain(each) for each in keys]
    used = sum(each is not None and each is not Ellipsis for each in plain)
    missing = [slice(None)] * (tensor.shape.rank - used)
    dots = next((place for place, each in enumerate(plain) if each is Ellipsis), None)
    return tuple([*plain, *missing] if dots is None else [*plain[:dots], *missing, *plain[dots + 1 :]])


def _plain(key: Any) -> Any:
    key = getattr(key, "tensor", key)
    if isinstance(key, tf.Tensor):
        key = key.numpy()
    if isinstance(key, (list, np.ndarray)):
        array = np.asarray(key, dtype=None if len(key) else int)
        return np.flatnonzero(array) if array.dtype == bool else array
    return key


def _is_array(key: Any) -> bool:
    return isinstance(key, np.ndarray)


def _chooses(key: Any) -> bool:
    return isinstance(key, (int, np.integer, np.ndarray))


def _places(key: Any, size: int) -> np.ndarray:
    """Return places counted from the front, which TensorFlow needs."""
    places = np.asarray(key)
    return np.where(places < 0, places + size, places)
