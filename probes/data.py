"""Long labelled streams of noisy speech to fit and score probes on.

A stream is made of scenes, each one noise excerpt under a few utterances with natural pauses.
Genders get the same speaking time and noise categories the same number of scenes, in random
order; recordings are not repeated before all of their class have been heard.
The signal-to-noise ratio changes with each scene and a little with each utterance. Some scenes
hold no speech, some no noise, and there are stretches of digital silence: what a probe will meet.
Streams to fit on may be varied (speed and colour of the noise, colour of the voice), since noise
recordings are few and a probe learns them by heart. They may also hold music, so that it is taken
neither for speech nor for one of the noises: a few computed instruments and drums, as there are no
recordings of music in our data.

Streams are a pure function of (corpus, minutes, seed) and lie decoded in the cache, as int16 that
is mapped into memory, with one label a frame beside them: ten hours take 2.3 GB of disk and little
memory. Targets of the clean and noisy signals are computed once, those of the enhanced signal once
a model. Splits of a corpus share no speaker and no recording, so their streams do not either.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import fft

from ..audio.corpus import Clip, Corpus
from ..audio.imitations import KINDS, imitation
from ..audio.lock import lock
from ..audio.mixing import MUSIC_CATEGORY as MUSIC
from ..audio.mixing import SYNTHETIC_CATEGORY, active_level, rolled_off, synthetic_noise
from ..audio.music import music
from ..audio.stft import HOP, SAMPLE_RATE
from ..models.engine import Engine
from ..models.stream import Stream
from . import targets

__all__ = [
    "LabelledStream",
    "Say",
    "Scene",
    "StreamConfig",
    "build_stream",
    "enhanced_targets",
    "scenes",
]

_VERSION = 10
"""Raised whenever the same configuration gives another stream."""

Float32 = NDArray[np.float32]
Say = Callable[[str], None]
_UTTERANCE_LEVEL = 0.05
"""RMS of active speech before a scene's gain (-26 dBFS)."""


@dataclass(frozen=True)
class StreamConfig:
    """How a stream is drawn; levels in dB, times in seconds, probabilities a scene.

    PESQ, which takes nearly all of the time, is computed on the first `pesq_minutes`.
    `p_synthetic` and `p_babble` are of the scenes in their category, `p_imitation` is for each of
    the kinds that `audio.imitations` has in it. `p_rolled_off` is of noises that have been through
    a resampler, as recordings at other rates. The default range of SNR gives quartiles of input
    SI-SDR like those of the paper's Table 1 (-1..10 dB).
    """

    minutes: float = 30.0
    seed: int = 0
    snr_db: tuple[float, float] = (-5.0, 15.0)
    utterance_snr_db: float = 3.0
    level_db: tuple[float, float] = (-12.0, 6.0)
    scene_s: tuple[float, float] = (6.0, 14.0)
    pause_s: tuple[float, float] = (0.15, 1.2)
    p_noise_only: float = 0.08
    p_clean: float = 0.06
    p_silence: float = 0.06
    p_synthetic: float = 0.6
    p_imitation: float = 0.0
    p_babble: float = 0.25
    p_varied: float = 0.0
    p_music: float = 0.0
    p_rolled_off: float = 0.0
    min_cleanliness: float = 0.3
    pesq_minutes: float = 30.0


