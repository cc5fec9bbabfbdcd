"""Reading probes while a recording passes through the network, and summing up at its end.

    listener(gain, gates, spectrum) -> gather the probes' gates, add up their weights: running sums
    at the end: means over each probe's spans, probabilities, segments, classes, medians

SNR and SI-SDR of a whole recording are not read from the gates but from the gain: from the ratio
of what it keeps to what it removes (`powers`, `kept_to_removed_db`);
`dynse fit-probes` prints by how much they err.

A frame costs K lookups and at most K * T additions of integers. The sums run on modulo 2^32, and
the difference of two, which is the sum over a span of frames, is exact (`probe_file` bounds it), so
tracks are bit-identical however the recording is cut. Kept are the outputs, float32: some 1 MB an
hour for each; twice that if there are probes of one's own.

``native/reading.c`` does the gathering and the means where there was a compiler at installation;
NumPy gives the same bits.

Imports neither scikit-learn nor scipy nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.stft import HOP, SAMPLE_RATE
from .probe_file import Probe, Probes, unlink

try:
    from . import _reading
except ImportError:  # no compiler at installation
    _reading = None  # type: ignore[assignment]

__all__ = [
    "Gated",
    "ProbeReader",
    "Reading",
    "Segment",
    "SegmentRule",
    "kept_to_removed_db",
    "powers",
    "segments",
]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

HOP_S = HOP / SAMPLE_RATE
_MIN_SPEECH_S = 0.25
"""With less speech than this nothing is said of SNR, SI-SDR, PESQ or gender."""
_MIN_VOICED = 8
_MIN_NAMED_S = {"gender": 0.5, "category": 1.0}
"""Of speech, and of the recording: with less neither is named."""
_MIN_GENDER_SNR_DB = -3.0
"""Below this estimate, in which little of a voice is left, no gender is named."""
_PIECE = 1024
_LANES = 16  # columns are padded to a multiple of it for native/reading.c
POWERS_HEAD = 1024
"""The gain is looked at in each frame of short recordings (16 s), which have few, and in one of
eight of longer ones, which are enough there and take less time."""
RATIO_LIMITS = (-50.0, 60.0)
"""Of SNR and SI-SDR of a recording, in dB."""
_CLEAN_SNR_DB = 22.0
"""From this estimate on no noise is named, unless the probes file says from which."""
_SURE, _SURE_OF_NOISE, _MOST_MUSIC = 0.7, 0.985, 0.005
"""Probability from which a class is named, that for a noise, and the probability of music from
which on no noise is named. So version 10 of dynse-25 names the noise of 14 of 200 validation scenes
and of 6 of 79 validation recordings of noise alone, all rightly (`benchmarks.confidence`), and of 1
of 180 pieces of music (`benchmarks.instruments`). In a trial on nearly the same sounds 0.98 named
one recording wrongly, and 0.95 two, and 35 scenes, all rightly."""


class Gated(Protocol):
    """What probes are read from."""

    name: str
    sha256: str
    gate_shape: tuple[int, int]


class SegmentRule(NamedTuple):
    """When speech begins and ends: hysteresis in probability, least lengths in seconds.

    Stretches whose mean probability is below ``min_confidence`` are dropped: on the validation
    stream 1 % of the stretches of speech (0.3 % of its frames) and all 4 of the others; music gives
    such.

    A named tuple, as `Segment` is: a dataclass takes three times as long to define, which counts in
    a command of a quarter of a second.
    """

    on: float = 0.5
    off: float = 0.35
    min_speech_s: float = 0.16
    min_gap_s: float = 0.2
    min_confidence: float = 0.75


class Segment(NamedTuple):
    """A stretch of speech, and the mean probability in it."""

    start_s: float
    end_s: float
    confidence: float


def segments(
    probability: NDArray[Any], rule: SegmentRule | None = None, duration_s: float | None = None
) -> list[Segment]:
    """Stretches of speech.

    A stretch holds frames that follow each other at or above ``off``, at least one of them at or
    above ``on``. Gaps shorter than ``min_gap_s`` are closed, then stretches shorter than
    ``min_speech_s`` or with a mean below ``min_confidence`` dropped.

    Parameters
    ----------
    probability : (L,) of speech; frame l stands for the time within half a hop of l * 16 ms.
    duration_s : no segment ends later.
    """
    p = np.asarray(probability)
    limit = len(p) * HOP_S if duration_s is None else duration_s
    return [
        Segment(max(first - 0.5, 0) * HOP_S, min((last - 0.5) * HOP_S, limit), min(mean, 1.0))
        for first, last, mean in _stretches(p, rule or SegmentRule())
    ]


def _stretches(p: NDArray[Any], rule: SegmentRule) -> list[tuple[int, int, float]]:
    """First frame, the frame after the last, and mean probability."""
    above = np.zeros(len(p) + 2, np.bool_)
    np.greater_equal(p, rule.off, out=above[1:-1])
    edges = np.flatnonzero(above[1:] != above[:-1])
    if not len(edges):
        return []
    peaks = np.maximum.reduceat(p, _starts(edges, len(p)))[::2]
    runs: list[list[int]] = []
    for first, last in edges.reshape(-1, 2)[peaks >= rule.on].tolist():
        if runs and (first - runs[-1][1]) * HOP_S < rule.min_gap_s:
            runs[-1][1] = last
        else:
            runs.append([first, last])
    runs = [run for run in runs if (run[1] - run[0]) * HOP_S >= rule.min_speech_s]
    if not runs:
        return []
    edges = np.array(runs).ravel()
    sums = np.add.reduceat(p, _starts(edges, len(p)), dtype=np.float64)[::2].tolist()
    means = (total / (last - first) for (first, last), total in zip(runs, sums, strict=True))
    return [
        (*run, mean) for run, mean in zip(runs, means, strict=True) if mean >= rule.min_confidence
    ]


def _starts(edges: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Edges as `reduceat` wants them, which goes on from the last to the end by itself."""
    return edges[: len(edges) - int(edges[-1] == length)]


