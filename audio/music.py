"""Computed music, for data that hold no recordings of any: what is not to be taken for speech.

Additive synthesis of harmonics with what makes instruments differ to the ear: how the treble falls,
attack and decay, the resonances of a body, several players, breath and bow, a moving filter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from .stft import SAMPLE_RATE

Samples = NDArray[np.float64]

_LONGEST = 8 * SAMPLE_RATE
_SCALES = np.array([(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)])
_ROLES = ("melody", "chords", "bass", "any")


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
    many = int(rng.integers(1, 5))
    roles = _ROLES[:many] if rng.random() < 0.5 else ("any",) * many
    for role in roles:
        length = beat * rng.choice([0.25, 0.5, 0.5, 1, 1, 2, 4, 16])
        if role == "bass":
            length = beat * rng.choice([0.5, 1, 1, 2])
        instrument = _Instrument(rng, length)
        octave = 12 * int(rng.integers(0, 2) if role == "bass" else rng.integers(0, 4))
        loudness = rng.uniform(0.2, 1)
        starts = np.arange(-rng.uniform(0, length), n, length).astype(int)
        for at, steps in zip(starts, _figure(rng, len(starts), role), strict=True):
            touch = loudness * rng.uniform(0.5, 1)
            for step in steps:
                up, degree = divmod(step, len(scale))
                semitone = key + octave + 12 * up + scale[degree]
                wave = instrument.note(440 * 2 ** ((semitone - 69) / 12))
                heard = wave[max(-at, 0) :]
                out[max(at, 0) : max(at, 0) + len(heard)] += touch * heard
    if rng.random() < 0.4:
        out[:n] += 0.5 * _drums(rng, n, beat)
    if rng.random() < 0.3:  # in a room
        t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        tail = rng.standard_normal(len(t)) * np.exp(-t / rng.uniform(0.05, 0.2))
        tail *= rng.uniform(0.2, 1) / np.sqrt((tail**2).sum())
        tail[0] = 1
        out = fftconvolve(out, tail)
    return out[:n].astype(np.float32)


class _Instrument:
    """Harmonics under an envelope: plucked, bowed, blown or synthetic."""

    def __init__(self, rng: np.random.Generator, length: float):
        self._rng = rng
        rings = min(length * rng.uniform(0.8, 1.5), _LONGEST)
        self.t = t = np.arange(max(int(rings), 2)) / SAMPLE_RATE
        kind = rng.random()
        plucked = kind < 0.2 or (kind >= 0.5 and rng.random() < 0.5)
        self.attack = np.exp(rng.uniform(np.log(0.002), np.log(0.1)))
        if plucked:
            envelope = np.exp(-t / rng.uniform(0.08, 1.0))
        else:
            envelope = np.sin(np.pi * t / (t[-1] + 0.001)) ** rng.choice([0.1, 0.3])
        self.envelope = envelope * np.minimum(1, (t[-1] - t) / 0.005)
        self.resonances: list[tuple[Samples, float]] = []  # (Hz over time, width)
        self.cutoff: Samples | None = None  # Hz over time
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
            slow = 2 * np.pi * (rng.uniform(0.2, 4) * t + rng.random())
            wah = rng.choice([0.0, 1.0]) * np.sin(slow)
            for low, high in ((300, 900), (900, 2600), (2000, 3500))[: rng.integers(1, 4)]:
                self.resonances.append((rng.uniform(low, high) * 2**wah, rng.uniform(60, 250)))
        else:
            self.orders = many[: rng.integers(1, 20)]
            # Either smoothly falling harmonics, as of a string, or uneven ones, as of a reed.
            uneven = rng.random() < 0.6
            gains = rng.uniform(0.2, 1, len(self.orders)) if uneven else 1.0
            self.gains = gains * self.orders ** -rng.uniform(0.3, 2.5)
        # Of the body, wherever the tone lies.
        self.body = [(rng.uniform(100, 4000), rng.uniform(-0.7, 0.7)) for _ in range(3)]
        self.brass = not plucked and rng.random() < 0.3  # whose treble comes later
        wobble = 0.0 if plucked or rng.random() < 0.4 else rng.uniform(0.05, 0.25)
        self.vibrato = wobble * np.sin(2 * np.pi * rng.uniform(4.5, 7) * t)
        shakes = rng.uniform(0, 0.6) if rng.random() < 0.2 else 0.0
        self.envelope *= 1 + shakes * np.sin(2 * np.pi * rng.uniform(3, 8) * t)
        glides = not plucked and rng.random() < 0.25
        self.glide = rng.uniform(0.01, 0.15) if glides else 0.0
        # Semitones between players; two are a piano's strings, more an ensemble.
        players = int(rng.choice([1, 1, 1, 2, 4]))
        self.players = rng.uniform(-1, 1, players) * rng.uniform(0.03, 0.2) * (players > 1)
        self.breath = 10 ** (-rng.uniform(15, 40) / 20) if rng.random() < 0.5 else 0.0
        self.darkness = rng.uniform(-0.95, 0.95)
        self.click = rng.uniform(0, 0.3) if plucked else 0.0
        self._before = 0.0
        self._known: dict[tuple[float, float], Samples] = {}

    def note(self, hertz: float) -> Samples:
        """One tone, as long as the instrument's tones are; it may glide there from the last."""
        before = self._before if self.glide and self._before else hertz
        self._before = hertz
        if (before, hertz) not in self._known:
            tone = np.zeros(len(self.t))
            for semitones in self.players:
                tone += self._tone(before, hertz, 2 ** (semitones / 12))
            tone = tone / (np.std(tone) + 1e-6) + self._noise()
            self._known[before, hertz] = tone * self.envelope
        return self._known[before, hertz]

    def _tone(self, before: float, hertz: float, tuning: float) -> Samples:
        t, rng = self.t, self._rng
        pitch = tuning * hertz * (before / hertz) ** np.exp(-t / max(self.glide, 1e-4))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE + self.vibrato
        if len(self.players) > 1:  # no two stay in step
            phase += rng.uniform(0, 0.5) * np.sin(2 * np.pi * (rng.uniform(0.2, 3) * t))
        phase += 2 * np.pi * rng.random()
        out = np.zeros(len(t))
        for order, gain in zip(self.orders, self.gains, strict=True):
            if order * max(before, hertz) * tuning >= SAMPLE_RATE / 2:
                break
            for centre, bells in self.body:
                gain *= 10 ** (bells * np.exp(-(np.log2(order * hertz / centre) ** 2)))
            partial = gain * np.sin(order * phase)
            partial *= np.minimum(1, t / (self.attack * (order if self.brass else 1)))
            if self.damping:
                partial *= np.exp(-self.damping * order**1.5 * t)
            if self.cutoff is not None:
                partial /= 1 + (order * pitch / self.cutoff) ** 4
            if self.resonances:
                partial *= sum(1 / (1 + ((order * pitch - f) / w) ** 2) for f, w in self.resonances)
            out += partial
        return out

    def _noise(self) -> Samples | float:
        """Of breath or bow, and of the pick or hammer; 1 is the RMS of the tone."""
        if not self.breath and not self.click:
            return 0.0
        white = self._rng.standard_normal(len(self.t))
        noise = lfilter([1 - abs(self.darkness)], [1, -self.darkness], white)
        return noise * (self.breath + self.click * np.exp(-self.t / 0.008))