@dataclass
class LabelledStream:
    """A stream and what is known about it.

    Attributes
    ----------
    clean, noise : (n,) int16 in memory maps, at 16 kHz; noisy is their sum.
    labels : name -> (L,) integers, -1 where unknown: ``gender``, ``language``, ``category`` into
        ``classes``; ``utterance`` (-1 in pauses) and ``scene`` as running numbers; ``noisy``, 1 in
        scenes with noise, 0 in others.
    targets : name -> (L,) float32 or bool of `probes.targets`.
    classes : label name -> class names.
    speakers : of each utterance.
    """

    folder: Path
    clean: NDArray[np.int16]
    noise: NDArray[np.int16]
    labels: dict[str, NDArray[np.int32]]
    classes: dict[str, list[str]]
    speakers: list[str]
    targets: dict[str, NDArray[Any]] = field(default_factory=dict)
    pesq_minutes: float = 30.0

    @property
    def frames(self) -> int:
        """Frames L."""
        return len(self.labels["scene"])

    def cut(self, frames: int) -> None:
        """Keep the first frames alone."""
        self.clean, self.noise = (x[: (frames - 1) * HOP] for x in (self.clean, self.noise))
        for tracks in (self.labels, self.targets):
            for name in tracks:
                tracks[name] = tracks[name][:frames]

    def align(self, classes: dict[str, list[str]]) -> None:
        """Renumber the labels by another stream's class names; what that lacks becomes unknown."""
        for name, mine in self.classes.items():
            theirs = classes[name]
            renumber = np.array([*(_index(theirs, word) for word in mine), -1], np.int32)
            self.labels[name] = renumber[self.labels[name]]
        self.classes = {name: list(words) for name, words in classes.items()}

    def blocks(self, seconds: float = 32.0) -> Iterator[tuple[Float32, Float32]]:
        """(clean, noisy) pieces in order, float32."""
        size = round(seconds * SAMPLE_RATE) // HOP * HOP
        for start in range(0, len(self.clean), size):
            clean = _decoded(self.clean[start : start + size])
            yield clean, clean + _decoded(self.noise[start : start + size])

    def whole(self) -> tuple[Float32, Float32]:
        """(clean, noisy) at once."""
        clean = _decoded(self.clean)
        return clean, clean + _decoded(self.noise)


def _decoded(x: NDArray[np.int16]) -> Float32:
    return x.astype(np.float32) * np.float32(1 / 32768)


class _Deck:
    """Draws without replacement, shuffled anew when all have been drawn."""

    def __init__(self, rng: np.random.Generator, items: list[Clip]):
        self._rng, self._items = rng, items
        self._left: list[int] = []

    def draw(self) -> Clip:
        if not self._left:
            self._left = self._rng.permutation(len(self._items)).tolist()
        return self._items[self._left.pop()]


@dataclass
class Scene:
    """One noise excerpt under a few utterances: float32 signals of one length."""

    clean: Float32
    noise: Float32
    category: str
    # first and last sample, clip
    utterances: list[tuple[int, int, Clip]]