def _gather(
    gates: NDArray[np.uint8],
    features: NDArray[np.int32],
    weights: NDArray[np.int32],
    running: NDArray[np.uint32],
    opened: NDArray[np.uint16],
) -> None:
    """Add the weights of each frame's open gates to the running sums; count its open gates.

    Parameters
    ----------
    gates : (L, I * C) in {0, 1}.
    features : (K,) gates that are read.
    weights : (K, W) integers.
    running : (L + 1, W) modulo 2^32: the first row is given, the others are written.
    opened : (L,) written.
    """
    # Sums of a frame are integers below 2^24: exact in float32, so BLAS does not show.
    read = np.take(gates, features, axis=1).astype(np.float32)
    running[1:] = (read @ weights.astype(np.float32)).astype(np.int64).astype(np.uint32)
    np.cumsum(running, axis=0, dtype=np.uint32, out=running)
    # Fifteen times as fast as count_nonzero with an axis.
    np.add.reduce(gates, axis=1, dtype=np.uint16, out=opened)


def _listen(
    gain: Float32,
    gates: NDArray[np.uint8],
    spectrum: NDArray[np.complex64],
    bins: int,
    features: NDArray[np.int32],
    weights: NDArray[np.int32],
    running: NDArray[np.uint32],
    opened: NDArray[np.uint16],
    at: int,
    kept: Float32,
    kept_at: int,
    begin: int,
    head: int,
) -> int:
    """`_gather` and `powers` of some frames; returns of how many frames the powers are.

    Parameters
    ----------
    gain, spectrum : (L, bins).
    gates : (L, I, C) in {0, 1}.
    features, weights : as in `_gather`.
    running, opened : with room for more frames; row `at` of running is given.
    kept : (n, 2), to whose rows from `kept_at` on is written what `powers` returns.
    begin, head : as in `powers`.
    """
    last = at + len(gates)
    flat = gates.reshape(len(gates), -1) if len(gates) else np.zeros((0, len(features)), np.uint8)
    _gather(flat, features, weights, running[at : last + 1], opened[at:last])
    found = _powers(gain, spectrum, begin, head)
    kept[kept_at : kept_at + len(found)] = found
    return len(found)


