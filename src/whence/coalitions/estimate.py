"""From what coalitions are worth to shares: least squares under the Shapley kernel, exact sums, ridge regression."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.coalitions.rounds import Found

Shares = Float[np.ndarray, "rows features *K"]
# Samples whose numbers are made floats at a time: what is kept of each is a bit for each feature.
BLOCK = 4096
# Pairs of a stratum from which their mean is believed.
FEW = 8


def constrained_least_squares(
    pairs: Bool[np.ndarray, "pairs features"],
    weights: Float[np.ndarray, "pairs"],
    odd: Float[np.ndarray, "rows pairs *K"],
    change: Float[np.ndarray, "rows *K"],
    stratum: Int[np.ndarray, "pairs"],
    missing: Float[np.ndarray, "strata"],
) -> tuple[Shares, Shares | None]:
    """Return argmin_φ Σ_S w_S (u_S − (1_S − ½)·φ)² with Σφ = change, u_S = (v(S) − v(N∖S))/2, and standard errors.

    Of a pair of complements only the odd half u depends on φ. The errors are those of a stratified sample without
    replacement (Cochran 1977): `missing` is the part of each stratum that was not visited, and one visited whole adds
    nothing. None where there are too few pairs to tell.
    """
    features = pairs.shape[1]
    flat, change = odd.reshape(*odd.shape[:2], -1), change.reshape(len(change), -1)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(pairs), BLOCK)]
    gram = sum(_product(_centred(pairs[b]), weights[b]) for b in blocks)
    # The all-ones direction is fixed by the constraint; anything of the right size there makes the system solvable.
    inverse = np.linalg.pinv(gram + np.trace(gram) / features**2, hermitian=True)
    inverse -= inverse.mean(0) + inverse.mean(1)[:, None] - inverse.mean()
    level = change / features
    target = flat - (pairs.sum(1) - features / 2)[None, :, None] * level[:, None]
    slopes = np.zeros((len(flat), features, flat.shape[2]))
    for b in blocks:
        slopes += np.einsum("pd,npk->ndk", (_centred(pairs[b]) @ inverse) * weights[b, None], target[:, b])
    shares = slopes + level[:, None]
    shape = (len(odd), features, *odd.shape[2:])
    if not missing.any():
        return shares.reshape(shape), np.zeros(shape)
    if len(pairs) < features:
        return shares.reshape(shape), None
    variance = np.zeros_like(slopes)
    for number in np.flatnonzero(missing):
        mine = np.flatnonzero(stratum == number)
        if len(mine):
            variance += missing[number] * _spread(pairs, weights, target, inverse, slopes, mine)
    return shares.reshape(shape), np.sqrt(variance).reshape(shape)


def _centred(pairs: Bool[np.ndarray, "pairs features"]) -> Float[np.ndarray, "pairs features"]:
    return pairs - pairs.mean(1, keepdims=True)


def _spread(
    pairs: Bool[np.ndarray, "pairs features"],
    weights: Float[np.ndarray, "pairs"],
    target: Float[np.ndarray, "rows pairs K"],
    inverse: Float[np.ndarray, "features features"],
    slopes: Float[np.ndarray, "rows features K"],
    mine: Int[np.ndarray, "some"],
) -> Float[np.ndarray, "rows features K"]:
    """Return what the residuals of one stratum add to the variance of each share."""
    squares, mean = np.zeros_like(slopes), np.zeros_like(slopes)
    for first in range(0, len(mine), BLOCK):
        some = mine[first : first + BLOCK]
        centred = _centred(pairs[some])
        influence = (centred @ inverse) * weights[some, None]
        residual = target[:, some] - np.einsum("pd,ndk->npk", centred, slopes)
        # A pair that pulls the fit towards itself leaves a smaller residual than it would have had (MacKinnon, White
        # 1985).
        pull = np.einsum("pd,pd->p", influence, centred)
        residual /= np.sqrt(np.maximum(1 - pull, 1 / len(pairs)))[:, None]
        squares += np.einsum("pd,npk->ndk", influence**2, residual**2)
        mean += np.einsum("pd,npk->ndk", influence, residual) / len(mine)
    # Of few pairs the mean is no better known than the spread: then the larger, uncentred sum is the honest one.
    centred = squares - len(mine) * mean**2 if len(mine) >= FEW else squares
    return np.maximum(centred, 0.0) * len(mine) / max(1, len(mine) - 1)


def shapley_values(values: Float[np.ndarray, "rows coalitions *K"], features: int) -> Shares:
    """Return Σ_S |S|!(d−|S|−1)!/d! (v(S ∪ i) − v(S)) from the values of all 2^d coalitions, bit j being feature j."""
    flat = values.reshape(*values.shape[:2], -1)
    sizes = np.bitwise_count(np.arange(2**features, dtype=np.uint64)).astype(np.int64)
    weight = np.array([1 / (features * math.comb(features - 1, size)) for size in range(features)])
    found = np.zeros((len(values), features, flat.shape[2]))
    for feature in range(features):
        split = (-1, 2, 2**feature)
        without = sizes.reshape(split)[:, 0].ravel()
        halves = flat.reshape(len(values), *split, flat.shape[2])
        gains = (halves[:, :, 1] - halves[:, :, 0]).reshape(len(values), -1, flat.shape[2])
        found[:, feature] = np.einsum("s,nsk->nk", weight[without], gains)
    return found.reshape(len(values), features, *values.shape[2:])


def interaction_values(
    values: Float[np.ndarray, "rows coalitions *K"], features: int
) -> Float[np.ndarray, "rows features features *K"]:
    """Return Σ_S |S|!(d−|S|−2)!/(d−1)! (v(S∪ij) − v(S∪i) − v(S∪j) + v(S)) for every pair; 0 on the diagonal."""
    flat = values.reshape(*values.shape[:2], -1)
    sizes = np.bitwise_count(np.arange(2**features, dtype=np.uint64)).astype(np.int64)
    weight = np.array(
        [1 / ((features - 1) * math.comb(features - 2, s)) for s in range(max(features - 1, 0))]
    )
    found = np.zeros((len(values), features, features, flat.shape[2]))
    for high in range(features):
        for low in range(high):
            split = (-1, 2, 2 ** (high - low - 1), 2, 2**low)
            without = sizes.reshape(split)[:, 0, :, 0].ravel()
            cube = flat.reshape(len(values), *split, flat.shape[2])
            both = cube[:, :, 1, :, 1] - cube[:, :, 1, :, 0] - cube[:, :, 0, :, 1] + cube[:, :, 0, :, 0]
            pair = np.einsum("s,nsk->nk", weight[without], both.reshape(len(values), -1, flat.shape[2]))
            found[:, high, low] = found[:, low, high] = pair
    return found.reshape(len(values), features, features, *values.shape[2:])


def fitted(
    design: Bool[np.ndarray, "samples features"],
    weights: Float[np.ndarray, "samples"],
    times: Int[np.ndarray, "samples"],
    values: Float[np.ndarray, "rows samples *K"],
    ridge: float,
    keep: int | None,
    exact: bool,
) -> Found:
    """Return a linear surrogate's slopes, fitted once more to the `keep` largest, with its weighted R².

    `times` is how often each sample was drawn; where the samples are `exact`ly all there are, nothing is left to
    chance and the standard errors are 0.
    """
    shares, error, fidelity = weighted_ridge(design, weights, times, values, ridge)
    if keep is not None and keep < design.shape[1]:
        flat = shares.reshape(*shares.shape[:2], -1)
        y = values.reshape(*values.shape[:2], -1)
        shares, error = np.zeros_like(flat), np.zeros_like(flat)
        fidelity = np.zeros((len(flat), flat.shape[2]))
        for row, column in np.ndindex(len(flat), flat.shape[2]):
            chosen = np.argsort(-np.abs(flat[row, :, column]), kind="stable")[:keep]
            target = y[row : row + 1, :, column]
            again = weighted_ridge(design[:, chosen], weights, times, target, ridge)
            shares[row, chosen, column], error[row, chosen, column] = again[0][0], again[1][0]
            fidelity[row, column] = again[2][0]
        shape = (len(values), design.shape[1], *values.shape[2:])
        shares, error = shares.reshape(shape), error.reshape(shape)
        fidelity = fidelity.reshape(len(values), *values.shape[2:])
    return Found(shares, np.zeros_like(error) if exact else error, fidelity)


def weighted_ridge(
    design: Bool[np.ndarray, "samples features"],
    weights: Float[np.ndarray, "samples"],
    times: Int[np.ndarray, "samples"],
    target: Float[np.ndarray, "rows samples *K"],
    ridge: float,
) -> tuple[Shares, Shares, Float[np.ndarray, "rows *K"]]:
    """Return slopes of Σ w (y − a − Xβ)² + ridge ‖β‖², their standard errors (sandwich), and the weighted R².

    With more features than samples the system is solved in the samples, so that nothing of d x d is made; else nothing
    of samples x d but the bits.
    """
    y = target.reshape(*target.shape[:2], -1)
    samples, features = design.shape
    blocks = [slice(first, first + BLOCK) for first in range(0, samples, BLOCK)]
    total = weights.sum()
    mean_x = sum(weights[b] @ design[b] for b in blocks) / total
    centred = y - (np.einsum("p,npk->nk", weights, y) / total)[:, None]
    influence = _influence(design - mean_x, weights, ridge) if features > samples else None
    inverse = None
    if influence is None:
        gram = sum(_product(design[b] - mean_x, weights[b]) for b in blocks)
        inverse = np.linalg.pinv(gram + ridge * np.eye(features), hermitian=True)

    def pull(b: slice) -> Float[np.ndarray, "block features"]:
        """Return how strongly each sample of a block pulls at each slope."""
        if inverse is None:
            assert influence is not None
            return influence[b]
        return ((design[b] - mean_x) * weights[b, None]) @ inverse

    slopes = np.zeros((len(y), features, y.shape[2]))
    for b in blocks:
        slopes += np.einsum("pd,npk->ndk", pull(b), centred[:, b])
    variance, left = np.zeros_like(slopes), np.zeros((len(y), y.shape[2]))
    for b in blocks:
        residual = centred[:, b] - np.einsum("pd,ndk->npk", design[b] - mean_x, slopes)
        variance += np.einsum("pd,npk->ndk", pull(b) ** 2 / times[b, None], residual**2)
        left += np.einsum("p,npk->nk", weights[b], residual**2)
    drawn = int(times.sum())
    variance *= drawn / max(1, drawn - min(features, drawn - 1) - 1)
    spread = np.einsum("p,npk->nk", weights, centred**2)
    # A surrogate of a constant explains all there is to explain.
    fidelity = np.where(spread > 1e-24 * total, 1 - left / np.where(spread > 0, spread, 1.0), 1.0)
    shape = (len(y), features, *target.shape[2:])
    return (
        slopes.reshape(shape),
        np.sqrt(variance).reshape(shape),
        fidelity.reshape(len(y), *target.shape[2:]),
    )


def _product(
    x: Float[np.ndarray, "block features"], weights: Float[np.ndarray, "block"]
) -> Float[np.ndarray, "features features"]:
    return (x * weights[:, None]).T @ x


def _influence(
    x: Float[np.ndarray, "samples features"], weights: Float[np.ndarray, "samples"], ridge: float
) -> Float[np.ndarray, "samples features"]:
    """Return how strongly each sample pulls at each slope, solved in the samples, which are fewer."""
    root = np.sqrt(weights)[:, None]
    x = x * root
    gram = x @ x.T + ridge * np.eye(len(x))
    return np.linalg.pinv(gram, hermitian=True) @ x * root
