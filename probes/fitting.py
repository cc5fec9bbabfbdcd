"""Fitting linear probes: logistic regression for classes, ridge regression for values.

    value:  min_w  ||y - X w - b||^2 + l2 ||w||^2        scikit-learn's Ridge(alpha=l2)
    class:  min_w  sum of log-losses + l2 / 2 ||w||^2    its LogisticRegression(C=1/l2)

both on z-scored columns, which matters for the penalty only; the fitted weights are folded back to
the raw features. l2 = 0.01 is the paper's; with a list of values the one that does best on the
validation stream is taken. Rows follow the paper: gender, language, SNR and SI-SDR are fitted and
scored on frames with (oracle) speech, F0 on voiced ones, everything else on all frames that have
the target.

A task may average its features over a window around each frame: a target that is itself an average
over 1 s or 3 s (SI-SDR, PESQ), or that hardly changes (gender, noise category), is not to be told
from a single frame. Being linear, the probe may as well average its outputs. Several windows, one
before, one around and one behind a frame, cost an output each. `frame_by_frame` is the paper's
reading.

Ridge regression accumulates its normal equations by blocks, in memory independent of the stream's
length; logistic regression sees at most `MAX_ROWS` rows, evenly taken from all.

Source: Miccini et al., "From Diet to Free Lunch", sections 2.3 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import LabelledStream
from .features import Features
from .probe_file import AT_ONCE, Kind, Link, Rows, Spans, around, linked, unlink

__all__ = [
    "L2",
    "TASKS",
    "Linear",
    "Task",
    "fit_task",
    "majority_or_mean",
    "predict",
    "score",
    "select",
    "truth",
    "values",
]

Float64 = NDArray[np.float64]

L2 = 0.01
L2_GRID = (0.01, 100.0, 1000.0, 10000.0, 100000.0)
"""What is tried on the validation stream for the probes that ship."""
MAX_ROWS = 60_000
_ROUNDS = 4
_SELECTION_ROWS = 20_000


@dataclass(frozen=True)
class Task:
    """One target to predict.

    Attributes
    ----------
    name : of the target.
    kind : "flag", "class" or "value".
    rows : which frames count.
    spans : stretches of frames over which the features are averaged; see `probe_file.Probe`.
    limits : of a value.
    link : of a value; see `probe_file.Probe`.
    robust : of a value: least absolute deviations instead of least squares.
    without_noise : then, what a frame of a scene without noise weighs; others weigh 1.
    gates : at most so many, the first that were selected; None: all.
    own_gates : reads gates that are selected for it alone, not those that others share.
    title, unit : for people.
    experiment : fitted and scored, but not shipped.
    summary : which frames of a recording count for its summary; None: those of `rows`.
    """

    name: str
    kind: Kind
    rows: Rows = "all"
    spans: Spans = AT_ONCE
    limits: tuple[float, float] | None = None
    link: Link = "identity"
    robust: bool = False
    without_noise: float = 1.0
    gates: int | None = None
    own_gates: bool = False
    title: str = ""
    unit: str = ""
    experiment: bool = False
    summary: Rows | None = None


_DB, _MOS = (-50.0, 30.0), (1.04, 4.64)
_QUICK: Spans = ((-31, -6), (-5, -2), (-1, 1), (2, 5), (6, 31))
_SECOND: Spans = ((-31, -11), (-10, 10), (11, 31))
_THREE_SECONDS: Spans = ((-93, -32), (-31, 31), (32, 93))
_VAD: Spans = ((-80, -31), (-30, -7), (-6, -2), (-1, 1), (2, 6), (7, 30), (31, 80))
_VOICED: Spans = ((-25, -3), (-2, 2), (3, 25))
TASKS: tuple[Task, ...] = (
    Task("vad", "flag", spans=_VAD, gates=64, title="VAD"),
    Task("voiced", "flag", spans=_VOICED, title="voicing"),
    Task("gender", "class", "speech", around(125), title="gender"),
    Task("language", "class", "speech", around(125), title="language", experiment=True),
    Task("category", "class", spans=around(125), own_gates=True, title="noise category"),
    Task("snr_input_db", "value", "speech", _QUICK, _DB, title="input SNR", unit="dB"),
    Task("snr_enhanced_db", "value", "speech", _QUICK, _DB, title="enhanced SNR", unit="dB"),
    Task("si_sdr_input_db", "value", "speech", _SECOND, _DB, "identity", True,
         title="input SI-SDR", unit="dB"),
    Task("si_sdr_enhanced_db", "value", "speech", _SECOND, _DB, "identity", True,
         title="enhanced SI-SDR", unit="dB"),
    Task("pesq_input", "value", "all", _THREE_SECONDS, _MOS, "log_above_1", True,
         without_noise=8.0, title="input PESQ", unit="MOS", summary="speech"),
    Task("pesq_enhanced", "value", "all", _THREE_SECONDS, _MOS, "log_above_1", True,
         without_noise=8.0, title="enhanced PESQ", unit="MOS", summary="speech"),
    Task("f0_hz", "value", "voiced", _QUICK, (50.0, 800.0), "log", title="F0", unit="Hz"),
)  # fmt: skip
"""Spans and links were chosen on the validation stream: half of the gates pool over 3 to 65 frames,
so what changes fast is read better from how they come and go than from the frame alone. The 48
columns of weights in all are three vectors of native/reading.c. Voice activity gains nothing from
more than seven spans (0.9116 with nine, 0.9117 with seven, 0.9098 with five), voicing 0.001 from
five; SNR and F0 lose with three (MAE 5.90 to 6.02 dB, 31.9 to 32.5 Hz; all with the gates of
version 2 of the model). The category has gates of its own: with version 7 it had 0.50 to 0.51 on
validation from 80 that all share, 0.555 from 80 of its own, 0.556 from all 1152, and 0.48 to 0.54,
without order, from 80 to 112 shared ones chosen with two to six times the regard for it, or in
proportion to what all gates explain of each target. Scenes without noise are one in twenty of those
to fit PESQ on, and it is wrong there by most: weighed once, 3, 5 and 8 times, it is off by 0.179,
0.168, 0.161 and 0.155 on validation (dynse-small; after enhancement 0.269, 0.256, 0.248, 0.242), in
scenes with noise by 0.094, 0.095, 0.094 and 0.095 (0.211, 0.208, 0.208, 0.210)."""


def truth(stream: LabelledStream, task: Task) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Frames that count, and the (L,) target: class numbers, booleans or values.

    Raises
    ------
    KeyError
        The stream does not hold this target.
    """
    vad = np.asarray(stream.targets["vad"], np.bool_)
    y = stream.labels[task.name] if task.kind == "class" else stream.targets[task.name]
    rows = np.ones(len(y), np.bool_)
    if task.rows == "speech":
        rows = vad.copy()
    elif task.rows == "voiced":
        rows = np.asarray(stream.targets["voiced"], np.bool_).copy()
    if task.kind == "class":
        rows &= np.asarray(y) >= 0
    elif task.kind == "value":
        rows &= np.isfinite(np.asarray(y, np.float64))
    return rows, np.asarray(y)


