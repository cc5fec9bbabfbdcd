"""What probes read: the pruning masks, and the alternatives that the paper sets beside them.

    masks        the gates, {0, 1}, of the channels whose standard deviation exceeds tau = 0.005
    first2       those of them in the first two blocks
    scores       raw scores of the gating subnets, of the channels in `masks`
    spectrum     log-magnitude of the noisy STFT, 257 bins
    suppression  the network's suppression mask, 257 bins

Beside them ``powers``, what the suppression mask keeps and removes of each frame
(`reading.powers`), for the SNR of whole recordings.

The "top-64" are a choice among `masks` and made in `fitting.select`. Source: Miccini et al., "From
Diet to Free Lunch", section 3. Features are kept compactly (a bit a gate: ten hours of a network
with 1152 gates take 330 MB, the real-valued ones float16) and handed out as float32 by blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.stft import BINS, Analysis
from ..models.engine import Engine
from .probe_file import AT_ONCE, Spans
from .reading import powers

__all__ = ["SOURCES", "TAU", "Features", "collect", "informative", "run_network"]

Float32 = NDArray[np.float32]

TAU = 0.005
"""Least standard deviation of a gate that tells anything (the paper's)."""

SOURCES = ("masks", "scores", "spectrum", "suppression")
_BLOCK = 4096


class Features:
    """(L, d) features of a whole stream, compactly stored.

    Parameters
    ----------
    stored : (L, ceil(d / 8)) uint8 of packed bits, or (L, d) float16.
    width : d.
    binary : whether the features are bits.
    """

    def __init__(self, stored: NDArray[Any], width: int, binary: bool):
        self._stored, self.width, self.binary = stored, width, binary

    @classmethod
    def of(cls, x: NDArray[Any]) -> Features:
        """Features of a (L, d) array: uint8 of {0, 1}, or float."""
        binary = x.dtype == np.uint8
        return cls(np.packbits(x, axis=1) if binary else x.astype(np.float16), x.shape[1], binary)

    def head(self, frames: int) -> Features:
        """The first rows."""
        return Features(self._stored[:frames], self.width, self.binary)

    def __len__(self) -> int:
        return len(self._stored)

    def _unpacked(self, first: int, last: int) -> NDArray[Any]:
        rows = self._stored[max(first, 0) : min(last, len(self))]
        return np.unpackbits(rows, axis=1, count=self.width) if self.binary else rows

    def block(
        self, first: int, last: int, columns: Sequence[int] | NDArray[np.int64] | None = None,
        spans: Spans = AT_ONCE,
    ) -> Float32:  # fmt: skip
        """Rows first..last-1 as float32, averaged over each of `spans` around them.

        Of k spans and d columns the result is (last - first, k * d), a span's columns side by side.
        The mean of features is read by the mean of predictions, so that at run time the average
        is taken of a probe's few outputs. At the ends it is that of the frames there are, or 0
        where a span holds none.
        """
        low = max(first + min(start for start, _ in spans), 0)
        rows = self._unpacked(low, last + max(end for _, end in spans))
        rows = rows if columns is None else rows[:, np.asarray(columns)]
        if tuple(spans) == AT_ONCE:
            return rows.astype(np.float32)
        # Sums of {0, 1} over a block are exact in float32; of scores they are good to 1e-4.
        total = np.zeros((len(rows) + 1, rows.shape[1]), np.float32)
        np.cumsum(rows, axis=0, dtype=np.float32, out=total[1:])
        at = np.arange(first, last) - low
        out = np.empty((len(at), len(spans) * rows.shape[1]), np.float32)
        for k, (before, after) in enumerate(spans):
            start = np.clip(at + before, 0, len(rows))
            end = np.clip(at + after + 1, 0, len(rows))
            count = np.asarray(np.maximum(end - start, 1)[:, None], np.float32)
            mine = slice(k * rows.shape[1], (k + 1) * rows.shape[1])
            np.divide(total[end] - total[start], count, out=out[:, mine])
        return out

    def blocks(
        self,
        columns: Sequence[int] | NDArray[np.int64] | None = None,
        spans: Spans = AT_ONCE,
        size: int = _BLOCK,
        each: int = 1,
    ) -> Iterator[tuple[slice, Float32]]:
        """All rows, or one block of `each`, `size` at a time, with their place."""
        for first in range(0, len(self), size * each):
            last = min(first + size, len(self))
            yield slice(first, last), self.block(first, last, columns, spans)

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(d,) mean and standard deviation over all rows."""
        total, squares = np.zeros(self.width), np.zeros(self.width)
        for _, x in self.blocks():
            total += x.sum(axis=0, dtype=np.float64)
            squares += np.square(x, dtype=np.float64).sum(axis=0)
        mean = total / max(len(self), 1)
        return mean, np.sqrt(np.maximum(squares / max(len(self), 1) - mean**2, 0))


def run_network(
    engine: Engine, blocks: Iterable[Float32], scores: bool = False
) -> Iterator[dict[str, NDArray[Any]]]:
    """Pass a signal through the network.

    Parameters
    ----------
    engine : a gated model.
    blocks : (n,) pieces of a signal at 16 kHz, in order.
    scores : also give the gates' raw scores.

    Yields
    ------
    dict
        ``masks`` (l, I * C) uint8, ``spectrum`` (l, 257) natural logarithm of the magnitude
        (floor 1e-5), ``suppression`` (l, 257), ``powers`` (l, 2), and ``scores`` (l, I * C) if
        asked for.
    """
    analysis, state = Analysis(), engine.initial_state()
    count = engine.gate_shape[0] * engine.gate_shape[1]

    def step(frames: NDArray[np.complex64]) -> dict[str, NDArray[Any]]:
        nonlocal state
        raw = np.empty((len(frames), *engine.gate_shape), np.float32) if scores else None
        mask, gates, state = engine.step(frames, state, raw)
        found: dict[str, NDArray[Any]] = {
            "masks": gates.reshape(len(frames), count),
            "spectrum": np.log(np.maximum(np.abs(frames), 1e-5)),
            "suppression": mask,
            "powers": powers(mask, frames),
        }
        if raw is not None:
            found["scores"] = raw.reshape(len(frames), count)
        return found

    for block in blocks:
        yield step(analysis.feed(block))
    yield step(analysis.flush())


def collect(
    engine: Engine, blocks: Iterable[Float32], sources: Sequence[str] = ("masks",)
) -> dict[str, Features]:
    """Features of a whole signal from the sources named, by source."""
    parts: dict[str, list[NDArray[Any]]] = {source: [] for source in sources}
    for found in run_network(engine, blocks, "scores" in sources):
        for source in sources:
            x = found[source]
            # Packed at once, to hold a bit a gate and not a byte.
            kind = np.float32 if source == "powers" else np.float16
            parts[source].append(np.packbits(x, axis=1) if source == "masks" else x.astype(kind))
    count = engine.gate_shape[0] * engine.gate_shape[1]
    widths = {"spectrum": BINS, "suppression": BINS, "powers": 2}
    return {
        source: Features(np.concatenate(kept), widths.get(source, count), source == "masks")
        for source, kept in parts.items()
    }


def informative(features: Features, tau: float = TAU) -> NDArray[np.int64]:
    """Channels whose standard deviation exceeds `tau` (eq. 4), in order."""
    return np.flatnonzero(features.mean_and_std()[1] > tau)
