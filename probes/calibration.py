"""From frames to recordings: what may be said of a whole one, and when to say nothing.

evidence      how far a class's log-probabilities, averaged over a recording, are to be trusted
gain          the SNR of a recording before enhancement, from the ratio of what the gain keeps of
              the speech to what it removes
recording     that after enhancement, fitted on means over what the probe of voice activity takes
              for speech in the stream's scenes, as it is read: the mean of the frames' decibels is
              several below the ratio of powers that is called the SNR of a recording
clean         from which SNR on a recording counts as clean, and no noise is named
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import fitting, targets
from .data import LabelledStream
from .features import Features
from .fitting import Linear, Task
from .reading import HOP_S, kept_to_removed_db, segments

__all__ = ["Heard", "clean_from", "evidence", "heard_speech", "recording_snr", "snr_from_gain"]

Float64 = NDArray[np.float64]


class Heard(NamedTuple):
    """A stream as the network hears it."""

    stream: LabelledStream
    masks: Features
    powers: Features
    spoken: NDArray[np.bool_]  # frames that are heard as speech: `heard_speech`


_SNR_L2 = (100.0, 300.0, 1000.0)
_CLEAN_DB = 35.0
"""SNR given to a scene without noise: linear probes cannot reach much further."""
_LEAST = 60  # frames of speech in a scene to count


def groups(
    stream: LabelledStream, label: str, rows: NDArray[np.bool_], least: int
) -> list[NDArray[np.int64]]:
    """Frames of each scene or utterance, where there are at least `least`."""
    numbers = np.where(rows, stream.labels[label], -1)
    order = np.argsort(numbers, kind="stable")
    edges = np.flatnonzero(np.diff(numbers[order])) + 1
    found = np.split(order, edges)
    return [part for part in found if len(part) >= least and numbers[part[0]] >= 0]


def evidence(stream: LabelledStream, features: Features, model: Linear, least: int) -> float:
    """How far mean log-probabilities of a scene may be trusted: the factor of least log-loss."""
    if model.task.kind != "class":
        return 1.0
    rows, y = fitting.truth(stream, model.task)
    label = "utterance" if model.task.rows == "speech" else "scene"
    found = groups(stream, label, rows, least)
    if not found:
        return 1.0
    logs = fitting.log_probabilities(fitting.predict(features, model))
    means = np.stack([logs[frames].mean(axis=0) for frames in found])
    truths = np.array([y[frames[0]] for frames in found])
    best, least_loss = 1.0, np.inf
    for factor in (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0):
        scaled = means * factor
        scaled -= np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        loss = -scaled[np.arange(len(truths)), truths].mean()
        if loss < least_loss:
            best, least_loss = factor, loss
    return best


def heard_speech(stream: LabelledStream, features: Features, vad: Linear) -> NDArray[np.bool_]:
    """(L,) frames in the segments that a probe of voice activity finds, wrong ones among them."""
    logits = fitting.predict(features, vad)[:, 0]
    spoken = np.zeros(stream.frames, np.bool_)
    for segment in segments(1 / (1 + np.exp(-logits.clip(-60, 60)))):
        spoken[round(segment.start_s / HOP_S) : round(segment.end_s / HOP_S) + 1] = True
    return spoken


def _truths(
    stream: LabelledStream, target: str
) -> tuple[list[NDArray[np.int64]], Float64, NDArray[np.bool_]]:
    """Of each scene: its frames with speech, their SNR in dB, and whether there is noise."""
    rows, y = fitting.truth(stream, Task(target, "value", "speech"))
    power = np.zeros(stream.frames)
    size = 4096 * targets.HOP
    for start in range(0, len(stream.clean), size):  # margins do not matter for a scene's mean
        part = np.square(targets.frame_rms(stream.clean[start : start + size] / np.float32(32768)))
        first = start // targets.HOP
        power[first : first + len(part)] = part[: len(power) - first]
    found = groups(stream, "scene", rows, _LEAST)
    ratios, noisy = np.zeros(len(found)), np.zeros(len(found), np.bool_)
    for i, frames in enumerate(found):
        noise = (power[frames] / 10 ** (y[frames].astype(np.float64) / 10)).sum()
        ratios[i] = 10 * np.log10(max(power[frames].sum(), 1e-20) / max(noise, 1e-20))
        noisy[i] = stream.labels["noisy"][frames[0]] > 0
    return found, np.minimum(ratios, _CLEAN_DB), noisy


def _scenes(
    split: Heard, columns: NDArray[np.int64], target: str
) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    """Mean features over what is heard as speech, SNR in dB, and whether there is noise: a scene.

    The SNR is over the frames that hold speech indeed.
    """
    found, ratios, noisy = _truths(split.stream, target)
    scene = split.stream.labels["scene"]
    number = np.full(int(scene.max(initial=-1)) + 1, -1)
    for i, frames in enumerate(found):
        number[scene[frames[0]]] = i
    scene = np.where(split.spoken & (scene >= 0), number[scene], -1)
    total, count = np.zeros((len(found), len(columns))), np.zeros(len(found))
    for place, x in split.masks.blocks(columns):
        mine = scene[place]
        for i in np.unique(mine[mine >= 0]):
            total[i] += x[mine == i].sum(axis=0, dtype=np.float64)
            count[i] += (mine == i).sum()
    enough = count >= _LEAST / 3
    return total[enough] / count[enough][:, None], ratios[enough], noisy[enough]


def _kept_to_removed(split: Heard) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    """What the gain says of a scene's SNR, in dB, the SNR, and whether there is noise: a scene."""
    found, ratios, noisy = _truths(split.stream, "snr_input_db")
    scene = split.stream.labels["scene"]
    every = np.ones(len(scene), np.bool_)
    frames_of = {scene[f[0]]: f for f in groups(split.stream, "scene", every, 1)}
    powers = split.powers.block(0, len(scene))
    said = np.full(len(found), np.nan)
    for i, part in enumerate(found):
        frames = np.sort(frames_of[scene[part[0]]])
        ratio = kept_to_removed_db(powers[frames], split.spoken[frames])
        said[i] = np.nan if ratio is None else ratio
    heard = np.isfinite(said)
    return said[heard], ratios[heard], noisy[heard]