def _average(
    running: NDArray[np.uint32],
    width: int,
    base: int,
    columns: NDArray[np.int32],
    scale: Float64,
    bias: Float64,
    begin: int,
    out: Float64,
) -> None:
    """Outputs of the probes from the running sums.

    Parameters
    ----------
    running : (N + 1, width), sums over the frames before frame base, base + 1, ..., base + N.
    columns : (T, 3) output that a column adds to, first and last frame of its span.
    scale : (T,) of the columns.
    bias : (O,) of the outputs.
    begin : first frame to give.
    out : (O, L) written: bias + sum over columns of scale * mean over those frames of the span
        around each frame that there are.
    """
    heard = base + len(running) - 1
    out[:] = bias[:, None]
    at = np.arange(begin, begin + out.shape[1])
    for c, (output, first, last) in enumerate(columns.tolist()):
        low, high = (np.clip(at + n, 0, heard) for n in (first, last + 1))
        sums = (running[high - base, c] - running[low - base, c]).view(np.int32)
        out[output] += sums * (scale[c] / np.maximum(high - low, 1))


def powers(
    gain: Float32, spectrum: NDArray[np.complex64], begin: int = 0, head: int = 1 << 62
) -> Float32:
    """What the gain keeps and what it removes.

    Parameters
    ----------
    gain : (L, F) suppression mask M in [0, 1].
    spectrum : (L, F) noisy spectrum X.
    begin : number of the first frame.
    head : from this frame on, only those of `one_in_eight` are looked at.

    Returns
    -------
    (n, 2) float32: sums over the bins of |M X|^2 and of |(1 - M) X|^2 in those frames.
    """
    if _reading is None:
        return _powers(gain, spectrum, begin, head)
    out = np.empty((len(gain), 2), np.float32)
    gain = np.ascontiguousarray(gain, np.float32)
    spectrum = np.ascontiguousarray(spectrum, np.complex64)
    return out[: _reading.powers(gain, spectrum, gain.shape[1], begin, head, out)]


def _powers(gain: Float32, spectrum: NDArray[np.complex64], begin: int, head: int) -> Float32:
    at = np.arange(begin, begin + len(gain))
    at = np.concatenate([at[at < head], one_in_eight(max(begin, head), begin + len(gain))]) - begin
    gain, spectrum = gain[at], spectrum[at]
    power = spectrum.real**2 + spectrum.imag**2
    sums = [np.einsum("lf,lf,lf->l", m, m, power) for m in (gain, 1 - gain)]
    return np.stack(sums, axis=1)


def one_in_eight(first: int, last: int) -> NDArray[np.int64]:
    """Frames first..last-1 that are looked at in a long recording.

    The place within eight moves by five, or a noise that repeats every 128 ms would be heard always
    or never.
    """
    group = np.arange(first // 8, -(-last // 8))
    frames = 8 * group + 5 * group % 8
    chosen: NDArray[np.int64] = frames[(frames >= first) & (frames < last)]
    return chosen


def kept_to_removed_db(
    powers: Float32, spoken: NDArray[np.bool_], whole: bool = False
) -> float | None:
    """Power kept in speech over power removed, in dB within -60..80.

    Of the `whole` recording: all that is kept over all that is removed, as in SI-SDR. Else kept is
    the mean over the frames of speech within 20 dB of the loud ones (the 95th percentile), removed
    over all frames, but those without speech where next to nothing is removed, 20 dB less than in
    speech, which are no quiet noise but gated: both as in the SNR of a recording, whose speech
    level is that of active frames, and whose noise goes on in pauses.

    Parameters
    ----------
    powers : (n, 2) of `powers`.
    spoken : (n,) whether there is speech in those frames; None is returned if there is none.
    whole : take all frames.
    """
    kept = powers[spoken, 0].astype(np.float64)
    if not kept.any():
        return None
    if whole:
        total = powers.sum(axis=0, dtype=np.float64)
        ratio = 10 * np.log10(total[0] / max(total[1], 1e-30))
        return float(np.clip(ratio, -60.0, 80.0))
    active = kept >= 0.01 * _percentiles(kept, 95)[0]
    removed = powers[:, 1].astype(np.float64)
    goes_on = spoken | (removed >= 0.01 * removed[spoken].mean())
    ratio = 10 * np.log10(kept[active].mean() / max(removed[goes_on].mean(), 1e-30))
    return float(np.clip(ratio, -60.0, 80.0))


def _percentiles(x: NDArray[Any], *percents: float) -> list[float]:
    """As `numpy.percentile`, which takes five times as long on some thousand values."""
    x = np.sort(x)
    at = np.array(percents) * ((len(x) - 1) / 100)
    found: list[float] = np.interp(at, np.arange(len(x)), x).tolist()
    return found


def _sigmoid(x: Float32) -> Float32:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float32)