def _selection(task: Task) -> Spans:
    """What gates are chosen by: the span that the frame itself lies in."""
    return next(((span,) for span in task.spans if span[0] <= 0 <= span[1]), task.spans[:1])


@dataclass
class Linear:
    """A fitted predictor: outputs = features @ ``weights`` + ``bias``.

    The features are those of ``columns``, raw, averaged over each of the task's spans; ``weights``
    is (spans * d, k), ``bias`` (k,). ``std`` is the features' deviation on the training frames.
    """

    task: Task
    columns: NDArray[np.int64]
    weights: Float64
    bias: Float64
    classes: tuple[str, ...] = ()
    l2: float = L2
    std: Float64 = field(default_factory=lambda: np.zeros(0))
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Moments:
    """Sums from which a ridge regression is solved: everything that is needed of X and y."""

    n: float
    x: Float64  # (d,)
    xx: Float64  # (d, d)
    xy: Float64  # (d, k)
    y: Float64  # (k,)
    yy: Float64  # (k,)

    @classmethod
    def of(cls, blocks: Iterable[tuple[NDArray[np.float32], Float64]]) -> _Moments:
        """Accumulate (X, Y) blocks: (n, d) and (n, k)."""
        return cls.weighted((x, y, None) for x, y in blocks)

    @classmethod
    def weighted(
        cls, blocks: Iterable[tuple[NDArray[np.float32], Float64, Float64 | None]]
    ) -> _Moments:
        """Accumulate (X, Y, weight of each row) blocks: (n, d), (n, k) and (n,) or None."""
        self: _Moments | None = None
        for x, y, weight in blocks:
            d, k = x.shape[1], y.shape[1]
            if self is None:
                shapes = ((d,), (d, d), (d, k), (k,), (k,))
                self = cls(0, *(np.zeros(shape) for shape in shapes))
            scaled = x if weight is None else x * weight[:, None].astype(np.float32)
            weighted_y = y if weight is None else y * weight[:, None]
            self.n += len(x) if weight is None else float(weight.sum())
            self.x += scaled.sum(axis=0, dtype=np.float64)
            # Of bits float32 products are exact. The bins of a suppression mask are interpolated
            # from fewer bands, and so near to collinear that l2 = 0.01 needs float64.
            exact = weight is None and bool(((x == 0) | (x == 1)).all())
            self.xx += scaled.T @ x if exact else scaled.T.astype(np.float64) @ x
            self.xy += x.T.astype(np.float64) @ weighted_y
            self.y += weighted_y.sum(axis=0)
            self.yy += (weighted_y * y).sum(axis=0)
        if self is None or self.n == 0:
            raise ValueError("no frames to fit on")
        return self

    def centred(self) -> tuple[Float64, Float64, Float64]:
        """(d, d) scatter of X, (d, k) of X with Y, (k,) of Y, about their means."""
        xx = self.xx - np.outer(self.x, self.x) / self.n
        xy = self.xy - np.outer(self.x, self.y) / self.n
        return xx, xy, np.maximum(self.yy - self.y**2 / self.n, 1e-12)

    def ridge(self, l2: float) -> tuple[Float64, Float64, Float64]:
        """(d, k) weights and (k,) bias on raw features, and the features' (d,) deviation.

        z = (x - mean) / std;  (Z'Z + l2 I) v = Z'(y - mean);  w = v / std;  b = mean_y - mean_x w
        """
        xx, xy, _ = self.centred()
        std: Float64 = np.sqrt(np.maximum(np.diag(xx) / self.n, 0))
        inverse = np.where(std > 1e-9, 1 / np.maximum(std, 1e-9), 0.0)
        a = xx * inverse[:, None] * inverse + (l2 + 1e-9 * self.n) * np.eye(len(std))
        w = np.asarray(np.linalg.solve(a, xy * inverse[:, None]) * inverse[:, None], np.float64)
        return w, (self.y - self.x @ w) / self.n, std


