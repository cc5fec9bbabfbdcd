"""Make the recordings of this folder: speech synthesised here, in noise computed here.

Nothing is downloaded and nothing is recorded: the voices come from the `flite` and `espeak-ng`
binaries, the sentences were written for this file, the noise is NumPy with a fixed seed. With the
versions that README.md names, a second run writes the same bytes.

    python samples/make_samples.py            # into this folder
    python samples/make_samples.py /tmp/new   # elsewhere, to compare
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy import signal

from dynse.audio.mixing import active_level, mix_at_snr
from dynse.audio.stft import SAMPLE_RATE

Samples = NDArray[np.float32]

LEAD_S, PAUSE_S, TAIL_S = 0.5, 0.4, 0.3  # noise alone: at the start, between sentences, at the end
SPEECH_LEVEL = 0.05  # -26 dBFS over active speech
NOISE_ONLY_LEVEL = 0.02  # -34 dBFS


@dataclass(frozen=True)
class Sample:
    """What one recording is made of; `snr_db` is over active speech, None without noise."""

    name: str
    sentences: tuple[str, ...] = ()
    voice: str = ""
    gender: str = ""
    noise: str = ""
    category: str = ""
    snr_db: float | None = None
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    suffix: str = ".wav"
    subtype: str = "PCM_16"
    seconds: float = 0.0  # only without speech, which otherwise sets the length


SAMPLES = (
    Sample(
        "hiss_female",
        ("The kettle boiled while we were talking.", "Nobody remembered to make the tea."),
        "flite:slt",
        "female",
        "hiss",
        "artificial",
        6.0,
    ),
    Sample(
        "hum_male",
        ("Please leave the heavy boxes by the door.", "I will carry them up tomorrow."),
        "flite:rms",
        "male",
        "hum",
        "artificial",
        3.0,
    ),
    Sample(
        "engine_male",
        ("We took the coast road on the way home.", "The view was worth the extra hour."),
        "flite:awb",
        "male",
        "engine",
        "transport",
        0.0,
    ),
    Sample(
        "babble_female",
        ("Could you save me a seat near the window?", "I am still waiting in the queue."),
        "espeak-ng:en-us+f3",
        "female",
        "babble",
        "public",
        9.0,
    ),
    Sample(
        "keyboard_male",
        ("The minutes of the meeting are almost done.", "Give me five more minutes."),
        "flite:kal16",
        "male",
        "keyboard",
        "office",
        5.0,
    ),
    Sample(
        "rain_female",
        ("It rained all night on the roof of the cabin.", "By morning the path was gone."),
        "flite:slt",
        "female",
        "rain",
        "nature",
        12.0,
    ),
    Sample(
        "engine_stereo",
        ("This bus stops at the old market.", "Mind the step, please."),
        "espeak-ng:en-gb-x-rp+m3",
        "male",
        "engine",
        "transport",
        8.0,
        44100,
        2,
        ".flac",
        "PCM_24",
    ),
    Sample(
        "clean_male",
        ("Nothing here needs to be removed.", "The room is perfectly quiet."),
        "flite:rms",
        "male",
    ),
    Sample("noise_only", noise="rain", category="nature", seconds=4.0),
)

BABBLE = (  # other voices than the one that talks over them
    ("flite:awb", "Two coffees and a slice of the lemon cake, and then we really have to leave."),
    ("flite:rms", "He said the platform had changed, but the board still shows the old one."),
    ("flite:slt", "My sister starts her new job on Monday, she has been nervous all week."),
    ("espeak-ng:en-gb-x-rp+m3", "You turn left at the fountain and walk until you see the bridge."),
    (
        "espeak-ng:en-gb-scotland+f4",
        "They were sold out again, so we bought the green ones instead.",
    ),
    ("flite:kal16", "If the weather holds we could eat outside, there is a table by the wall."),
)


# --------------------------------------------------------------------------------------- speech


def synthesise(voice: str, text: str, sample_rate: int) -> Samples:
    """Say `text`: (n,) float32 at `sample_rate`, silence at both ends cut off."""
    program, _, name = voice.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        if program == "flite":
            command = ["flite", "-voice", name, "-t", text, "-o", str(path)]
        else:
            command = ["espeak-ng", "-v", name, "-s", "165", "-w", str(path), text]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        x, rate = soundfile.read(path, dtype="float32")
    x = soxr.resample(x, rate, sample_rate, quality="VHQ")
    loud = np.flatnonzero(np.abs(x) > 0.01 * np.abs(x).max())
    return x[loud[0] : loud[-1] + 1]


def talk(sample: Sample) -> Samples:
    """Sentences at -26 dBFS, with the pauses in which the noise is heard alone."""
    rate = sample.sample_rate
    if not sample.sentences:
        return np.zeros(round(sample.seconds * rate), np.float32)
    parts = [_silence(LEAD_S, rate)]
    for sentence in sample.sentences:
        parts += [synthesise(sample.voice, sentence, rate), _silence(PAUSE_S, rate)]
    parts[-1] = _silence(TAIL_S, rate)
    x = np.concatenate(parts)
    return x * np.float32(SPEECH_LEVEL / active_level(_to_model_rate(x, rate)))


# ---------------------------------------------------------------------------------------- noise


def hiss(rng: np.random.Generator, n: int, rate: int) -> NDArray[np.float64]:
    """Pink noise with the raised treble of a cheap preamplifier."""
    return _coloured(rng, n, rate, 1.0) + 0.7 * _coloured(rng, n, rate, -0.5)


def hum(rng: np.random.Generator, n: int, rate: int) -> NDArray[np.float64]:
    """50 Hz mains with odd harmonics above even ones, and a little noise."""
    t = np.arange(n) / rate
    orders = np.arange(1, 25)
    gains = np.where(orders % 2, 1.0, 0.3) * orders**-0.8 * rng.uniform(0.5, 1, len(orders))
    phases = rng.uniform(0, 2 * np.pi, (len(orders), 1))
    x = gains @ np.sin(2 * np.pi * 50.0 * orders[:, None] * t + phases)
    return x + 0.05 * _coloured(rng, n, rate, 1.0)


def engine(rng: np.random.Generator, n: int, rate: int) -> NDArray[np.float64]:
    """Harmonics of a firing rate that wanders around 45 Hz, over brown road noise."""
    knots = rng.uniform(0.9, 1.1, max(2, n // rate + 2))
    speed = 45.0 * np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)
    turn = 2 * np.pi * np.cumsum(speed) / rate
    orders = np.arange(1, 31)
    gains = orders**-0.7 * rng.uniform(0.2, 1, len(orders))
    x = gains @ np.sin(orders[:, None] * turn + rng.uniform(0, 2 * np.pi, (len(orders), 1)))
    return x + 1.2 * _coloured(rng, n, rate, 1.6) + 0.3 * _coloured(rng, n, rate, 0.7)


def keyboard(rng: np.random.Generator, n: int, rate: int) -> NDArray[np.float64]:
    """Key strokes, each a press and a softer release, over the air of an office."""
    x = np.zeros(n + rate)
    at = 0.1
    while at * rate < n:
        for delay, gain in ((0.0, 1.0), (rng.uniform(0.07, 0.11), 0.4)):
            length = int(rng.uniform(0.012, 0.03) * rate)
            burst = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5))
            thump = np.sin(2 * np.pi * rng.uniform(150, 300) * np.arange(length) / rate)
            start = int((at + delay) * rate)
            x[start : start + length] += gain * rng.uniform(0.5, 1) * burst * (1 + 0.5 * thump)
        at += rng.exponential(0.1) + 0.07 if rng.random() < 0.92 else rng.uniform(0.3, 0.6)
    band = signal.butter(2, [400, min(7000, 0.45 * rate)], "bandpass", fs=rate, output="sos")
    return signal.sosfilt(band, x)[:n] + 0.015 * _coloured(rng, n, rate, 1.2)


def rain(rng: np.random.Generator, n: int, rate: int) -> NDArray[np.float64]:
    """Thousands of drops, each a short ring at a pitch of its own, over a distant patter."""
    x = np.zeros(n + rate)
    for at in rng.integers(0, n, int(250 * n / rate)):
        length = int(rng.uniform(0.003, 0.012) * rate)
        t = np.arange(length) / rate
        ring = np.sin(2 * np.pi * rng.uniform(1500, 7000) * t) * np.exp(-t / (t[-1] / 4))
        x[at : at + length] += rng.exponential(0.6) * ring
    return x[:n] + 0.25 * _coloured(rng, n, rate, 0.3)


def babble(rng: np.random.Generator, n: int, rate: int) -> NDArray[np.float64]:
    """Six voices at once, each in a loop entered somewhere."""
    x = np.zeros(n)
    for voice, text in BABBLE:
        said = np.concatenate([synthesise(voice, text, rate), _silence(0.3, rate)])
        said = np.roll(np.tile(said, n // len(said) + 1), int(rng.integers(len(said))))[:n]
        x += 10 ** (rng.uniform(-4, 0) / 20) * said / active_level(_to_model_rate(said, rate))
    return x


NOISES: dict[str, Callable[[np.random.Generator, int, int], NDArray[np.float64]]] = {
    function.__name__: function for function in (hiss, hum, engine, keyboard, rain, babble)
}


def _coloured(rng: np.random.Generator, n: int, rate: int, slope: float) -> NDArray[np.float64]:
    """Noise with a power spectrum of f**-slope (0 white, 1 pink, 2 brown), unit RMS."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.maximum(np.fft.rfftfreq(n, 1 / rate), 20.0)
    x = np.fft.irfft(spectrum * f ** (-slope / 2), n)
    return x / np.sqrt(np.mean(x**2))