def _log_softmax(x: NDArray[Any]) -> NDArray[Any]:
    z = np.concatenate([np.zeros_like(x), x], axis=1) if x.shape[1] == 1 else x
    z = z - z.max(axis=1, keepdims=True)
    logs: NDArray[Any] = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return logs


class _Tracks(Mapping[str, Float32]):
    """Tracks that are computed when they are asked for: a summary needs few of them."""

    def __init__(self, makers: dict[str, Callable[[], Float32]]):
        self._makers = makers

    def __getitem__(self, name: str) -> Float32:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@dataclass(frozen=True, eq=False)
class Reading:
    """What the masks said of one recording.

    Attributes
    ----------
    frames : how many.
    utilisation : mean share of open gates; None without frames.
    tracks : name -> (L,) float32, or (L, classes) log-probabilities of a class. NaN where there is
        nothing to estimate: SNR and SI-SDR off speech, F0 off voiced frames.
    segments : of speech.
    classes : name -> label (None: too little to say) and probabilities by class.
    values : name -> number or None, over speech or voiced frames.
    evidence : that what was found is speech: mean probability in its segments, SNR in dB within
        -10..10, and logarithm of the probability of music.
    doubtful : by that it may be none: nothing is said of it.
    """

    frames: int
    utilisation: float | None
    tracks: Mapping[str, Float32]
    segments: list[Segment]
    speech_ratio: float | None
    classes: dict[str, tuple[str | None, dict[str, float]]]
    values: dict[str, float | None]
    evidence: tuple[float, float, float] | None = None
    doubtful: bool = False


