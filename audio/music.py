"""Computed music, for data that hold no recordings of any: what is not to be taken for speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .stft import SAMPLE_RATE

_LONGEST = 8 * SAMPLE_RATE
_SCALES = np.array([(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)])


def music(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """One to four instruments in a key, each with its own timbre, figure and rhythm, often drums.

    Returns
    -------
    (n,) float32 at 16 kHz. Level is arbitrary.
    """
    out = np.zeros(n + _LONGEST)
    beat = rng.uniform(0.25, 0.9) * SAMPLE_RATE
    scale = _SCALES[rng.integers(2)]
    key = rng.uniform(30, 42)
    for _ in range(rng.integers(1, 5)):
        length = beat * rng.choice([0.25, 0.5, 0.5, 1, 1, 2, 4, 16])
        instrument = _Instrument(rng, length)
        loudness = rng.uniform(0.2, 1)
        starts = np.arange(-rng.uniform(0, length), n, length).astype(int)
        for at, steps in zip(starts, _figure(rng, len(starts)), strict=True):
            for step in steps:
                octave, degree = divmod(step, len(scale))
                semitone = key + instrument.octave + 12 * octave + scale[degree]
                wave = instrument.note(440 * 2 ** ((semitone - 69) / 12))
                heard = wave[max(-at, 0) :]
                out[max(at, 0) : max(at, 0) + len(heard)] += loudness * heard
    if rng.random() < 0.4:
        out[:n] += _drums(rng, n, beat)
    return out[:n].astype(np.float32)


class _Instrument:
    """Harmonics under an envelope, filtered or not, gliding or not: plucked, bowed, blown, played
    on a synthesizer."""

    def __init__(self, rng: np.random.Generator, length: float):
        self.octave = 12 * rng.integers(0, 4)
        rings = min(length * rng.uniform(0.8, 1.5), _LONGEST)
        self.t = t = np.arange(max(int(rings), 2)) / SAMPLE_RATE
        kind = rng.random()
        plucked = kind < 0.2 or (kind >= 0.5 and rng.random() < 0.6)
        attack = np.exp(rng.uniform(np.log(0.002), np.log(0.1)))
        if plucked:
            envelope = np.exp(-t / rng.uniform(0.08, 1.0))
        else:
            envelope = np.sin(np.pi * t / (t[-1] + 0.001)) ** rng.choice([0.1, 0.3])
        self.envelope = envelope * np.minimum(1, t / attack) * np.minimum(1, (t[-1] - t) / 0.005)
        self.resonances: list[tuple[NDArray[np.float64], float]] = []  # (Hz over time, width)
        self.cutoff: NDArray[np.float64] | None = None  # Hz over time
        self.damping = 0.0
        many = np.arange(1, rng.integers(8, 28))
        if kind < 0.2:  # a string plucked at some place, whose treble dies first
            self.orders, self.gains = many, np.abs(np.sin(np.pi * rng.uniform(0.05, 0.5) * many))
            self.damping = np.exp(rng.uniform(np.log(0.01), np.log(0.3)))
        elif kind < 0.38:  # a saw, square or narrow pulse behind a low-pass that may move
            width = rng.choice([0.0, 0.5, rng.uniform(0.05, 0.4)])
            self.orders = many
            self.gains = (np.abs(np.sin(np.pi * width * many)) if width else 1.0) / many
            swing = rng.choice([0.0, 1.5]) * np.exp(-t / rng.uniform(0.05, 0.6))
            self.cutoff = np.exp(rng.uniform(np.log(150), np.log(4000))) * 2**swing
        elif kind < 0.5:  # a buzz behind resonances, as of a reed, a jew's harp or a wah
            self.orders, self.gains = many, many**-0.5
            wah = rng.choice([0.0, 1.0]) * np.sin(
                2 * np.pi * (rng.uniform(0.2, 4) * t + rng.random())
            )
            for low, high in ((300, 900), (900, 2600), (2000, 3500))[: rng.integers(1, 4)]:
                self.resonances.append((rng.uniform(low, high) * 2**wah, rng.uniform(60, 250)))
        else:
            self.orders = many[: rng.integers(1, 13)]
            # Either smoothly falling harmonics, as of a string, or uneven ones, as of a reed.
            uneven = rng.random() < 0.6
            gains = rng.uniform(0.2, 1, len(self.orders)) if uneven else 1.0
            self.gains = gains * self.orders ** -rng.uniform(0.5, 2.5)
        wobble = 0.0 if plucked or rng.random() < 0.4 else rng.uniform(0.05, 0.25)
        self.vibrato = wobble * np.sin(2 * np.pi * rng.uniform(4.5, 7) * t)
        glides = not plucked and rng.random() < 0.25
        self.glide = rng.uniform(0.02, 0.3) * rng.uniform(0, 0.5) if glides else 0.0
        self.detune = 2 ** (rng.uniform(0.03, 0.15) / 12) if rng.random() < 0.2 else 1.0
        self._before = 0.0
        self._known: dict[tuple[float, float], NDArray[np.float64]] = {}

    def note(self, hertz: float) -> NDArray[np.float64]:
        """One tone, as long as the instrument's tones are; it may glide there from the last."""
        before = self._before if self.glide and self._before else hertz
        self._before = hertz
        if (before, hertz) not in self._known:
            tone = self._tone(before, hertz)
            if self.detune != 1:
                tone = tone + self._tone(before * self.detune, hertz * self.detune)
            self._known[before, hertz] = tone
        return self._known[before, hertz]

    def _tone(self, before: float, hertz: float) -> NDArray[np.float64]:
        t = self.t
        pitch = hertz * (before / hertz) ** np.exp(-t / max(self.glide, 1e-4))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE + self.vibrato
        out = np.zeros(len(t))
        for order, gain in zip(self.orders, self.gains, strict=True):
            if order * max(before, hertz) >= SAMPLE_RATE / 2:
                break
            partial = gain * np.sin(order * phase)
            if self.damping:
                partial *= np.exp(-self.damping * order**1.5 * t)
            if self.cutoff is not None:
                partial /= 1 + (order * pitch / self.cutoff) ** 4
            if self.resonances:
                partial *= sum(1 / (1 + ((order * pitch - f) / w) ** 2) for f, w in self.resonances)
            out += partial
        return out * self.envelope


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
