"""From frames to recordings: what may be said of a whole one, and when to say nothing.

evidence      how far a class's log-probabilities, averaged over a recording, are to be trusted
gain          SNR and SI-SDR of a recording, before enhancement and after, from the ratio of what
              the gain keeps to what it removes
clean         from which SNR on a recording counts as clean, and no noise is named
speech lines  when what sounds like speech may be something else, and nothing is said of it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import fitting, targets
from .data import LabelledStream
from .features import Features
from .fitting import Linear
from .reading import HOP_S, kept_to_removed_db, segments

__all__ = [
    "FROM_GAIN",
    "Heard",
    "clean_from",
    "evidence",
    "from_gain",
    "heard_speech",
    "speech_lines",
]

Float64 = NDArray[np.float64]


class Heard(NamedTuple):
    """A stream as the network hears it."""

    stream: LabelledStream
    masks: Features
    powers: Features
    spoken: NDArray[np.bool_]  # frames that are heard as speech: `heard_speech`


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


def _kept_to_removed(split: Heard, target: str) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    """Of each scene with speech: what the gain says, what is true, and whether there is noise."""
    stream, scene = split.stream, split.stream.labels["scene"]
    known = stream.targets
    if target in ("snr_input_db", "si_sdr_input_db"):
        noisy_samples = stream.clean.astype(np.int32) + stream.noise
        names = ("scene_snr_input_db", "scene_si_sdr_input_db")
        known = dict(zip(names, targets.of_scenes(stream.clean, noisy_samples, scene), strict=True))
    truth = known[f"scene_{target}"]
    vad = np.asarray(stream.targets["vad"], np.bool_)
    powers = split.powers.block(0, len(scene))
    said, true, noisy = [], [], []
    for frames in groups(stream, "scene", np.ones(len(scene), np.bool_), 1):
        frames = np.sort(frames)
        whole = target.startswith("si_sdr")
        ratio = kept_to_removed_db(powers[frames], split.spoken[frames], whole)
        if ratio is not None and vad[frames].sum() >= _LEAST and np.isfinite(truth[frames[0]]):
            said.append(ratio)
            true.append(min(float(truth[frames[0]]), _CLEAN_DB))
            noisy.append(bool(stream.labels["noisy"][frames[0]] > 0))
    return np.array(said), np.array(true), np.array(noisy, np.bool_)


FROM_GAIN = ("snr_input_db", "si_sdr_input_db", "snr_enhanced_db", "si_sdr_enhanced_db")
"""What is said of a recording as a whole from the gain."""


def from_gain(
    train: Heard, others: dict[str, Heard], target: str
) -> tuple[dict[str, float], dict[str, dict[str, float]]] | None:
    """Value of a recording = offset + slope * (kept to removed, in dB).

    Parameters
    ----------
    train : to fit on.
    others : to score on as well, by name.
    target : of `FROM_GAIN`.

    Returns
    -------
    ``{"slope", "offset"}`` of least squares over noisy scenes, and its scores by split; None with
    fewer than 20 of them.
    """
    x, y, noisy = _kept_to_removed(train, target)
    if noisy.sum() < 20:
        return None
    slope, offset = np.polyfit(x[noisy], y[noisy], 1).tolist()
    scores = {}
    for name, split in {"train": train, **others}.items():
        x, y, noisy = _kept_to_removed(split, target)
        scores[name] = _errors(offset + slope * x, y, noisy)
    return {"slope": slope, "offset": offset}, scores


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
    line : of `from_gain` for "snr_input_db".
    """
    estimates, clean, hard = [], [], []
    for split in splits:
        x, y, noisy = _kept_to_removed(split, "snr_input_db")
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


_LOST = 0.02
"""Share of scenes with speech that either line may lose."""


def speech_lines(speech: Float64, music: Float64) -> dict[str, dict[str, Any]]:
    """When what sounds like speech is taken for it.

    Parameters
    ----------
    speech : (N, 3), `reading.Reading.evidence` of scenes with speech.
    music : (M, 3), that of music alone in which speech was found.

    Returns
    -------
    Lines ``{"weights", "offset", ...}``; what has weights @ evidence + offset below 0 is doubtful.
    "weak" asks for the mean probability that speech of that SNR has, "music" is that of a logistic
    regression. ``lost`` of the ``scenes`` lie below, ``passes`` of the pieces of ``music`` do not.
    With fewer than 50 scenes, or 5 pieces, there is no line.
    """
    lines: dict[str, dict[str, Any]] = {}
    if len(speech) < 50:
        return lines
    slope = float(np.polyfit(speech[:, 1], speech[:, 0], 1)[0])
    lines["weak"] = _line(np.array([1.0, -slope, 0.0]), speech)
    if len(music) < 5:
        return lines
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([speech, music])
    spread = x.std(axis=0) + 1e-6
    y = np.arange(len(x)) < len(speech)
    model = LogisticRegression(class_weight="balanced").fit(x / spread, y)
    line = _line(model.coef_[0] / spread, speech)
    passes = int((music @ np.array(line["weights"]) + line["offset"] >= 0).sum())
    return {**lines, "music": {**line, "music": len(music), "passes": passes}}


def _line(weights: Float64, speech: Float64) -> dict[str, Any]:
    said = speech @ weights
    offset = -float(np.quantile(said, _LOST))
    lost = int((said + offset < 0).sum())
    return {"weights": weights.tolist(), "offset": offset, "scenes": len(speech), "lost": lost}
