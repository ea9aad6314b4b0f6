"""Integrated gradients in JAX and TensorFlow beside a loop written by hand in the same framework.

    .venv/bin/python benchmarks/frameworks.py [--rounds 9]

A convolutional network (28 x 28 digits, float32), 16 examples, 50 Gauss-Legendre nodes; each framework in a process of
its own. By hand there is one compiled gradient of 16 rows, called for every node (and, in JAX, a scan over the nodes,
which is slower on a CPU). Both are warm. What is printed is the median of the ratios of rounds that take turns, in
seconds of the clock and of the processor: beside other work only the latter means much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

NODES, BATCH = 50, 16


def weights() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = ((3, 3, 1, 16), (3, 3, 16, 32), (32 * 49, 10))
    return [(generator.normal(size=shape) * 0.1).astype(np.float32) for shape in shapes]


def rule() -> tuple[np.ndarray, np.ndarray]:
    nodes, mass = np.polynomial.legendre.leggauss(NODES)
    return ((nodes + 1) / 2).astype(np.float32), (mass / 2).astype(np.float32)


def pictures() -> np.ndarray:
    return np.random.default_rng(1).random((BATCH, 28, 28, 1)).astype(np.float32)


Work = Callable[[], object]


def in_jax() -> dict[str, Work]:
    import jax
    import jax.numpy as jnp

    import whence

    parameters = [jnp.asarray(each) for each in weights()]
    x, classes = jnp.asarray(pictures()), np.arange(BATCH) % 10
    alphas, masses = rule()

    def network(parameters, x):
        sides = ("NHWC", "HWIO", "NHWC")
        for kernel in parameters[:2]:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=sides)
            x = jax.lax.reduce_window(
                jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
            )
        return x.reshape(x.shape[0], -1) @ parameters[2]

    def score(x):
        return jnp.take_along_axis(network(parameters, x), classes[:, None], 1).sum()

    gradient = jax.jit(jax.grad(score))

    @jax.jit
    def scanned(x):
        def step(total, node):
            return total + node[1] * jax.grad(score)(node[0] * x), None

        return jax.lax.scan(step, jnp.zeros_like(x), (alphas, masses))[0] * x

    def by_hand():
        total = jnp.zeros_like(x)
        for alpha, mass in zip(alphas, masses, strict=True):
            total = total + mass * gradient(alpha * x)
        return jax.block_until_ready(total * x)

    method = whence.IntegratedGradients(quadrature="gauss", steps=NODES)
    return {
        "whence": lambda: jax.block_until_ready(method((network, parameters), x, target=classes).values),
        "by hand": by_hand,
        "by hand, scanned": lambda: jax.block_until_ready(scanned(x)),
    }


def in_tensorflow() -> dict[str, Work]:
    import keras
    import tensorflow

    import whence

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", use_bias=False),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", use_bias=False),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, use_bias=False),
        ]
    )
    model.set_weights(weights())
    x, classes = tensorflow.constant(pictures()), np.arange(BATCH) % 10
    places = tensorflow.constant(classes)
    alphas, masses = (tensorflow.constant(each) for each in rule())

    @tensorflow.function
    def gradient(x):
        with tensorflow.GradientTape() as tape:
            tape.watch(x)
            y = tensorflow.gather(model(x, training=False), places, batch_dims=1)
        return tape.gradient(y, x)

    @tensorflow.function
    def looped(x):
        total = tensorflow.zeros_like(x)
        for node in tensorflow.range(NODES):
            total += masses[node] * gradient(alphas[node] * x)
        return total * x

    def by_hand():
        total = tensorflow.zeros_like(x)
        for alpha, mass in zip(*rule(), strict=True):
            total = total + mass * gradient(alpha * x)
        return (total * x).numpy()

    method = whence.IntegratedGradients(quadrature="gauss", steps=NODES)
    return {
        "whence": lambda: np.asarray(method(model, x, target=classes).values),
        "by hand": by_hand,
        "by hand, traced loop": lambda: looped(x).numpy(),
    }


def measure(name: str, rounds: int) -> None:
    works = {"jax": in_jax, "tensorflow": in_tensorflow}[name]()
    found = {label: np.asarray(work()) for label, work in works.items()}
    for label, maps in found.items():
        difference = np.abs(maps - found["whence"]).max() / np.abs(maps).max()
        print(f"{name}: {label}: differs by {difference:.1e}")
    for work in works.values():
        work()
    clock: dict[str, list[float]] = {label: [] for label in works}
    processor: dict[str, list[float]] = {label: [] for label in works}
    for _ in range(rounds):
        for label, work in works.items():
            began, used = time.perf_counter(), time.process_time()
            work()
            clock[label].append(time.perf_counter() - began)
            processor[label].append(time.process_time() - used)
    for label in works:
        ratios = [
            statistics.median(a / b for a, b in zip(times["whence"], times[label], strict=True))
            for times in (clock, processor)
        ]
        print(
            f"{name}: {label}: {statistics.median(clock[label]) * 1e3:.0f} ms; whence takes {ratios[0]:.2f} of its "
            f"time and {ratios[1]:.2f} of its processor time"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("jax", "tensorflow"))
    options = parser.parse_args()
    if options.only:
        measure(options.only, options.rounds)
        return
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "tensorflow"}
    for name in ("jax", "tensorflow"):
        command = [sys.executable, __file__, "--only", name, "--rounds", str(options.rounds)]
        subprocess.run(command, env={**os.environ, **quiet}, check=True)


if __name__ == "__main__":
    main()