def _figure(rng: np.random.Generator, notes: int, role: str) -> list[list[int]]:
    """Degrees of the scale that sound together, note by note; none is a rest."""
    kind = {"melody": 0.5, "chords": 1.0, "bass": rng.choice([0.2, 0.5])}.get(role, rng.random())
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
    if rng.random() < 0.4:  # one chord held, or struck again and again, before the next
        every = int(rng.integers(2, 6))
        chords = [rng.choice(7, together, replace=False) for _ in range(notes // every + 1)]
        return [[int(x) for x in chords[k // every]] for k in range(notes)]
    return [
        [] if rng.random() < rest else [int(x) for x in rng.choice(7, together, replace=False)]
        for _ in range(notes)
    ]


def _drums(rng: np.random.Generator, n: int, beat: float) -> Samples:
    """Bass drum, snare and cymbal; one or the other may be missing."""
    t = np.arange(SAMPLE_RATE // 3) / SAMPLE_RATE
    noise = rng.standard_normal(len(t))
    low = np.sin(2 * np.pi * (rng.uniform(45, 70) * t + rng.uniform(0, 10) * (1 - np.exp(-t * 30))))
    snare = noise * 0.5 + np.sin(2 * np.pi * rng.uniform(150, 250) * t)
    cymbal = np.diff(noise, prepend=0)
    out = np.zeros(n + len(t))
    for every, first, decay, hit in (
        (2, 0, rng.uniform(0.04, 0.12), low),
        (2, 1, rng.uniform(0.03, 0.1), snare),
        (rng.choice([0.5, 1]), 0, rng.uniform(0.01, 0.06), cymbal),
    ):
        if rng.random() < 0.25:
            continue
        hit = rng.uniform(0.3, 2) * hit * np.exp(-t / decay)
        for at in np.arange(first * beat, n, every * beat).astype(int):
            out[at : at + len(t)] += rng.uniform(0.6, 1) * hit
    return out[:n]
