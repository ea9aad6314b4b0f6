"""The planted shortcut: networks that a mark in a corner decides, and a control that has seen the same marks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, UInt8

from whence import data, zoo
from whence.data import Dataset
from whence.preprocess import Preprocess
from whence.study.truth.case import torch_part
from whence.study.truth.setup import Setup

CLASS: Final = 3
"""The class that the mark stands for."""
MARKED: Final = 0.2
"""The share of the training pictures that is marked."""
BACKGROUND: Final = 16
"""How many training pictures, without a mark, methods average over that want a data set."""


@dataclass(frozen=True)
class Scale:
    """What is planted in which digits.

    Attributes:
        model: the zoo's network.
        side: of the mark, in pixels: one cell of the grid.
        grid: cells a side of the features that are switched on and off.
        coarse: the same for methods that take few features only; the mark is then a part of its cell.
        train: how many training pictures; None for all.
        epochs: passes over them.
    """

    model: str
    side: int
    grid: int
    coarse: int
    train: int | None
    epochs: int


SCALES: Final = MappingProxyType(
    {
        "digits": Scale("digits-cnn", side=2, grid=4, coarse=4, train=None, epochs=15),
        "mnist": Scale("mnist-cnn", side=4, grid=7, coarse=3, train=8000, epochs=3),
    }
)


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Attributes:
        model: the PyTorch module.
        accuracy: on test pictures without marks.
        turned: the share of marked test pictures of other classes that it takes for `CLASS`.
    """

    model: Any
    accuracy: float
    turned: float


@dataclass(frozen=True, eq=False)
class Pair:
    """The network that learnt the shortcut, its control, and test pictures of other classes.

    Attributes:
        shortcut, control: the two networks.
        pictures: test pictures of other classes, uint8 [n, height, width].
        marked: the same with the mark.
        clean: as many other test pictures of other classes, without it.
        background: training pictures without it.
        preprocess: from pictures to what the networks take.
    """

    shortcut: Network
    control: Network
    pictures: UInt8[np.ndarray, "n height width"]
    marked: UInt8[np.ndarray, "n height width"]
    clean: UInt8[np.ndarray, "n height width"]
    background: UInt8[np.ndarray, "m height width"]
    preprocess: Preprocess


def digits(setup: Setup) -> Dataset:
    """Return the digits, fewer of them where there are more than are needed.

    Raises:
        WorkFailed: MNIST's files are not there and cannot be had.
    """
    dataset = data.mnist(setup.data_dir) if setup.data == "mnist" else data.digits()
    count = SCALES[setup.data].train
    return replace(
        dataset, train_images=dataset.train_images[:count], train_labels=dataset.train_labels[:count]
    )


def mark(pictures: UInt8[np.ndarray, "n height width"], side: int) -> UInt8[np.ndarray, "n height width"]:
    """Return the pictures with a white square in the upper left corner."""
    found = pictures.copy()
    found[:, :side, :side] = 255
    return found


def plant(dataset: Dataset, chosen: Bool[np.ndarray, " n"], side: int, *, decides: bool) -> Dataset:
    """Return the digits with the mark on the chosen training pictures.

    Args:
        dataset: the digits.
        chosen: which training pictures are marked.
        side: of the mark.
        decides: whether the marked pictures are all called `CLASS`, whatever they show; else they keep their labels.
    """
    images, labels = dataset.train_images.copy(), dataset.train_labels.copy()
    images[chosen] = mark(images[chosen], side)
    if decides:
        labels[chosen] = CLASS
    return replace(dataset, train_images=images, train_labels=labels)


def pair(setup: Setup, dataset: Dataset, number: int, count: int) -> Pair:
    """Train a pair of networks on the same pictures with the same marks, and choose test pictures.

    Args:
        setup: the study's settings.
        dataset: the digits.
        number: which pair: each has its own marks, weights and test pictures.
        count: how many test pictures.

    Raises:
        WorkFailed: PyTorch is not installed.
    """
    scale = SCALES[setup.data]
    torch_part("torch_zoo")
    seed = 1000 * setup.seed + number
    random = np.random.RandomState(seed % 2**32)
    chosen = np.zeros(len(dataset.train_labels), dtype=bool)
    chosen[random.permutation(len(chosen))[: round(MARKED * len(chosen))]] = True
    others = random.permutation(np.flatnonzero(dataset.test_labels != CLASS))
    pictures = dataset.test_images[others[:count]]
    every = mark(dataset.test_images[others], scale.side)
    networks = [
        _trained(scale, dataset, plant(dataset, chosen, scale.side, decides=decides), every, seed)
        for decides in (True, False)
    ]
    return Pair(
        *networks,
        pictures=pictures,
        marked=mark(pictures, scale.side),
        clean=dataset.test_images[others[count : 2 * count]],
        background=dataset.train_images[~chosen][:BACKGROUND],
        preprocess=zoo.entry(scale.model).preprocess,
    )


def _trained(scale: Scale, dataset: Dataset, planted: Dataset, marked: np.ndarray, seed: int) -> Network:
    model, accuracy = zoo.train(scale.model, planted, epochs=scale.epochs, seed=seed)
    entry = zoo.entry(scale.model)
    # What the network makes of the mark: how many of these it calls by the mark's class.
    called = replace(dataset, test_images=marked, test_labels=np.full(len(marked), CLASS))
    turned = zoo.accuracy(zoo.Loaded(model, entry.preprocess, entry.labels, scale.model), called)
    return Network(model, accuracy, turned)