def _outputs(task: Task, y: NDArray[Any], classes: int) -> Float64:
    """(n, k) regression view of a target: values, a flag, or one column a class."""
    if task.kind == "class":
        return (y[:, None] == np.arange(classes)).astype(np.float64)
    return linked(y.astype(np.float64)[:, None], task.link)


def _blocks(
    features: Features,
    columns: NDArray[np.int64],
    task: Task,
    rows: NDArray[np.bool_],
    y: Float64,
    stride: int = 1,
    each: int = 1,
) -> Iterable[tuple[NDArray[np.float32], Float64]]:
    """Features and targets of one in `stride` rows that count, of one block in `each`."""
    wanted = rows & (np.arange(len(rows)) % stride == 0)
    size = 4096 if each == 1 else 512
    for place, x in features.blocks(columns, task.spans, size, each):
        mine = wanted[place]
        if mine.any():
            yield x[mine], y[place][mine]


def select(
    stream: LabelledStream,
    features: Features,
    columns: NDArray[np.int64],
    tasks: Sequence[Task],
    count: int,
) -> NDArray[np.int64]:
    """The `count` columns that together tell most about all tasks: forward selection.

    Tasks that read some gates only come first: the columns that tell most about them, as many as
    they read, and then the others'.

    Greedy least squares on the normal equations: each step takes the column that adds most to the
    sum over the tasks of the share of variance explained (of a class: of its indicator columns),
    then projects it out of all others. Unlike a ranking by coefficients it does not take two
    columns that say the same.

    Returns
    -------
    (count,) column indices, most telling first.
    """
    ahead: dict[tuple[bytes, Spans], list[int]] = {}
    groups: dict[tuple[bytes, Spans], tuple[Task, NDArray[np.bool_], list[Float64]]] = {}
    for task in tasks:
        rows, y = truth(stream, task)
        if rows.any():
            # Tasks with the same rows and span share one scatter matrix.
            spans = _selection(task)
            one = replace(task, spans=spans)
            group = groups.setdefault((rows.tobytes(), spans), (one, rows, []))
            group[2].append(_outputs(task, y, len(stream.classes.get(task.name, ()))))
            # By the order in which the loop below meets them.
            ahead.setdefault((rows.tobytes(), spans), []).append(min(task.gates or 0, count // 2))
    views = []
    scatters = {}
    firsts = [first for group in ahead.values() for first in group]
    for key, (task, rows, outputs) in enumerate(groups.values()):
        # Every second row of blocks here and there: averaging a thousand columns takes the time.
        each = max(1, int(rows.sum()) // (2 * _SELECTION_ROWS))
        together = np.nan_to_num(np.concatenate(outputs, axis=1))
        moments = _Moments.of(_blocks(features, columns, task, rows, together, 2, each))
        scatters[key], xy, yy = moments.centred()
        at = 0
        for part in outputs:
            mine = slice(at, at + part.shape[1])
            views.append((key, xy[:, mine].copy(), float(yy[mine].sum())))
            at += part.shape[1]
    floors = {key: 1e-4 * np.diag(xx) + 1e-6 for key, xx in scatters.items()}
    chosen: list[int] = []
    for step in range(min(count, len(columns))):
        gain = np.zeros(len(columns))
        early = max(firsts) > step
        for (key, xy, total), first in zip(views, firsts, strict=True):
            if early and first <= step:
                continue
            left = np.diag(scatters[key])
            share = np.square(xy).sum(axis=1) / np.maximum(left, 1e-12) / total
            gain += np.where(left > floors[key], share, 0)
        gain[chosen] = -1
        best = int(np.argmax(gain))
        chosen.append(best)
        for i, (key, xy, total) in enumerate(views):
            pivot = scatters[key][best]
            if pivot[best] > floors[key][best]:
                views[i] = (key, xy - np.outer(pivot, xy[best]) / pivot[best], total)
        for key, xx in scatters.items():
            pivot = xx[best].copy()
            if pivot[best] > floors[key][best]:
                xx -= np.outer(pivot, pivot) / pivot[best]
    return columns[chosen]


def rank_by_coefficients(models: Sequence[Linear], count: int) -> NDArray[np.int64]:
    """The `count` columns with the largest coefficients, as the paper chooses them.

    Each output's coefficients times their feature's deviation, scaled to unit norm; absolute
    values averaged over a task's outputs and added up over the tasks.
    """
    total = np.zeros(len(models[0].columns))
    for model in models:
        scaled = np.abs(model.weights) * model.std[:, None]
        total += (scaled / np.maximum(np.linalg.norm(scaled, axis=0), 1e-12)).mean(axis=1)
    return models[0].columns[np.argsort(-total)[:count]]


def fit_task(
    stream: LabelledStream,
    features: Features,
    task: Task,
    columns: NDArray[np.int64] | None = None,
    l2: float | Sequence[float] = L2,
    valid: tuple[LabelledStream, Features] | None = None,
) -> Linear:
    """Fit one task.

    Parameters
    ----------
    stream, features : to fit on.
    columns : features to use; None: all.
    l2 : penalty, or penalties to choose from on `valid`.
    valid : stream and features, needed only to choose.

    Raises
    ------
    ValueError
        No frames with this target, or of one class only.
    """
    columns = np.arange(features.width) if columns is None else np.asarray(columns)
    if task.gates is not None:
        columns = columns[: task.gates]
    candidates = [l2] if isinstance(l2, int | float) else list(l2)
    if valid is None or not truth(valid[0], task)[0].any():
        candidates = candidates[:1]
    rows, y = truth(stream, task)
    classes = tuple(stream.classes.get(task.name, ())) if task.kind == "class" else ()
    best: Linear | None = None
    best_score = -np.inf
    for value, fitted in _fits(features, task, columns, rows, y, len(classes), candidates):
        weights, bias, std = fitted
        model = Linear(task, columns, weights, bias, classes, value, std)
        if task.robust:
            noisy = stream.labels.get("noisy", np.ones(len(y)))
            weight = np.where(noisy == 0, task.without_noise, 1.0)
            model = _least_absolute(features, model, rows, y, weight)
        if len(candidates) == 1:
            return model
        assert valid is not None
        found = score(*valid, model)["deciding"]
        if found > best_score:
            best, best_score = model, found
    assert best is not None
    return best


def _least_absolute(
    features: Features,
    model: Linear,
    rows: NDArray[np.bool_],
    y: NDArray[Any],
    weight: Float64,
) -> Linear:
    """Least absolute deviations from a least-squares fit: a few rounds of reweighting.

    Each row weighs 1 / max(|error|, 0.3 of the median error), times its own weight: the absolute
    error but for a parabola around zero (Huber's loss), so that no row takes all.
    """
    task = model.task
    stride = max(1, -(-int(rows.sum()) // MAX_ROWS))
    both = np.column_stack([_outputs(task, y, 0)[:, 0], weight])
    blocks = list(_blocks(features, model.columns, task, rows, both, stride))
    for _ in range(_ROUNDS):
        errors = [np.abs(y[:, 0] - (x @ model.weights + model.bias)[:, 0]) for x, y in blocks]
        floor = 0.3 * float(np.median(np.concatenate(errors))) + 1e-9
        weighted = [
            (x, y[:, :1], y[:, 1] * floor / np.maximum(error, floor))
            for (x, y), error in zip(blocks, errors, strict=True)
        ]
        weights, bias, std = _Moments.weighted(weighted).ridge(model.l2)
        model = replace(model, weights=weights, bias=bias, std=std)
    return model


def _fits(
    features: Features,
    task: Task,
    columns: NDArray[np.int64],
    rows: NDArray[np.bool_],
    y: NDArray[Any],
    classes: int,
    candidates: Sequence[float],
) -> Iterable[tuple[float, tuple[Float64, Float64, Float64]]]:
    if task.kind == "value":
        stride = max(1, int(rows.sum()) // (5 * MAX_ROWS))
        moments = _Moments.of(_blocks(features, columns, task, rows, _outputs(task, y, 0), stride))
        for l2 in candidates:
            yield l2, moments.ridge(l2)
        return
    # Averages over many frames hardly differ from one frame to the next.
    narrowest = min(last - first + 1 for first, last in task.spans)
    stride = max(1, -(-int(rows.sum()) // MAX_ROWS), min(narrowest // 8, int(rows.sum()) // 2000))
    blocks = list(_blocks(features, columns, task, rows, y[:, None].astype(np.float64), stride))
    if not blocks:
        raise ValueError(f"{task.title or task.name}: no frames to fit on")
    x = np.concatenate([block for block, _ in blocks])
    target = np.concatenate([block for _, block in blocks])[:, 0].astype(np.int64)
    del blocks
    present = np.unique(target)
    if len(present) < 2:
        raise ValueError(f"{task.title or task.name}: only one class in the data")
    mean, std = x.mean(axis=0), x.std(axis=0)
    x -= mean
    x /= np.maximum(std, 1e-6)
    inverse = np.where(std > 1e-6, 1 / np.maximum(std, 1e-6), 0.0).astype(np.float64)
    for l2 in candidates:
        w, b = _logistic(x, target, l2, classes)
        w = w * inverse[:, None]
        yield l2, (w, b - mean.astype(np.float64) @ w, std.astype(np.float64))


def _logistic(
    x: NDArray[np.float32], y: NDArray[np.int64], l2: float, classes: int
) -> tuple[Float64, Float64]:
    """(d, k) weights and (k,) bias; k is 1 up to two classes. A class unseen gets a bias of -20."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # With separable classes and hardly a penalty the optimum is far out, and of no use.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1 / l2, max_iter=300, tol=1e-4).fit(x, y)
    w, b = model.coef_.T.astype(np.float64), model.intercept_.astype(np.float64)
    if classes <= 2:
        return w, b
    if w.shape[1] == 1:  # two of more are there: the logit of the first is 0
        w, b = np.pad(w, ((0, 0), (1, 0))), np.pad(b, (1, 0))
    weights, bias = np.zeros((len(w), classes)), np.full(classes, -20.0)
    weights[:, model.classes_], bias[model.classes_] = w, b
    return weights, bias


def predict(features: Features, model: Linear) -> Float64:
    """Outputs of a model on a whole stream: (L, k)."""
    out = np.empty((len(features), len(model.bias)))
    for place, x in features.blocks(model.columns, model.task.spans):
        out[place] = x @ model.weights + model.bias
    return out


def values(task: Task, outputs: Float64) -> Float64:
    """(L, 1) outputs of a value's model -> (L,) values."""
    value = unlink(outputs[:, 0], task.link)
    return value if task.limits is None else value.clip(*task.limits)


def log_probabilities(outputs: Float64) -> Float64:
    """(L, k) logits, or (L, 1) of two classes -> (L, classes) natural log-probabilities."""
    z = np.concatenate([np.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs
    z = z - z.max(axis=1, keepdims=True)
    normalised: Float64 = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return normalised


def majority_or_mean(stream: LabelledStream, task: Task, ignore: Sequence[str] = ()) -> float:
    """What a predictor without features says: the most frequent class, or the mean value.

    Classes to `ignore` are those that only the stream to fit on holds.
    """
    rows, y = truth(stream, task)
    if not rows.any():
        return 0.0
    if task.kind == "value":
        return float(y[rows].mean(dtype=np.float64))
    counts = np.bincount(y[rows].astype(np.int64))
    for number, name in enumerate(stream.classes.get(task.name, ())):
        if name in ignore and number < len(counts):
            counts[number] = 0
    return float(np.argmax(counts))


def score(
    stream: LabelledStream,
    features: Features,
    model: Linear,
    baseline: float | None = None,
    only: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Scores of a model on a stream.

    Parameters
    ----------
    baseline : what a predictor without features says, `majority_or_mean` of the training stream.
    only : (L,) frames to score, of those that count.

    Returns
    -------
    dict
        Of a class: ``accuracy``, ``f1`` (macro), ``roc_auc`` (one against the rest, macro) and
        ``baseline_accuracy``. Of a value: ``r2``, ``mae``, ``rmse``, ``mae_iqr``, ``rmse_iqr``,
        ``iqr`` (the quartiles), ``baseline_mae``, ``baseline_rmse``. Always ``frames`` and
        ``deciding``, the one to choose by, larger being better.
    """
    from sklearn import metrics

    task = model.task
    rows, y = truth(stream, task)
    rows = rows if only is None else rows & only
    outputs = predict(features, model)[rows]
    y = y[rows]
    if task.kind == "value":
        error = values(task, outputs) - y
        low, high = np.percentile(y, [25, 75])
        iqr = max(float(high - low), 1e-9)
        mae, rmse = float(np.abs(error).mean()), float(np.sqrt(np.square(error).mean()))
        found = {
            "r2": float(1 - np.square(error).sum() / max(np.square(y - y.mean()).sum(), 1e-12)),
            "mae": mae,
            "rmse": rmse,
            "mae_iqr": mae / iqr,
            "rmse_iqr": rmse / iqr,
            "iqr": [float(low), float(high)],
        }
        if baseline is not None:
            found["baseline_mae"] = float(np.abs(y - baseline).mean())
            found["baseline_rmse"] = float(np.sqrt(np.square(y - baseline).mean()))
        # What is fitted by the absolute error is judged by it.
        deciding = -mae if task.robust else found["r2"]
        return {**found, "frames": len(y), "deciding": deciding}
    logs = log_probabilities(outputs)
    y = y.astype(np.int64)
    guess = logs.argmax(axis=1)
    present = np.unique(y)
    areas = [metrics.roc_auc_score(y == c, logs[:, c]) for c in present if len(present) > 1]
    kept = logs[np.arange(len(y)), np.minimum(y, logs.shape[1] - 1)]
    found = {
        "accuracy": float((guess == y).mean()),
        "f1": float(metrics.f1_score(y, guess, labels=present, average="macro", zero_division=0)),
        "roc_auc": float(areas[-1] if len(present) == 2 else np.mean(areas)) if areas else None,
        "log_loss": float(-kept.mean()),
    }
    if baseline is not None:
        found["baseline_accuracy"] = float((y == int(baseline)).mean())
    return {**found, "frames": len(y), "deciding": float(kept.mean())}


def frame_by_frame(tasks: Iterable[Task] = TASKS) -> tuple[Task, ...]:
    """The tasks without averaging, links and robust fits: the paper's reading."""
    return tuple(
        replace(task, spans=AT_ONCE, link="identity", robust=False, gates=None) for task in tasks
    )
