"""Clean speech + noise -> noisy speech, with labels, for training, fitting and figures.

Every mixture is a pure function of (corpus, config, seed, index), so a run that was killed resumes
on exactly the data it would have seen, and any mixture of a run can be listened to later.
Nothing here imports torch: mixing runs in worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import fft, signal

from .corpus import Clip, Corpus
from .imitations import KINDS, coloured, engine, imitation, smooth
from .music import music
from .stft import SAMPLE_RATE

Samples = NDArray[np.float32]

SYNTHETIC_CATEGORY = "artificial"
ENGINE_CATEGORY = "transport"
BABBLE_CATEGORY = "public"
MUSIC_CATEGORY = "music"


@dataclass(frozen=True)
class MixConfig:
    """How mixtures are drawn. Probabilities are per mixture, levels in dB, times in seconds.

    `p_rolled_off` is of computed noises, which have all of the band otherwise: nearly every
    recording has been through a resampler, and one is not to be known by that.
    """

    seconds: float = 3.0
    snr_db: tuple[float, float] = (-6.0, 21.0)
    wide_snr_db: tuple[float, float] = (-12.0, 40.0)
    p_wide_snr: float = 0.12
    level_dbfs: tuple[float, float] = (-45.0, -10.0)
    p_noise_only: float = 0.05
    p_clean_only: float = 0.04
    p_leading_gap: float = 0.5
    p_speed: float = 0.4
    p_speech_eq: float = 0.3
    p_noise_eq: float = 0.5
    p_reverb: float = 0.25
    p_second_noise: float = 0.25
    p_synthetic: float = 0.17
    p_imitation: float = 0.11
    p_rolled_off: float = 0.5
    p_babble: float = 0.06
    p_music: float = 0.15
    p_modulation: float = 0.15
    p_level_change: float = 0.1
    p_clipping: float = 0.04
    p_narrowband: float = 0.05
    p_dropout: float = 0.03
    p_dc_offset: float = 0.02

    @property
    def samples(self) -> int:
        """Samples of one mixture."""
        return round(self.seconds * SAMPLE_RATE)


@dataclass(frozen=True)
class Mixture:
    """A noisy recording, its clean reference and what is known about it.

    ``noisy`` and ``clean`` are float32 of one length at 16 kHz. ``snr_db`` is over active speech
    (None without speech or without noise); ``category`` is that of the strongest noise.
    """

    noisy: Samples
    clean: Samples
    snr_db: float | None
    level_dbfs: float
    speaker: str
    gender: str
    language: str
    category: str
    noise_label: str
    effects: tuple[str, ...] = field(default=())


def active_level(x: Samples, floor_db: float = -35.0) -> float:
    """RMS of the active part of `x`: the 20 ms frames within `floor_db` of the loudest one.

    Parameters
    ----------
    x : (n,) float32
    floor_db : frames more than this many dB below the loudest frame count as pauses.

    Returns
    -------
    float
        RMS amplitude, 0 for silence. A plain relative of ITU-T P.56, without its hangover.
    """
    frame = SAMPLE_RATE // 50
    if len(x) < frame:
        return float(np.sqrt(np.mean(np.square(x)))) if len(x) else 0.0
    power = np.square(x[: len(x) // frame * frame]).reshape(-1, frame).mean(axis=1)
    active = power >= power.max() * 10 ** (floor_db / 10)
    return float(np.sqrt(power[active].mean()))


def mix_at_snr(clean: Samples, noise: Samples, snr_db: float) -> tuple[Samples, Samples]:
    """Scale `noise` to `snr_db` below the active level of `clean`; return (noisy, scaled noise)."""
    speech_level, noise_level = active_level(clean), float(np.sqrt(np.mean(np.square(noise))))
    if noise_level == 0.0 or speech_level == 0.0:
        return clean + noise, noise
    scaled = noise * np.float32(speech_level / noise_level * 10 ** (-snr_db / 20))
    return clean + scaled, scaled


class Mixer:
    """Draws mixtures from a corpus.

    Parameters
    ----------
    corpus : speech and noise clips with their labels.
    config : how to mix.
    seed : mixtures with the same seed and index are bit-identical.
    """

    def __init__(self, corpus: Corpus, config: MixConfig | None = None, seed: int = 0):
        self.corpus = corpus
        self.config = config or MixConfig()
        self.seed = seed

    @cached_property
    def _speech_weights(self) -> NDArray[np.float64]:
        return _cumulative([clip.weight * clip.frames for clip in self.corpus.speech])

    @cached_property
    def _noise_weights(self) -> NDArray[np.float64]:
        # The square root evens out the categories without looping the thin ones to death; a cap of
        # 20 s a clip keeps the few long recordings from crowding out the many short ones.
        seconds = np.array([min(clip.frames / SAMPLE_RATE, 20.0) for clip in self.corpus.noise])
        categories = np.array([clip.category for clip in self.corpus.noise])
        weights = seconds.copy()
        for category in np.unique(categories):
            total = seconds[categories == category].sum()
            weights[categories == category] *= (25.0 if category else 5.0) / np.sqrt(total)
        return _cumulative(weights)

    @cached_property
    def _by_speaker(self) -> dict[str, list[Clip]]:
        groups: dict[str, list[Clip]] = {}
        for clip in self.corpus.speech:
            groups.setdefault(clip.speaker or clip.corpus, []).append(clip)
        return groups

    def __call__(self, index: int) -> Mixture:
        """Draw mixture number `index`."""
        cfg, rng = self.config, np.random.default_rng((self.seed, index))
        n, effects = cfg.samples, []

        def happens(probability: float, name: str = "") -> bool:
            hit = bool(rng.random() < probability)
            if hit and name:
                effects.append(name)
            return hit

        noise_only = happens(cfg.p_noise_only, "noise_only")
        clean_only = not noise_only and happens(cfg.p_clean_only, "clean_only")
        talker = _pick(rng, self.corpus.speech, self._speech_weights)
        clean = speech = np.zeros(n, np.float32)
        if not noise_only:
            clean, speech = self._voice(rng, talker, n, effects)
        noise, category, label = self._background(rng, n, effects)
        snr_db: float | None = rng.uniform(
            *(cfg.wide_snr_db if happens(cfg.p_wide_snr) else cfg.snr_db)
        )
        if clean_only or noise_only:
            snr_db = None
        if clean_only:
            noisy, category, label = speech, "", ""
        elif noise_only:
            noisy = noise
        else:
            assert snr_db is not None
            noisy, _ = mix_at_snr(speech, noise, snr_db)

        if happens(cfg.p_narrowband, "narrowband"):
            sos = signal.butter(6, rng.uniform(3300, 3900), fs=SAMPLE_RATE, output="sos")
            noisy, clean = (_filter(sos, x) for x in (noisy, clean))
        if happens(cfg.p_level_change, "level_change"):
            envelope = _envelope(rng, n, 25.0)
            noisy, clean = noisy * envelope, clean * envelope
        level_dbfs = rng.uniform(*cfg.level_dbfs)
        level = active_level(noisy)
        gain = np.float32(10 ** (level_dbfs / 20) / level) if level > 0 else np.float32(0)
        noisy, clean = noisy * gain, clean * gain
        if happens(cfg.p_clipping, "clipping"):
            peak = np.abs(noisy).max() * rng.uniform(0.25, 0.9)
            noisy = np.clip(noisy, -peak, peak)
        if happens(cfg.p_dc_offset, "dc_offset"):
            noisy = noisy + np.float32(10 ** (level_dbfs / 20) * rng.uniform(-1, 1))
        if happens(cfg.p_dropout, "dropout"):
            start = int(rng.integers(0, n - n // 8))
            stretch = slice(start, start + int(rng.integers(n // 30, n // 3)))
            noisy, clean = noisy.copy(), clean.copy()
            noisy[stretch] = 0
            clean[stretch] = 0
        return Mixture(
            noisy=np.ascontiguousarray(noisy, np.float32),
            clean=np.ascontiguousarray(clean, np.float32),
            snr_db=snr_db,
            level_dbfs=level_dbfs,
            speaker="" if noise_only else talker.speaker,
            gender="" if noise_only else _gender(talker),
            language="" if noise_only else talker.language,
            category=category,
            noise_label=label,
            effects=tuple(effects),
        )

    @cached_property
    def genders(self) -> tuple[str, ...]:
        """Genders of the corpus's speakers, in alphabetical order."""
        return tuple(sorted({clip.gender for clip in self.corpus.speech} - {""}))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Categories that a noise may have, in alphabetical order."""
        recorded = {clip.category for clip in self.corpus.noise} - {""}
        computed = {SYNTHETIC_CATEGORY, ENGINE_CATEGORY, BABBLE_CATEGORY}
        if self.config.p_music:
            computed |= {MUSIC_CATEGORY}
        if self.config.p_imitation:
            computed |= set(KINDS)
        return tuple(sorted(recorded | computed))

    def numbers(self, gender: str, category: str) -> tuple[int, int]:
        """Places in `genders` and `categories`, -1 for what is not there."""
        named = (self.genders, gender), (self.categories, category)
        first, second = (names.index(name) if name in names else -1 for names, name in named)
        return first, second

    def voice(self, index: int) -> tuple[Samples, Samples, str]:
        """Voice number `index` by itself: clean target, speech as recorded, and gender."""
        rng = np.random.default_rng((self.seed, index, 1))
        talker = _pick(rng, self.corpus.speech, self._speech_weights)
        return *self._voice(rng, talker, self.config.samples, []), _gender(talker)

    def background(self, index: int) -> tuple[Samples, str]:
        """Noise number `index` by itself, at unit RMS, and its category."""
        rng = np.random.default_rng((self.seed, index, 2))
        noise, category, _ = self._background(rng, self.config.samples, [])
        return noise / np.float32(np.sqrt(np.mean(np.square(noise))) or 1.0), category

    def _voice(
        self, rng: np.random.Generator, talker: Clip, n: int, effects: list[str]
    ) -> tuple[Samples, Samples]:
        speech = self._talk(rng, talker, n, self.config)
        if rng.random() < self.config.p_speech_eq:
            speech = _equalise(rng, speech)
        if rng.random() < self.config.p_reverb:
            effects.append("reverb")
            return _reverberate(rng, speech)
        return speech, speech

    def _background(
        self, rng: np.random.Generator, n: int, effects: list[str]
    ) -> tuple[Samples, str, str]:
        noise, category, label = self._noise(rng, n, self.config)
        if rng.random() < self.config.p_noise_eq:
            noise = _equalise(rng, noise)
        if rng.random() < self.config.p_modulation:
            effects.append("modulation")
            noise = noise * _envelope(rng, n, 18.0)
        return noise, category, label

    def _talk(self, rng: np.random.Generator, talker: Clip, n: int, cfg: MixConfig) -> Samples:
        """`n` samples of one talker: utterances in random order with pauses between them."""
        speed = rng.uniform(0.85, 1.18) if rng.random() < cfg.p_speed else 1.0
        need = int(n * speed) + 64
        out = np.zeros(need, np.float32)
        at = int(rng.uniform(0, 0.35) * n) if rng.random() < cfg.p_leading_gap else 0
        clip, group = talker, self._by_speaker[talker.speaker or talker.corpus]
        # Enter the first utterance somewhere: an onset at the block's start would be learnt.
        skip = int(rng.integers(0, max(1, clip.frames - SAMPLE_RATE))) if at == 0 else 0
        while at < need:
            x = self.corpus.samples(clip)[skip : skip + need - at]
            out[at : at + len(x)] = x * (0.1 / max(active_level(x), 1e-4))
            at += len(x) + int(rng.uniform(0.05, 0.6) * SAMPLE_RATE)
            clip, skip = group[int(rng.integers(len(group)))], 0
        if speed != 1.0:
            out = soxr.resample(out, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")
        return out[:n]

    def _noise(self, rng: np.random.Generator, n: int, cfg: MixConfig) -> tuple[Samples, str, str]:
        parts: list[tuple[float, Samples, str, str]] = []
        for _ in range(2 if rng.random() < cfg.p_second_noise else 1):
            draw, computed = rng.random(), True
            if draw < cfg.p_synthetic or not self.corpus.noise:
                x, label = synthetic_noise(rng, n)
                category = ENGINE_CATEGORY if label == "engine" else SYNTHETIC_CATEGORY
            elif draw < cfg.p_synthetic + cfg.p_babble:
                x, category, label = self._babble(rng, n, cfg), BABBLE_CATEGORY, "babble"
                computed = False
            elif draw < cfg.p_synthetic + cfg.p_babble + cfg.p_imitation:
                x, category, label = imitation(rng, n)
            elif draw >= 1 - cfg.p_music:
                x, category, label = music(rng, n), MUSIC_CATEGORY, "music"
            else:
                x, category, label = self._recorded(rng, n)
                computed = False
            if computed and rng.random() < cfg.p_rolled_off:
                x = rolled_off(rng, x)
            rms = float(np.sqrt(np.mean(np.square(x)))) or 1.0
            gain = 10 ** (-rng.uniform(0, 12) / 20) if parts else 1.0
            parts.append((gain, x * np.float32(gain / rms), category, label))
        strongest = max(parts, key=lambda part: part[0])
        return np.sum([x for _, x, _, _ in parts], axis=0), strongest[2], strongest[3]

    def _recorded(self, rng: np.random.Generator, n: int) -> tuple[Samples, str, str]:
        clip = _pick(rng, self.corpus.noise, self._noise_weights)
        x = self.corpus.samples(clip)
        speed = rng.uniform(0.75, 1.33) if rng.random() < 0.35 else 1.0
        need = int(n * speed) + 64
        if len(x) >= need:
            start = int(rng.integers(0, len(x) - need + 1))
            x = x[start : start + need]
        else:
            # A short clip repeats with a random rest, as such events do, from a random start.
            rest = int(rng.uniform(0, 0.5) * SAMPLE_RATE) if rng.random() < 0.5 else 0
            x = np.concatenate([x, np.zeros(rest, np.float32)])
            x = np.roll(np.tile(x, need // len(x) + 1), int(rng.integers(len(x))))[:need]
        if speed != 1.0:
            x = soxr.resample(x, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")
        return x[:n], clip.category, clip.label

    def _babble(self, rng: np.random.Generator, n: int, cfg: MixConfig) -> Samples:
        """Several other talkers at once, slightly reverberant."""
        talkers = [
            _pick(rng, self.corpus.speech, self._speech_weights) for _ in range(rng.integers(3, 7))
        ]
        voices = [self._talk(rng, talker, n, cfg) for talker in talkers]
        gains = 10 ** (rng.uniform(-6, 0, len(voices)) / 20)
        return _reverberate(rng, np.tensordot(gains.astype(np.float32), voices, 1))[1]


def _gender(talker: Clip) -> str:
    """Of one known speaker: utterances of unknown ones follow each other, whoever they are."""
    return talker.gender if talker.speaker else ""


def synthetic_noise(rng: np.random.Generator, n: int) -> tuple[Samples, str]:
    """Noise that is computed: coloured, hum, engine, clicks, tone or hiss.

    Returns
    -------
    (n,) float32 and the kind's name. Level is arbitrary: the mixer sets it.
    """
    kind = ("coloured", "coloured", "hum", "engine", "clicks", "tones", "hiss")[rng.integers(7)]
    t = np.arange(n) / SAMPLE_RATE
    if kind == "coloured":
        x = coloured(rng, n, rng.uniform(-1.0, 2.2))
    elif kind == "hiss":
        x = coloured(rng, n, rng.uniform(-1.5, -0.5))
    elif kind == "hum":
        mains = rng.choice([50.0, 60.0]) * rng.uniform(0.99, 1.01)
        orders = np.arange(1, rng.integers(4, 30))
        gains = rng.uniform(0, 1, len(orders)) * orders ** -rng.uniform(0.3, 1.5)
        phases = rng.uniform(0, 2 * np.pi, len(orders))
        x = gains @ np.sin(2 * np.pi * mains * orders[:, None] * t + phases[:, None])
        x += 10 ** rng.uniform(-2.5, -0.5) * coloured(rng, n, 1.0)
    elif kind == "engine":
        x = engine(rng, n)
    elif kind == "clicks":
        x = np.zeros(n)
        for at in rng.integers(0, n, rng.integers(2, 60)):
            length = int(rng.integers(16, 800))
            burst = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5))
            x[at : at + length] += rng.uniform(0.2, 1) * burst[: n - at]
        x += 10 ** rng.uniform(-3, -1) * coloured(rng, n, 1.0)
    else:
        x = 0.02 * coloured(rng, n, 0.5)
        for _ in range(rng.integers(1, 4)):
            sweep = rng.uniform(-300, 300) * t**2 if rng.random() < 0.4 else 0.0
            wave = np.sin(2 * np.pi * (rng.uniform(150, 5000) * t + sweep))
            if rng.random() < 0.5:  # beeps
                wave *= (
                    signal.square(2 * np.pi * rng.uniform(0.5, 5) * t, rng.uniform(0.2, 0.8)) > 0
                )
            x += rng.uniform(0.2, 1) * wave
    return x.astype(np.float32), kind


def rolled_off(rng: np.random.Generator, x: Samples) -> Samples:
    """`x` without the end of its band, as after a resampler: half a kilohertz to fall in."""
    edge = rng.uniform(6800, 7600)
    size = fft.next_fast_len(len(x), real=True)
    gains = np.clip((edge - fft.rfftfreq(size, 1 / SAMPLE_RATE)) / 500 + 1, 0, 1)
    out: Samples = fft.irfft(fft.rfft(x, size) * gains.astype(np.float32), size)[: len(x)]
    return out.astype(np.float32, copy=False)


def _envelope(rng: np.random.Generator, n: int, depth_db: float) -> Samples:
    return (10 ** (0.5 * depth_db * smooth(rng, n, 1.0) / 20)).astype(np.float32)


def _equalise(rng: np.random.Generator, x: Samples) -> Samples:
    """One to three random peaking filters (RBJ cookbook), up to 8 dB each way."""
    sections = []
    for _ in range(rng.integers(1, 4)):
        w = 2 * np.pi * np.exp(rng.uniform(np.log(80), np.log(7000))) / SAMPLE_RATE
        gain, q = 10 ** (rng.uniform(-8, 8) / 40), rng.uniform(0.4, 1.5)
        alpha, cos = np.sin(w) / (2 * q), np.cos(w)
        b = np.array([1 + alpha * gain, -2 * cos, 1 - alpha * gain])
        a = np.array([1 + alpha / gain, -2 * cos, 1 - alpha / gain])
        sections.append(np.concatenate([b, a]) / a[0])
    return _filter(np.array(sections), x)


def _filter(sos: NDArray[np.float64], x: Samples) -> Samples:
    return signal.sosfilt(sos.astype(np.float32), x.astype(np.float32, copy=False))


def _reverberate(rng: np.random.Generator, x: Samples) -> tuple[Samples, Samples]:
    """Simulated room: (speech with early reflections only, fully reverberant speech).

    The tail is exponentially decaying noise, darker with time as walls absorb treble; the target
    keeps the first 30 ms, which hearing fuses with the direct sound.
    """
    rt60 = rng.uniform(0.1, 0.6)
    length = int(rt60 * SAMPLE_RATE)
    delay = int(rng.uniform(0.001, 0.02) * SAMPLE_RATE)
    t = np.arange(length) / SAMPLE_RATE
    tail = rng.standard_normal(length) * np.exp(-6.9 * t / rt60)
    b, a = signal.butter(1, rng.uniform(1500, 6000), fs=SAMPLE_RATE)
    tail = signal.lfilter(b, a, tail)
    tail *= 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt(np.sum(tail**2))
    rir = np.concatenate([np.zeros(delay), tail])
    rir[0] = 1.0
    early = rir.copy()
    early[int(0.03 * SAMPLE_RATE) :] = 0
    size = fft.next_fast_len(len(x) + len(rir), real=True)
    spectrum = fft.rfft(x, size)
    response = fft.rfft(np.stack([early, rir]).astype(np.float32), size)
    out = fft.irfft(spectrum * response, size)[:, : len(x)].astype(np.float32)
    return out[0], out[1]


def _cumulative(weights: list[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(np.asarray(weights, np.float64))
    return total / total[-1]


def _pick(rng: np.random.Generator, clips: list[Clip], cumulative: NDArray[np.float64]) -> Clip:
    return clips[int(np.searchsorted(cumulative, rng.random(), side="right"))]