def snr_from_gain(
    train: Heard, others: dict[str, Heard]
) -> tuple[dict[str, float], dict[str, dict[str, float]]] | None:
    """SNR of a recording = offset + slope * (kept to removed, in dB).

    Returns
    -------
    ``{"slope", "offset"}`` of least squares over noisy scenes, and its scores by split; None with
    fewer than 20 of them.
    """
    x, y, noisy = _kept_to_removed(train)
    if noisy.sum() < 20:
        return None
    slope, offset = np.polyfit(x[noisy], y[noisy], 1).tolist()
    scores = {}
    for name, split in {"train": train, **others}.items():
        x, y, noisy = _kept_to_removed(split)
        scores[name] = _errors(offset + slope * x, y, noisy)
    return {"slope": slope, "offset": offset}, scores


def recording_snr(
    train: Heard,
    valid: Heard | None,
    target: str,
    columns: NDArray[np.int64],
) -> tuple[Linear, dict[str, dict[str, float]]] | None:
    """A probe of the SNR of a whole recording, to be averaged over its frames with speech.

    Parameters
    ----------
    target : of the frames.
    columns : gates to read.

    Returns
    -------
    Linear named ``recording_...`` and its scores over scenes; None with fewer than 20 scenes.
    """
    x, y, noisy = _scenes(train, columns, target)
    if len(y) < 20:
        return None
    task = Task(f"recording_{target}", "value", "speech", limits=(-50.0, 60.0))
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / std
    held = _scenes(valid, columns, target) if valid is not None else None
    best: Linear | None = None
    least = np.inf
    scores: dict[str, dict[str, float]] = {}
    for l2 in _SNR_L2:
        w = np.linalg.solve(z.T @ z + l2 * np.eye(len(columns)), z.T @ (y - y.mean())) / std
        bias = np.array([y.mean() - mean @ w])
        model = Linear(task, columns, w[:, None], bias, l2=l2)
        if held is None or not held[2].any():
            best = model
            break
        found = _scored(model, *held)
        if found["mae"] < least:
            best, least = model, found["mae"]
            scores = {"train": _scored(model, x, y, noisy), "valid": found}
    assert best is not None
    return best, scores


def score_recordings(split: Heard, model: Linear) -> dict[str, float]:
    """Errors over the noisy scenes of a stream."""
    target = model.task.name.removeprefix("recording_")
    return _scored(model, *_scenes(split, model.columns, target))


def _scored(model: Linear, x: Float64, y: Float64, noisy: NDArray[np.bool_]) -> dict[str, float]:
    return _errors((x @ model.weights)[:, 0] + model.bias[0], y, noisy)


def _errors(estimate: Float64, y: Float64, noisy: NDArray[np.bool_]) -> dict[str, float]:
    if not noisy.any():
        return {}
    error = np.abs(estimate - y)[noisy]
    return {
        "scenes": int(noisy.sum()),
        "mae": float(error.mean()),
        "within_3_db": float((error <= 3).mean()),
        "baseline_mae": float(np.abs(y - np.median(y))[noisy].mean()),
    }


def clean_from(splits: Sequence[Heard], line: dict[str, float]) -> float | None:
    """SNR estimate from which a recording counts as clean; None without clean scenes.

    The one that tells scenes without noise best from those with an SNR below 15 dB (mean of both
    shares), in the middle of the range where it does.

    Parameters
    ----------
    splits : to choose on.
    line : of `snr_from_gain`.
    """
    estimates, clean, hard = [], [], []
    for split in splits:
        x, y, noisy = _kept_to_removed(split)
        estimates.append(line["offset"] + line["slope"] * x)
        clean.append(~noisy)
        hard.append(noisy & (y < 15))
    estimate, is_clean, is_hard = (np.concatenate(part) for part in (estimates, clean, hard))
    if is_clean.sum() < 5 or is_hard.sum() < 5:
        return None
    levels = np.arange(10.0, 35.0, 0.5)
    right = np.array(
        [(estimate[is_clean] >= t).mean() + (estimate[is_hard] < t).mean() for t in levels]
    )
    return float(levels[right >= right.max() - 1e-9].mean())