# -------------------------------------------------------------------------------------- mixing


def make(sample: Sample) -> tuple[Samples, Samples]:
    """Mix one sample: (noisy, clean), both (frames, channels) at its own rate."""
    rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
    rate, clean = sample.sample_rate, talk(sample)
    tracks = [clean] * sample.channels
    if sample.noise:
        # One draw a channel, as from two microphones; one gain for all of them, set where the SNR
        # is defined: on the mono mix at the rate of the models.
        noises = [NOISES[sample.noise](rng, len(clean), rate).astype(np.float32) for _ in tracks]
        mono = _to_model_rate(np.mean(noises, axis=0), rate)
        if sample.snr_db is None:
            gain = NOISE_ONLY_LEVEL / active_level(mono)
        else:
            _, scaled = mix_at_snr(_to_model_rate(clean, rate), mono, sample.snr_db)
            gain = float(np.sqrt(np.mean(scaled**2) / np.mean(mono**2)))
        tracks = [clean + x * np.float32(gain) for x in noises]
    return np.stack(tracks, axis=1), np.stack([clean] * sample.channels, axis=1)


def write(path: Path, x: Samples, sample: Sample) -> None:
    """Write `x` as integers rounded here, so that no library's rounding or dither matters."""
    bits = {"PCM_16": 16, "PCM_24": 24}[sample.subtype]
    if np.abs(x).max() >= 1:
        raise ValueError(f"{path}: peak of {np.abs(x).max():.2f} would clip")
    y = np.round(x.astype(np.float64) * 2 ** (bits - 1)).astype(np.int32) << (32 - bits)
    data = y if bits > 16 else (y >> 16).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, data, sample.sample_rate, subtype=sample.subtype)


def _silence(seconds: float, rate: int) -> Samples:
    return np.zeros(round(seconds * rate), np.float32)


def _to_model_rate(x: NDArray[np.floating], rate: int) -> Samples:
    return soxr.resample(x.astype(np.float32, copy=False), rate, SAMPLE_RATE, quality="VHQ")


def main(folder: Path) -> None:
    """Write every sample and the table below `folder`."""
    columns = ("name", "text", "voice", "gender", "noise_category", "snr_db", "sample_rate")
    rows: list[tuple[object, ...]] = [columns]
    for sample in SAMPLES:
        noisy, clean = make(sample)
        write(folder / "noisy" / f"{sample.name}{sample.suffix}", noisy, sample)
        write(folder / "clean" / f"{sample.name}{sample.suffix}", clean, sample)
        text, snr = " ".join(sample.sentences), "" if sample.snr_db is None else sample.snr_db
        rows.append(
            (
                sample.name,
                text,
                sample.voice,
                sample.gender,
                sample.category,
                snr,
                sample.sample_rate,
            )
        )
    with (folder / "samples.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
