"""Speaker verification from gates: does the pruning betray who speaks.

    embedding   mean of the features over an utterance's speech frames, of unit length (eq. 5)
    backend     within-class covariance normalisation, linear discriminant analysis to 16
                dimensions, length normalisation; score: cosine to the mean of 1 to 3 enrolled
    trials      each remaining utterance against its speaker and against ten others
    figure      equal error rate

An experiment of the paper, not a product: the published error rates are modest.
Source: Miccini et al., "From Diet to Free Lunch", sections 3 and 4; Dehak et al., "Front-End
Factor Analysis for Speaker Verification", 2011, for the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import LabelledStream
from .features import Features

__all__ = ["Backend", "embed", "equal_error_rate", "fit_backend", "trials", "verify"]

Float64 = NDArray[np.float64]


def embed(
    stream: LabelledStream,
    features: Features,
    columns: NDArray[np.int64] | None = None,
    least_frames: int = 30,
) -> tuple[Float64, list[str]]:
    """Embeddings of the utterances with at least `least_frames` frames of (oracle) speech.

    Returns
    -------
    (U, d) float64 of unit length, and the speaker of each.
    """
    width = features.width if columns is None else len(columns)
    count = len(stream.speakers)
    total, frames = np.zeros((count, width)), np.zeros(count)
    wanted = np.where(np.asarray(stream.targets["vad"], np.bool_), stream.labels["utterance"], -1)
    for place, x in features.blocks(columns):
        owner = wanted[place]
        for utterance in np.unique(owner[owner >= 0]):
            mine = owner == utterance
            total[utterance] += x[mine].sum(axis=0, dtype=np.float64)
            frames[utterance] += mine.sum()
    kept = np.flatnonzero(frames >= least_frames)
    mean = total[kept] / frames[kept, None]
    return _unit(mean), [stream.speakers[k] for k in kept]


def _unit(x: Float64) -> Float64:
    unit: Float64 = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit


@dataclass(frozen=True)
class Backend:
    """A fitted linear backend: unit-length (x - mean) @ projection."""

    mean: Float64
    projection: Float64

    def __call__(self, embeddings: Float64) -> Float64:
        """(U, d) -> (U, k) of unit length."""
        return _unit((embeddings - self.mean) @ self.projection)


def fit_backend(
    embeddings: Float64, speakers: Sequence[str], dimensions: int = 16, shrinkage: float = 0.1
) -> Backend:
    """WCCN and LDA on training speakers.

    Parameters
    ----------
    embeddings : (U, d).
    speakers : of each; at least two with at least two utterances.
    dimensions : of the LDA, at most speakers - 1.
    shrinkage : share of the identity (times the mean variance) in the within-class covariance,
        which few utterances do not determine.

    Raises
    ------
    ValueError
        Too few speakers with two utterances.
    """
    names = np.asarray(speakers)
    groups = [np.flatnonzero(names == name) for name in np.unique(names)]
    groups = [group for group in groups if len(group) >= 2]
    if len(groups) < 2:
        raise ValueError("needs two speakers with two utterances each")
    used = np.concatenate(groups)
    mean = embeddings[used].mean(axis=0)
    centres = np.stack([embeddings[group].mean(axis=0) for group in groups])
    inner = np.concatenate(
        [embeddings[group] - centre for group, centre in zip(groups, centres, strict=True)]
    )
    within = inner.T @ inner / (len(inner) - len(groups))
    size = len(within)
    within = (1 - shrinkage) * within + (shrinkage * np.trace(within) / size + 1e-12) * np.eye(size)
    # WCCN: B B' = W^-1, so that within-class covariance becomes the identity.
    whitening = np.linalg.inv(np.linalg.cholesky(within)).T
    weights = np.array([len(group) for group in groups], np.float64)[:, None]
    between = (centres - mean) @ whitening * np.sqrt(weights)
    # LDA after whitening: the directions of largest between-class scatter.
    _, _, directions = np.linalg.svd(between, full_matrices=False)
    keep = min(dimensions, len(groups) - 1, len(directions))
    return Backend(mean, whitening @ directions[:keep].T)


def trials(
    embeddings: Float64, speakers: Sequence[str], enrolled: int, seed: int = 0, ratio: int = 10
) -> tuple[Float64, NDArray[np.bool_]]:
    """Scores of verification trials, one target to `ratio` non-target speakers.

    Parameters
    ----------
    embeddings : (U, k) of unit length.
    enrolled : utterances of each speaker that are averaged into a model; the rest are tried.

    Returns
    -------
    (T,) cosines, and whether each is a target trial.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(speakers)
    groups = [rng.permutation(np.flatnonzero(names == name)) for name in np.unique(names)]
    groups = [group for group in groups if len(group) > enrolled]
    if len(groups) < 2:
        return np.zeros(0), np.zeros(0, np.bool_)
    models = _unit(np.stack([embeddings[group[:enrolled]].mean(axis=0) for group in groups]))
    scores: list[float] = []
    target: list[bool] = []
    for own, group in enumerate(groups):
        others = np.array([k for k in range(len(groups)) if k != own])
        for utterance in group[enrolled:]:
            against = rng.choice(others, ratio, replace=len(others) < ratio)
            cosines = models[[own, *against]] @ embeddings[utterance]
            scores += cosines.tolist()
            target += [True] + [False] * ratio
    return np.array(scores), np.array(target)


def equal_error_rate(scores: Float64, target: NDArray[np.bool_]) -> float:
    """Rate at which false acceptances and false rejections are equal, 0..1."""
    order = np.argsort(-scores, kind="stable")
    hit = target[order]
    accepted_false = np.concatenate([[0], np.cumsum(~hit)]) / max((~hit).sum(), 1)
    rejected_true = 1 - np.concatenate([[0], np.cumsum(hit)]) / max(hit.sum(), 1)
    at = int(np.argmin(np.abs(accepted_false - rejected_true)))
    return float((accepted_false[at] + rejected_true[at]) / 2)


def verify(
    train: tuple[Float64, Sequence[str]], test: tuple[Float64, Sequence[str]]
) -> dict[int, dict[str, float]]:
    """EER and number of trials for 1, 2 and 3 enrolment utterances, mean of five draws."""
    backend = fit_backend(*train)
    projected = backend(test[0])
    found = {}
    for enrolled in (1, 2, 3):
        draws = [trials(projected, test[1], enrolled, seed) for seed in range(5)]
        rates = [equal_error_rate(*draw) for draw in draws if len(draw[0])]
        if rates:
            found[enrolled] = {"eer": float(np.mean(rates)), "trials": len(draws[0][0])}
    return found