class ProbeReader:
    """Listens to a stream and reads its probes.

    Parameters
    ----------
    probes : as read by `probe_file.load_probes`.
    engine : the model that the gates come from.
    rule : for segments of speech.
    tracks : False leaves out those of SNR and SI-SDR, where the summary has these from the gain: a
        third of the work.

    Raises
    ------
    ProbesError
        The probes were fitted for another model.
    """

    def __init__(
        self,
        probes: Probes,
        engine: Gated,
        rule: SegmentRule | None = None,
        *,
        tracks: bool = True,
    ):
        self._gates = engine.gate_shape[0] * engine.gate_shape[1]
        probes.check_model(engine.name, engine.sha256, self._gates)
        self.probes, self._rule = probes, rule or SegmentRule()
        by_gain = {} if tracks else probes.header.get("from_gain") or {}
        self._probes = [probe for probe in probes.probes if probe.name not in by_gain]
        self._layout()
        self._listen: Callable[..., int] = _listen
        self._average: Callable[..., None] = _average
        if (
            _reading is not None
            and self._gates <= _reading.MAX_GATES
            and len(set(self._features.tolist())) == len(self._features)
            and self._weights.shape[1] <= _reading.MAX_COLUMNS
        ):
            self._listen, self._average = _reading.listen, _reading.average
        # Room for running sums, used again and again: what is read of them goes to the outputs.
        self._running = np.zeros((_PIECE + 2 * self._reach + 1, self._weights.shape[1]), np.uint32)
        self._open_now = np.zeros(len(self._running) - 1, np.uint16)
        self._opened = [np.zeros(0, np.uint16)]
        self._powers_now = np.zeros((len(self._open_now), 2), np.float32)
        self._powers = [self._powers_now[:0]]
        self._looked_at = 0  # rows of _powers_now
        self._out = np.empty(len(self._bias) * len(self._running))
        # Built-in probes have limits; what others predict may be of any size.
        wide = any(probe.kind == "value" and probe.limits is None for probe in self._probes)
        self._outputs = [np.zeros((len(self._bias), 0), np.float64 if wide else np.float32)]
        self._base = self._filled = self._done = 0  # frames

    def _layout(self) -> None:
        """Number the outputs; say of each column which it adds to, over which frames."""
        columns: list[tuple[int, int, int]] = []
        bias: list[float] = []
        taken: list[int] = []
        self._rows: dict[str, slice] = {}
        for probe in self._probes:
            first = len(bias)
            taken += range(probe.first, probe.first + probe.columns)
            columns += [(first + k, *span) for span in probe.spans for k in range(probe.outputs)]
            bias += self.probes.bias[probe.first : probe.first + probe.outputs].tolist()
            self._rows[probe.name] = slice(first, len(bias))
        weights = self.probes.weights[:, taken]
        read = np.flatnonzero(weights.any(axis=1))
        self._features = self.probes.features[read].astype(np.int32)
        width = -(-max(len(taken), 1) // _LANES) * _LANES
        self._weights = np.pad(weights[read].astype(np.int32), ((0, 0), (0, width - len(taken))))
        self._scale = self.probes.scale[taken]
        self._columns = np.array(columns, np.int32).reshape(-1, 3)
        self._bias = np.array(bias, np.float64)
        self._reach = int(np.abs(self._columns[:, 1:]).max(initial=0)) + 1

    def update(
        self, gain: Float32, gates: NDArray[np.uint8], spectrum: NDArray[np.complex64]
    ) -> None:
        """Take (L, 257) gain, (L, I, C) gates and the (L, 257) spectrum: a `Stream` listener."""
        while len(gates) > (room := len(self._open_now) - self._filled):
            self._take(gain[:room], gates[:room], spectrum[:room])
            gain, gates, spectrum = gain[room:], gates[room:], spectrum[room:]
        self._take(gain, gates, spectrum)

    def _take(
        self, gain: Float32, gates: NDArray[np.uint8], spectrum: NDArray[np.complex64]
    ) -> None:
        """`update` with as many frames as there is room for."""
        self._looked_at += self._listen(
            np.ascontiguousarray(gain, np.float32), np.ascontiguousarray(gates, np.uint8),
            np.ascontiguousarray(spectrum, np.complex64), gain.shape[1],
            self._features, self._weights, self._running, self._open_now, self._filled,
            self._powers_now, self._looked_at, self._base + self._filled, POWERS_HEAD,
        )  # fmt: skip
        self._filled += len(gates)
        if self._filled == len(self._open_now):
            self._drain(self._base + self._filled - self._reach)

    def _drain(self, until: int) -> None:
        """Give the outputs of the frames before `until`, and make room."""
        kept = max(until - self._reach, 0) - self._base
        running = self._running[: self._filled + 1]
        shape = len(self._bias), until - self._done
        out = self._out[: shape[0] * shape[1]].reshape(shape)
        self._average(
            running, running.shape[1], self._base, self._columns, self._scale, self._bias,
            self._done, out,
        )  # fmt: skip
        self._outputs.append(out.astype(self._outputs[0].dtype))
        self._opened.append(self._open_now[self._done - self._base : until - self._base].copy())
        self._powers.append(self._powers_now[: self._looked_at].copy())
        self._looked_at = 0
        left = self._filled - kept
        self._running[: left + 1] = running[kept:].copy()
        self._open_now[:left] = self._open_now[kept : self._filled].copy()
        self._base, self._filled, self._done = self._base + kept, left, until

    __call__ = update

    def _from_gain(self, spoken: NDArray[np.bool_]) -> dict[str, float | None]:
        """SNR and SI-SDR of the recording, where the probes file has what they are read by."""
        lines = self.probes.header.get("from_gain") or {}
        if not lines:
            return {}
        looked_at = np.concatenate(self._powers)
        if len(spoken) > POWERS_HEAD:
            chosen = one_in_eight(0, len(spoken))
            head = looked_at[chosen[: POWERS_HEAD // 8]]
            looked_at = np.concatenate([head, looked_at[POWERS_HEAD:]])
            spoken = spoken[chosen]
        ratios = [kept_to_removed_db(looked_at, spoken, whole) for whole in (False, True)]
        found: dict[str, float | None] = {}
        for name, line in lines.items():
            ratio = ratios[name.startswith("si_sdr")]
            found[name] = None
            if ratio is not None:
                value = line["offset"] + line["slope"] * ratio
                found[name] = min(max(value, RATIO_LIMITS[0]), RATIO_LIMITS[1])
        return found

    def _sounds(self, count: int) -> NDArray[np.bool_]:
        """(count,) frames that are not digital silence, in which there is no noise to name."""
        power = np.concatenate(self._powers).sum(axis=1)
        if count > POWERS_HEAD:
            group = np.arange(count - POWERS_HEAD) // 8 + POWERS_HEAD
            power = np.concatenate([power[:POWERS_HEAD], power[np.minimum(group, len(power) - 1)]])
        return np.asarray(power > 1e-9 * power.max(initial=0), np.bool_)

    def _evidence(
        self,
        found: list[Segment],
        classes: dict[str, tuple[str | None, dict[str, float]]],
        snr_db: float | None,
    ) -> tuple[float, float, float] | None:
        """See `Reading.evidence`."""
        length = sum(segment.end_s - segment.start_s for segment in found)
        if snr_db is None or not length:
            return None
        sure = sum(segment.confidence * (segment.end_s - segment.start_s) for segment in found)
        music = self._music(classes)
        return sure / length, min(max(snr_db, -10.0), 10.0), float(np.log(music + 1e-3))

    def _music(self, classes: dict[str, tuple[str | None, dict[str, float]]]) -> float:
        """Probability of the noises that are known and not named."""
        _, probability = classes.get("category", (None, {}))
        unnamed = {k for probe in self._probes if probe.name == "category" for k in probe.unnamed}
        return sum(probability.get(k, 0.0) for k in unnamed)

    def _is_doubtful(self, evidence: tuple[float, float, float] | None) -> bool:
        """Whether what sounds like speech may be none, by the lines in the probes file."""
        if evidence is None:
            return False
        lines = (self.probes.header.get("speech_lines") or {}).values()
        return any(line["offset"] + np.dot(line["weights"], evidence) < 0 for line in lines)

    def finish(self, duration_s: float | None = None, silent: bool = False) -> Reading:
        """Sum up all frames heard.

        Parameters
        ----------
        duration_s : of the recording, where known; no segment ends later.
        silent : the recording is digital silence, of which the masks say nothing.
        """
        self._drain(self._base + self._filled)
        opened = np.concatenate(self._opened)
        count = len(opened)
        together = np.concatenate(self._outputs, axis=1)
        outputs = {name: together[rows] for name, rows in self._rows.items()}
        flags = {
            probe.name: np.zeros(count) if silent else _sigmoid(outputs[probe.name][0])
            for probe in self._probes
            if probe.kind == "flag"
        }
        spoken = np.zeros(count, np.bool_)
        found: list[Segment] = []
        if "vad" in flags:
            found = segments(flags["vad"], self._rule, duration_s)
            for segment in found:
                # A frame stands for the time within half a hop of it.
                spoken[int(segment.start_s / HOP_S + 0.75) : int(segment.end_s / HOP_S + 1)] = True
        voiced = spoken & (flags["voiced"] >= 0.5) if "voiced" in flags else spoken
        rows = {"speech": np.flatnonzero(spoken), "voiced": np.flatnonzero(voiced)}
        classes: dict[str, tuple[str | None, dict[str, float]]] = {}
        heard_at = np.flatnonzero(self._sounds(count))
        for probe in self._probes if len(heard_at) and not silent else ():
            if probe.kind == "class" and probe.rows == "all":
                classes[probe.name] = _classify(probe, outputs[probe.name].take(heard_at, axis=1))
        by_gain = self._from_gain(spoken)
        evidence = self._evidence(found, classes, by_gain.get("snr_input_db"))
        doubtful = self._is_doubtful(evidence)
        enough = len(rows["speech"]) * HOP_S >= _MIN_SPEECH_S and not doubtful
        known = {"speech": spoken & (not doubtful), "voiced": voiced & (not doubtful)}
        values: dict[str, float | None] = {}
        tracks: dict[str, Callable[[], Float32]] = {
            "utilisation": lambda: (opened / max(self._gates, 1)).astype(np.float32)
        }
        for probe in self.probes.probes:
            said = bool(count) and not silent if probe.rows == "all" else enough
            name = probe.name
            if name in by_gain:
                values[name] = by_gain[name] if said else None
            if name not in outputs:
                continue
            out = outputs[name]
            if probe.kind == "flag":
                tracks[name] = partial(np.asarray, flags[name], np.float32)
                continue
            only = known.get(probe.rows) if name.startswith(("snr", "si_sdr")) else None
            if name in by_gain:
                tracks[name] = partial(_value_track, probe, out[0], only)
                continue
            heard = out if probe.rows == "all" else out.take(rows[probe.rows], axis=1)
            if probe.kind == "class":
                tracks[name] = partial(_class_track, out)
                if name not in classes:
                    classes[name] = _classify(probe, heard) if said else (None, {})
                continue
            heard = _value(probe, heard[0])
            if name == "f0_hz":
                tracks[name] = partial(_value_track, probe, out[0], known["voiced"])
                few = heard.size < _MIN_VOICED or not enough
                percentiles = [None] * 3 if few else _percentiles(heard, 50, 10, 90)
                for part, value in zip(("median", "p10", "p90"), percentiles, strict=True):
                    values[f"f0_{part}"] = value
                continue
            values[name] = float(heard.mean()) if said and heard.size else None
            if values[name] is None:
                only = np.zeros(count, np.bool_)
            tracks[name] = partial(_value_track, probe, out[0], only)
        level = values.get("snr_input_db")
        clean_from = self.probes.header.get("clean_from_db") or _CLEAN_SNR_DB
        if silent:
            classes = dict.fromkeys(classes, (None, {}))
        elif level is not None and level >= clean_from and "category" in classes:
            classes["category"] = (None, {})
        unnamed = _not_named(level, len(rows["speech"]), count)
        if doubtful or self._music(classes) >= _MOST_MUSIC:
            unnamed.add("category")
        for name in unnamed & classes.keys():
            classes[name] = (None, classes[name][1])
        return Reading(
            frames=count,
            utilisation=float(opened.mean(dtype="f8")) / self._gates
            if count and self._gates
            else None,
            tracks=_Tracks(tracks),
            segments=found,
            speech_ratio=float(spoken.mean()) if count and "vad" in flags else None,
            classes=classes,
            values=values,
            doubtful=doubtful,
            evidence=evidence,
        )


def _not_named(snr_db: float | None, spoken: int, frames: int) -> set[str]:
    """Classes of which too little is heard to name one; `spoken` and `frames` are numbers."""
    found = set()
    if frames * HOP_S < _MIN_NAMED_S["category"]:
        found.add("category")
    weak = snr_db is not None and snr_db < _MIN_GENDER_SNR_DB
    if spoken * HOP_S < _MIN_NAMED_S["gender"] or weak:
        found.add("gender")
    return found


def _value(probe: Probe, out: NDArray[Any]) -> NDArray[Any]:
    value = unlink(out, probe.link)
    return np.clip(value, *probe.limits) if probe.limits else value


def _value_track(probe: Probe, out: Float32, known: NDArray[np.bool_] | None) -> Float32:
    track = _value(probe, out).astype(np.float32)
    if known is not None:
        track[~known] = np.nan
    return track


def _class_track(out: Float32) -> Float32:
    return _log_softmax(out.T).astype(np.float32)


def _classify(probe: Probe, logits: Float32) -> tuple[str | None, dict[str, float]]:
    """Label and probabilities of a recording from the (outputs, L) logits of its frames.

    They are those of the frames' mean log-probability, from which a mean logit differs by the
    same amount for each class.
    """
    mean = logits.mean(axis=1).astype(np.float64) * probe.evidence
    p = np.exp(_log_softmax(mean[None])[0])
    best = int(np.argmax(p))
    least = _SURE_OF_NOISE if probe.name == "category" else _SURE
    sure = p[best] >= least and probe.classes[best] not in probe.unnamed
    label = probe.classes[best] if sure else None
    return label, {name: float(x) for name, x in zip(probe.classes, p, strict=True)}
