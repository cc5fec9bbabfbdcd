"""Computed music, for data that hold no recordings of any: what is not to be taken for speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .stft import SAMPLE_RATE

_SCALES = np.array([(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)])


def music(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """One to four instruments in a key, each with its own timbre, figure and rhythm, often drums.

    Returns
    -------
    (n,) float32 at 16 kHz. Level is arbitrary.
    """
    out = np.zeros(n + 4 * SAMPLE_RATE)
    beat = rng.uniform(0.25, 0.9) * SAMPLE_RATE
    scale = _SCALES[rng.integers(2)]
    key = rng.uniform(30, 42)
    for _ in range(rng.integers(1, 5)):
        length = beat * rng.choice([0.25, 0.5, 0.5, 1, 1, 2, 4])
        instrument = _Instrument(rng, length)
        loudness = rng.uniform(0.2, 1)
        starts = np.arange(-rng.uniform(0, length), n, length).astype(int)
        for at, steps in zip(starts, _figure(rng, len(starts)), strict=True):
            for step in steps:
                octave, degree = divmod(step, len(scale))
                semitone = key + instrument.octave + 12 * octave + scale[degree]
                wave = loudness * instrument.note(440 * 2 ** ((semitone - 69) / 12))
                heard = wave[max(-at, 0) :]
                out[max(at, 0) : max(at, 0) + len(heard)] += heard
    if rng.random() < 0.4:
        out[:n] += _drums(rng, n, beat)
    return out[:n].astype(np.float32)


class _Instrument:
    """Harmonics under an envelope: plucked, struck, bowed or blown."""

    def __init__(self, rng: np.random.Generator, length: float):
        self.octave = 12 * rng.integers(0, 4)
        self.orders = np.arange(1, rng.integers(2, 14))[:, None]
        fall = rng.uniform(0.5, 2.5)
        # Either smoothly falling harmonics, as of a string, or uneven ones, as of a reed.
        gains = rng.uniform(0.2, 1, len(self.orders)) if rng.random() < 0.6 else 1.0
        self.gains = gains * self.orders[:, 0] ** -fall
        rings = min(length * rng.uniform(0.8, 1.5), 3.5 * SAMPLE_RATE)
        self.t = t = np.arange(max(int(rings), 2)) / SAMPLE_RATE
        attack = np.exp(rng.uniform(np.log(0.002), np.log(0.1)))
        plucked = rng.random() < 0.6
        if plucked:
            envelope = np.exp(-t / rng.uniform(0.08, 1.0))
        else:
            envelope = np.sin(np.pi * t / (t[-1] + 0.001)) ** 0.3
        self.envelope = envelope * np.minimum(1, t / attack) * np.minimum(1, (t[-1] - t) / 0.005)
        wobble = 0.0 if plucked or rng.random() < 0.4 else rng.uniform(0.05, 0.25)
        self.vibrato = wobble * np.sin(2 * np.pi * rng.uniform(4.5, 7) * t)

    def note(self, hertz: float) -> NDArray[np.float64]:
        """One tone, as long as the instrument's tones are."""
        heard = self.gains * (self.orders[:, 0] * hertz < SAMPLE_RATE / 2)
        phase = self.orders * (2 * np.pi * hertz * self.t + self.vibrato)
        out: NDArray[np.float64] = heard @ np.sin(phase) * self.envelope
        return out


def _figure(rng: np.random.Generator, notes: int) -> list[list[int]]:
    """Degrees of the scale that sound together, note by note; none is a rest."""
    kind = rng.random()
    if kind < 0.35:  # broken chords, up or up and down, over a bass that moves
        chord = [(0, 2, 4), (0, 2, 4, 7), (0, 2, 4, 7, 4, 2), (0, 4, 2, 4)][rng.integers(4)]
        every = len(chord) * int(rng.integers(1, 4))
        roots = rng.choice([0, 3, 4, 5], notes // every + 1)
        return [[int(roots[k // every]) + chord[k % len(chord)]] for k in range(notes)]
    rest = rng.uniform(0, 0.4)
    if kind < 0.65:  # a melody in small steps
        walk = np.clip(np.cumsum(rng.integers(-2, 3, notes)), -3, 9)
        return [[] if rng.random() < rest else [int(step)] for step in walk]
    together = int(rng.integers(1, 4))
    return [
        [] if rng.random() < rest else [int(x) for x in rng.choice(7, together, replace=False)]
        for _ in range(notes)
    ]


def _drums(rng: np.random.Generator, n: int, beat: float) -> NDArray[np.float64]:
    t = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    out = np.zeros(n + len(t))
    for every, decay, low in ((2, 0.06, True), (1, 0.02, False)):
        hit = np.sin(2 * np.pi * 60 * t) if low else rng.standard_normal(len(t))
        hit = rng.uniform(0.3, 2) * hit * np.exp(-t / decay)
        for at in np.arange(0, n, every * beat).astype(int):
            out[at : at + len(t)] += hit
    return out[:n]