class _Director:
    """Draws scenes."""

    def __init__(self, corpus: Corpus, config: StreamConfig):
        self.corpus, self.config = corpus, config
        self.rng = rng = np.random.default_rng((config.seed, 7))
        speech = [c for c in corpus.speech if c.weight >= config.min_cleanliness] or corpus.speech
        known = [clip for clip in speech if clip.gender]
        speech = known or speech
        self._voices = [
            _Deck(rng, [c for c in speech if c.gender == gender])
            for gender in sorted({clip.gender for clip in speech})
        ]
        self._spoken = np.zeros(len(self._voices))
        self._all = _Deck(rng, speech)
        noise = [clip for clip in corpus.noise if clip.category] or corpus.noise
        self._noises = {
            category: _Deck(rng, [c for c in noise if c.category == category])
            for category in sorted({clip.category for clip in noise})
        }
        self._turns: list[str] = []

    def _category(self) -> str:
        """Each category equally often, in random order."""
        if not self._turns:
            self._turns = self.rng.permutation(list(self._noises)).tolist()
        return self._turns.pop()

    def scene(self) -> Scene:
        rng, cfg = self.rng, self.config
        draw = rng.random()
        wanted = round(rng.uniform(*cfg.scene_s) * SAMPLE_RATE)
        clean: NDArray[Any] = np.zeros(0, np.float32)
        utterances: list[tuple[int, int, Clip]] = []
        if draw >= cfg.p_noise_only:
            clean, utterances = self._talk(wanted)
        n = max(len(clean), 0) or wanted
        n += -n % HOP
        clean = np.pad(clean, (0, n - len(clean)))
        if cfg.p_noise_only <= draw < cfg.p_noise_only + cfg.p_clean:
            category = ""
            noise: NDArray[Any] = np.zeros(n, np.float32)
            if rng.random() < 0.5:  # recordings are hardly ever free of a noise floor
                noise = (
                    10 ** (-rng.uniform(35, 60) / 20) * _UTTERANCE_LEVEL
                ) * rng.standard_normal(n)
        else:
            if rng.random() < cfg.p_music:
                category, noise = MUSIC, music(rng, n)
            else:
                category = self._category()
                noise = self._noise(category, n)
            gain = 10 ** (-rng.uniform(*cfg.snr_db) / 20) * _UTTERANCE_LEVEL
            noise = noise * (gain / max(active_level(noise), 1e-5))
        # Draws nothing without it: streams to score on stay as they were.
        if cfg.p_rolled_off and rng.random() < cfg.p_rolled_off:
            noise = rolled_off(rng, noise.astype(np.float32))
        gain = 10 ** (rng.uniform(*cfg.level_db) / 20)
        peak = float(np.abs(clean).max(initial=0) + np.abs(noise).max(initial=0)) * gain
        gain = gain if peak <= 0.99 else gain * 0.99 / peak
        if rng.random() < cfg.p_silence:
            gap = round(rng.uniform(0.5, 2.0) * SAMPLE_RATE) // HOP * HOP
            clean, noise = np.pad(clean, (0, gap)), np.pad(noise, (0, gap))
        return Scene(
            (clean * gain).astype(np.float32),
            (noise * gain).astype(np.float32),
            category,
            utterances,
        )

    def _talk(self, wanted: int) -> tuple[Float32, list[tuple[int, int, Clip]]]:
        rng, cfg = self.rng, self.config
        parts: list[Float32] = []
        utterances: list[tuple[int, int, Clip]] = []
        at = 0
        while at < wanted:
            # The gender heard less so far: utterances differ in length.
            gender = int(
                np.argmin(self._spoken + rng.uniform(0, 5 * SAMPLE_RATE, len(self._spoken)))
            )
            clip = self._voices[gender].draw()
            x = self.corpus.samples(clip)
            if rng.random() < cfg.p_varied / 2:
                x = _coloured(rng, x, 4.0)
            self._spoken[gender] += len(x)
            change = rng.uniform(-cfg.utterance_snr_db, cfg.utterance_snr_db)
            x = x * (_UTTERANCE_LEVEL * 10 ** (change / 20) / max(active_level(x), 1e-4))
            pause = round(rng.uniform(*cfg.pause_s) * SAMPLE_RATE)
            parts += [np.zeros(pause, np.float32), x]
            utterances.append((at + pause, at + pause + len(x), clip))
            at += pause + len(x)
        return np.concatenate(parts), utterances

    def _noise(self, category: str, n: int) -> Float32:
        rng, cfg = self.rng, self.config
        draw = rng.random()
        if category == SYNTHETIC_CATEGORY and draw < cfg.p_synthetic:
            return self._computed(n)
        if draw < cfg.p_imitation * len(KINDS.get(category, ())):
            return imitation(rng, n, category)[0]
        if category == "public" and draw < cfg.p_babble:
            return self._babble(n)
        x = _trimmed(self.corpus.samples(self._noises[category].draw()))
        if rng.random() < cfg.p_varied:
            speed = float(rng.uniform(0.8, 1.25))
            x = soxr.resample(x, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")
            x = _coloured(rng, x, 5.0)
        if len(x) >= n:
            start = int(rng.integers(0, len(x) - n + 1))
            x = x[start : start + n].copy()
        else:
            x = np.roll(np.tile(x, n // len(x) + 1), int(rng.integers(len(x))))[:n]
        ramp = np.minimum(1, np.arange(n) / 320).astype(np.float32)
        return x * ramp * ramp[::-1]

    def _computed(self, n: int) -> Float32:
        while True:
            x, kind = synthetic_noise(self.rng, n)
            if kind != "engine":  # is of another category
                return x

    def _babble(self, n: int) -> Float32:
        out = np.zeros(n, np.float32)
        for _ in range(self.rng.integers(4, 8)):
            at = -int(self.rng.integers(SAMPLE_RATE * 3))
            while at < n:
                x = self.corpus.samples(self._all.draw())
                x = x * (10 ** (self.rng.uniform(-6, 0) / 20) / max(active_level(x), 1e-4))
                low, high = max(at, 0), min(at + len(x), n)
                if high > low:
                    out[low:high] += x[low - at : high - at]
                at += len(x)
        return out


def scenes(corpus: Corpus, config: StreamConfig, count: int) -> Iterator[Scene]:
    """The first scenes of a stream by themselves."""
    director = _Director(corpus, config)
    for _ in range(count):
        yield director.scene()


def _trimmed(x: Float32) -> Float32:
    """Without the silence (50 dB below the active level) that some collections pad clips with."""
    size = SAMPLE_RATE // 50
    power = np.square(x[: len(x) // size * size]).reshape(-1, size).mean(axis=1)
    loud = np.flatnonzero(power > (active_level(x) * 10 ** (-50 / 20)) ** 2)
    if not len(loud) or loud[-1] - loud[0] < 10:
        return x
    return x[loud[0] * size : (loud[-1] + 1) * size]


def _coloured(rng: np.random.Generator, x: Float32, spread_db: float) -> Float32:
    """`x` through a smooth random response: normal gains in dB at octaves of 62.5 Hz to 8 kHz."""
    size = fft.next_fast_len(len(x), real=True)
    hertz = np.maximum(fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    gains = np.interp(np.log2(hertz / 62.5), np.arange(8), rng.normal(0, spread_db, 8))
    out: Float32 = fft.irfft(fft.rfft(x, size) * (10 ** (gains / 20)).astype(np.float32), size)
    return out[: len(x)].astype(np.float32)


def _heard(noise: Float32) -> NDArray[np.bool_]:
    """Frames within a second of which there is noise, not 30 dB less than usual: (L,).

    A bark every five seconds leaves stretches in which there is nothing to name.
    """
    power = targets.moving_average(np.square(targets.frame_rms(noise), dtype=np.float64), 125)
    return np.asarray(power > (active_level(noise) * 10 ** (-30 / 20)) ** 2, np.bool_)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynse"


def build_stream(
    corpus: Corpus,
    config: StreamConfig | None = None,
    *,
    jobs: int = 1,
    cache_dir: Path | None = None,
    say: Say = lambda text: None,
) -> LabelledStream:
    """Draw a stream and compute its model-independent targets, or find both in the cache.

    Parameters
    ----------
    corpus : one split.
    config : how to draw.
    jobs : worker processes, for PESQ.
    cache_dir : by default ``$XDG_CACHE_HOME/dynse``.
    say : told what takes long.

    Returns
    -------
    LabelledStream
        With the targets ``vad``, ``voiced``, ``f0_hz``, ``snr_input_db``, ``si_sdr_input_db`` and
        ``pesq_input``.
    """
    config = config or StreamConfig()
    clips = [(clip.path, clip.gender, clip.language, clip.category) for clip in
             (*corpus.speech, *corpus.noise)]  # fmt: skip
    minutes = float(config.minutes), float(config.pesq_minutes)  # 30 and 30.0 are one stream
    config = replace(config, minutes=minutes[0], pesq_minutes=minutes[1])
    key = hashlib.sha256(repr((_VERSION, corpus.cache.name, clips, config)).encode())
    folder = (cache_dir or _default_cache()) / f"stream-{key.hexdigest()[:16]}"
    with lock(folder.with_suffix(".lock")):  # another fit may be mixing it right now
        if not (folder / "about.json").is_file():
            say(f"mixing {config.minutes:g} min")
            _write(folder, corpus, config)
    about = json.loads((folder / "about.json").read_text())
    labels = dict(np.load(folder / "labels.npz"))
    vad = labels.pop("vad").astype(np.bool_)
    stream = LabelledStream(
        folder,
        np.load(folder / "clean.npy", mmap_mode="r"),
        np.load(folder / "noise.npy", mmap_mode="r"),
        labels,
        about["classes"],
        about["speakers"],
        {"vad": vad},
        config.pesq_minutes,
    )
    place = folder / "input.npz"
    if not place.is_file():
        clean, noisy = stream.whole()
        say("input: F0, SNR, SI-SDR")
        f0 = targets.fundamental(clean)
        f0[~vad] = 0
        found = {
            "f0_hz": f0,
            "snr_input_db": targets.snr(clean, noisy - clean),
            "si_sdr_input_db": targets.si_sdr_track(clean, noisy),
        }
        say(f"input: PESQ of {min(config.minutes, config.pesq_minutes) * 80:.0f} windows")
        found["pesq_input"] = _pesq(stream, clean, noisy, jobs)
        _save(place, found)
    stream.targets |= dict(np.load(place))
    stream.targets["voiced"] = stream.targets["f0_hz"] > 0
    return stream


def enhanced_targets(
    stream: LabelledStream, engine: Engine, *, jobs: int = 1, say: Say = lambda text: None
) -> None:
    """Add ``snr_enhanced_db``, ``si_sdr_enhanced_db``, ``pesq_enhanced``; cached by model.

    And ``scene_snr_enhanced_db`` and ``scene_si_sdr_enhanced_db``, of scenes as a whole.
    """
    place = stream.folder / f"enhanced-{engine.sha256[:16]}-3.npz"  # 3: of what it holds
    if not place.is_file():
        clean, noisy = stream.whole()
        say("enhancing")
        network = Stream(engine)
        enhanced = np.concatenate([network.feed(noisy), network.flush()])
        found = {
            "snr_enhanced_db": targets.snr(clean, enhanced - clean),
            "si_sdr_enhanced_db": targets.si_sdr_track(clean, enhanced),
        }
        whole = targets.of_scenes(clean, enhanced, stream.labels["scene"])
        found["scene_snr_enhanced_db"], found["scene_si_sdr_enhanced_db"] = whole
        say("enhanced: PESQ")
        found["pesq_enhanced"] = _pesq(stream, clean, enhanced, jobs)
        _save(place, found)
    stream.targets |= dict(np.load(place))


def _pesq(stream: LabelledStream, clean: Float32, estimate: Float32, jobs: int) -> Float32:
    """PESQ of the first minutes, NaN behind."""
    out = np.full(stream.frames, np.nan, np.float32)
    n = round(stream.pesq_minutes * 60 * SAMPLE_RATE) // HOP * HOP
    if n == 0:
        return out
    vad = np.asarray(stream.targets["vad"], np.bool_)[: n // HOP + 1]
    track = targets.pesq_track(clean[:n], estimate[:n], vad, jobs)
    out[: len(track)] = track
    return out


def _save(place: Path, arrays: dict[str, Float32]) -> None:
    with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".npz", delete=False) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(file.name, place)


def _index(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _write(folder: Path, corpus: Corpus, config: StreamConfig) -> None:
    """Write a stream's samples and labels into `folder`, whose about.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    n = round(config.minutes * 60 * SAMPLE_RATE) // HOP * HOP
    frames = n // HOP + 1
    classes = {
        "gender": sorted({clip.gender for clip in corpus.speech} - {""}),
        "language": sorted({clip.language for clip in corpus.speech} - {""}),
        "category": sorted(
            ({clip.category for clip in corpus.noise} | ({MUSIC} if config.p_music else set()))
            - {""}
        ),
    }
    names = ("gender", "language", "category", "utterance", "scene", "noisy")
    labels = {name: np.full(frames, -1, np.int32) for name in names}
    vad = np.zeros(frames, np.bool_)
    director = _Director(corpus, config)
    speakers: list[str] = []
    clean, noise = (
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.int16, shape=(n,))
        for name in ("clean", "noise")
    )
    at = number = 0
    while at < n:
        scene = director.scene()
        length = min(len(scene.clean), n - at)
        for array, x in ((clean, scene.clean), (noise, scene.noise)):
            array[at : at + length] = np.round(x[:length] * 32767)
        first, last = at // HOP, (at + length) // HOP + 1
        labels["scene"][first:last] = number
        labels["noisy"][first:last] = bool(scene.category)
        heard = _heard(scene.noise)[: last - first]
        number_of = _index(classes["category"], scene.category)
        labels["category"][first:last] = np.where(heard, number_of, -1)
        # Relative to each utterance's own level: a scene may hold a loud and a soft voice.
        for low, high, clip in scene.utterances:
            if at + low >= n:
                break
            a, b = first + low // HOP, min(first + -(-high // HOP) + 1, frames)
            pad = low - low // HOP * HOP
            part = np.pad(scene.clean[low:high], (pad, HOP))
            active = targets.voice_activity(part, active_level(scene.clean[low:high]))
            vad[a:b] |= active[: b - a]
            labels["utterance"][a:b] = len(speakers)
            labels["gender"][a:b] = _index(classes["gender"], clip.gender)
            labels["language"][a:b] = _index(classes["language"], clip.language)
            speakers.append(clip.speaker or clip.corpus)
        at += length
        number += 1
    del clean, noise  # written to disk
    np.savez_compressed(folder / "labels.npz", vad=vad, **labels)  # type: ignore[arg-type]
    text = json.dumps({"classes": classes, "speakers": speakers})
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(text.encode())
    os.replace(file.name, folder / "about.json")
