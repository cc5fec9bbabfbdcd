"""Computed imitations of sounds that collections of noise hold little of.

The training data have five recordings of rain and a handful of engines: too few to learn by what
rain or an engine is known. What makes each of them (drops that ring, a firing order that wanders,
strokes in the rhythm of typing) is easily said in a few lines, and varied without end. They stand
beside recordings, not in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from .stft import SAMPLE_RATE

Samples = NDArray[np.float64]
_Maker = Callable[[np.random.Generator, int], Samples]

_LONGEST = SAMPLE_RATE // 2  # of one event


def imitation(
    rng: np.random.Generator, n: int, category: str = ""
) -> tuple[NDArray[np.float32], str, str]:
    """A sound of everyday life, computed.

    Parameters
    ----------
    rng : what to draw from.
    n : samples at 16 kHz.
    category : one of `KINDS`; "" for any, each of their kinds equally often.

    Returns
    -------
    (n,) float32, its category, and the kind's name. Level is arbitrary.
    """
    makers = [(c, make) for c in ([category] if category else KINDS) for make in KINDS[c]]
    category, make = makers[rng.integers(len(makers))]
    return make(rng, n).astype(np.float32), category, make.__name__


def vehicle(rng: np.random.Generator, n: int) -> Samples:
    """A combustion engine under changing load, and the road."""
    wander = smooth(rng, n, rng.uniform(0.3, 1.5))
    rate_hz = rng.uniform(18, 120) * (1 + rng.uniform(0.02, 0.25) * wander)
    orders = np.arange(0.5, 20, 0.5)  # a cycle takes two turns
    gains = rng.uniform(0.2, 1, len(orders)) * orders ** -rng.uniform(0.4, 1.5)
    gains[::2] *= rng.uniform(0, 0.5)
    x = _harmonics(rng, rate_hz, orders, gains) * (1 + 0.4 * smooth(rng, n, 1.0))
    road = coloured(rng, n, rng.uniform(1.2, 2.4)) + 0.3 * coloured(rng, n, 0.7)
    return _unit(x) + 10 ** rng.uniform(-0.7, 0.6) * road


def engine(rng: np.random.Generator, n: int) -> Samples:
    """Harmonics of a rate that wanders, and coloured noise: a plainer engine."""
    # Not by `_harmonics`: `mixing.synthetic_noise` draws it, too, and the streams that probes are
    # scored on would change with the order of its draws.
    t = np.arange(n) / SAMPLE_RATE
    wander = np.cumsum(smooth(rng, n, 1.5)) / SAMPLE_RATE
    turn = 2 * np.pi * (rng.uniform(25, 140) * (t + rng.uniform(0.02, 0.3) * wander))
    orders = np.arange(1, 25)
    gains = rng.uniform(0, 1, len(orders)) * orders ** -rng.uniform(0.5, 1.5)
    x = gains @ np.sin(orders[:, None] * turn + rng.uniform(0, 6.28, (len(orders), 1)))
    x += 10 ** rng.uniform(-1.0, 0.5) * coloured(rng, n, rng.uniform(0.5, 2.0))
    return np.asarray(x)


def propeller(rng: np.random.Generator, n: int) -> Samples:
    """Blades that beat the air: noise in bursts, and harmonics of their rate."""
    rate_hz = rng.uniform(9, 35) * (1 + 0.03 * smooth(rng, n, 0.5))
    beat = _harmonics(rng, rate_hz, np.arange(1, 5), 1 / np.arange(1, 5) ** rng.uniform(0.3, 1.5))
    air = coloured(rng, n, rng.uniform(0.7, 2.0))
    tones = _harmonics(rng, rate_hz, np.arange(1, 30), np.arange(1, 30) ** -rng.uniform(0.5, 1.2))
    air *= 1 + rng.uniform(0.4, 1) * beat / (np.abs(beat).max() or 1.0)
    return air + rng.uniform(0, 0.7) * _unit(tones)


def cabin(rng: np.random.Generator, n: int) -> Samples:
    """Inside an aircraft or a fast train: rumble that hardly changes, and the whine of turbines."""
    x = _unit(_lowpass(coloured(rng, n, rng.uniform(0.8, 2.2)), rng.uniform(400, 4000)))
    for _ in range(rng.integers(0, 4)):
        pitch = rng.uniform(120, 3500) * (1 + 0.01 * smooth(rng, n, 0.3))
        x += rng.uniform(0.02, 0.3) * _harmonics(rng, pitch, np.ones(1), np.ones(1))
    return x * (1 + 0.2 * smooth(rng, n, 0.7))


def rails(rng: np.random.Generator, n: int) -> Samples:
    """A train: axles over joints in pairs, above a rumble."""
    x = np.zeros(n + _LONGEST)
    period = rng.uniform(0.35, 1.6) * SAMPLE_RATE
    gaps = np.cumsum([0, rng.uniform(0.08, 0.2), rng.uniform(0.0, 0.3)]) * SAMPLE_RATE
    at = rng.uniform(0, period)
    while at < n:
        for gap in gaps[: rng.integers(2, 4)]:
            length = int(rng.uniform(0.03, 0.12) * SAMPLE_RATE)
            clack = _burst(rng, length, rng.uniform(3, 8))
            start = int(at + gap)
            if start < n:
                x[start : start + length] += rng.uniform(0.6, 1) * clack
        at += period * rng.uniform(0.97, 1.03)
    x = _lowpass(x[:n], rng.uniform(800, 5000))
    rumble = coloured(rng, n, rng.uniform(1.0, 2.2)) * (1 + 0.3 * smooth(rng, n, 2.0))
    return _unit(x) + rng.uniform(0.4, 2.0) * rumble


def rain(rng: np.random.Generator, n: int) -> Samples:
    """Drops that ring or burst, each at a pitch of its own, over the patter of those far away."""
    x = np.zeros(n + _LONGEST)
    low, high = np.sort(rng.uniform(500, 7800, 2))
    ringing, longest_s = rng.uniform(), rng.uniform(0.003, 0.03)
    for at in rng.integers(0, n, int(10 ** rng.uniform(0.8, 2.9) * n / SAMPLE_RATE)):
        length = int(rng.uniform(0.2, 1) * longest_s * SAMPLE_RATE) + 8
        if rng.random() < ringing:
            drop = _ring(rng.uniform(low, high), 0.0, length)
        else:
            drop = _burst(rng, length, 5.0)
        x[at : at + length] += rng.exponential(0.6) * drop
    patter = coloured(rng, n, rng.uniform(-0.6, 0.9)) * (1 + 0.15 * smooth(rng, n, 1.0))
    return _unit(x[:n]) + 10 ** rng.uniform(-1.0, 0.8) * patter


def wind(rng: np.random.Generator, n: int) -> Samples:
    """Gusts: low noise that swells, and now and then a whistle around an edge."""
    gust = 10 ** (rng.uniform(4, 14) * smooth(rng, n, rng.uniform(0.3, 2.0)) / 20)
    x = coloured(rng, n, rng.uniform(1.5, 3.0)) * gust
    if rng.random() < 0.5:
        pitch = rng.uniform(250, 1500) * (1 + 0.2 * smooth(rng, n, 0.5))
        narrow = _lowpass(rng.standard_normal(n), rng.uniform(10, 60))
        whistle = _unit(narrow) * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
        x += rng.uniform(0.1, 0.8) * whistle * gust
    return x


def stream(rng: np.random.Generator, n: int) -> Samples:
    """Water that runs: bubbles whose pitch rises as they close, over a hiss."""
    x = np.zeros(n + _LONGEST)
    low, high = np.sort(rng.uniform(250, 4000, 2))
    for at in rng.integers(0, n, int(10 ** rng.uniform(1.5, 2.7) * n / SAMPLE_RATE)):
        length = int(rng.uniform(0.008, 0.06) * SAMPLE_RATE)
        bubble = _ring(rng.uniform(low, high), rng.uniform(0, 0.6), length)
        x[at : at + length] += rng.exponential(0.5) * bubble
    return _unit(x[:n]) + 10 ** rng.uniform(-1.2, 0.3) * coloured(rng, n, rng.uniform(0.0, 1.2))


def keys(rng: np.random.Generator, n: int) -> Samples:
    """Typing: a press and a softer release, in spells, over the air of a room."""
    x = np.zeros(n + _LONGEST)
    at, pace = rng.uniform(0, 0.5), rng.uniform(0.06, 0.2)
    body_hz, depth, longest_s = rng.uniform(120, 900), rng.uniform(0, 1.5), rng.uniform(0.01, 0.05)
    while at * SAMPLE_RATE < n:
        for delay, gain in ((0.0, 1.0), (rng.uniform(0.05, 0.13), rng.uniform(0.1, 0.7))):
            length = int(rng.uniform(0.3, 1) * longest_s * SAMPLE_RATE)
            body = _ring(body_hz * rng.uniform(0.8, 1.25), 0.0, length)
            start = int((at + delay) * SAMPLE_RATE)
            stroke = _burst(rng, length, rng.uniform(3, 8)) * (1 + depth * body)
            x[start : start + length] += gain * rng.uniform(0.4, 1) * stroke
        at += rng.exponential(pace) + 0.05 if rng.random() < 0.9 else rng.uniform(0.3, 1.5)
    low, high = rng.uniform(100, 900), rng.uniform(3000, 7800)
    x = signal.sosfilt(signal.butter(2, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos"), x)
    return _unit(x[:n]) + 10 ** rng.uniform(-1.8, -0.3) * coloured(rng, n, rng.uniform(0.8, 2.0))


def motor(rng: np.random.Generator, n: int) -> Samples:
    """A vacuum cleaner or a hair dryer: a fast motor, and the air it moves."""
    rate_hz = rng.uniform(130, 700) * (1 + rng.uniform(0.002, 0.05) * smooth(rng, n, 0.7))
    orders = np.arange(1, 12)
    gains = rng.uniform(0.1, 1, len(orders)) * orders ** -rng.uniform(0.3, 1.5)
    x = _harmonics(rng, rate_hz, orders, gains)
    air = _lowpass(coloured(rng, n, rng.uniform(-0.3, 1.0)), rng.uniform(2000, 7500))
    return rng.uniform(0.1, 1) * _unit(x) + _unit(air)


KINDS: dict[str, tuple[_Maker, ...]] = {
    "transport": (vehicle, vehicle, engine, engine, propeller, cabin, rails),
    "nature": (rain, wind, stream),
    "office": (keys,),
    "domestic": (motor,),
}
"""Category -> what makes its sounds; what is there twice is drawn twice as often."""


def coloured(rng: np.random.Generator, n: int, slope: float) -> Samples:
    """Noise with a power spectrum of f**-slope (0 white, 1 pink, 2 brown), unit RMS."""
    size = fft.next_fast_len(n, real=True)
    bins = size // 2 + 1
    shape = np.maximum(np.arange(bins), size * 20 / SAMPLE_RATE) ** (-slope / 2)
    spectrum = shape * (rng.standard_normal(bins) + 1j * rng.standard_normal(bins))
    x = fft.irfft(spectrum, size)[:n]
    return x / np.sqrt(np.mean(x**2))


def smooth(rng: np.random.Generator, n: int, rate_hz: float) -> Samples:
    """Slow random curve within [-1, 1], about `rate_hz` turns a second."""
    knots = rng.uniform(-1, 1, max(2, int(n / SAMPLE_RATE * rate_hz) + 2))
    return np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def _harmonics(
    rng: np.random.Generator, rate_hz: Samples, orders: NDArray[Any], gains: NDArray[Any]
) -> Samples:
    """Sum of the orders of a moving rate in Hz, each from a random phase: (n,)."""
    turn = 2 * np.pi * np.cumsum(rate_hz) / SAMPLE_RATE
    out = np.zeros(len(turn))
    for order, gain in zip(orders, gains, strict=True):
        out += gain * np.sin(order * turn + rng.uniform(0, 2 * np.pi))
    return out


def _ring(pitch_hz: float, rise: float, length: int) -> Samples:
    """A decaying sine; its pitch rises by the share `rise`."""
    t = np.arange(length) / length
    turns = pitch_hz * length / SAMPLE_RATE * (t + rise * t**2 / 2)
    return np.sin(2 * np.pi * turns) * np.exp(-4 * t)


def _burst(rng: np.random.Generator, length: int, decay: float) -> Samples:
    return rng.standard_normal(length) * np.exp(-decay * np.arange(length) / length)


def _unit(x: Samples) -> Samples:
    """At a standard deviation of 1, unless it is silent."""
    return x / (x.std() or 1.0)


def _lowpass(x: Samples, hertz: float) -> Samples:
    out: Samples = signal.sosfilt(signal.butter(2, hertz, fs=SAMPLE_RATE, output="sos"), x)
    return out
