"""How often the probes say too much, and how often too little.

    python -m benchmarks.confidence DATA/ [--exclude CORPUS ...] [--readme]

Too much: figures (SNR, PESQ, F0, ...) where nobody speaks, a wrong gender, a wrong name for the
noise. Too little: a voice of which nothing is said. Counted are

* recordings of noise alone, the first 20 s of each, of the splits "valid" and "test",
* scenes of the probes' validation stream (-5 to 15 dB),
* four seconds of a validation voice with computed music, and with noise of the split,
* the same, in the midst of 40 s of noise.

The last three at -5, 0, 5, 10, 15 and 20 dB, 40 mixtures each, a function of a seed. Thresholds of
`probes.reading` are chosen on "valid"; "test" is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynse.audio.corpus import Corpus, load_corpus
from dynse.audio.mixing import mix_at_snr
from dynse.audio.music import music
from dynse.audio.stft import SAMPLE_RATE
from dynse.models.checkpoint import SHIPPED
from dynse.models.engine import load
from dynse.probes.data import StreamConfig, scenes
from dynse.probes.probe_file import load_shipped

from .instruments import read, said
from .readme import renew, table

SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
MIXTURES = 40
SCENES = 200
_VOICE_S, _LONG_S = 4, 40

Float32 = NDArray[np.float32]


class Sound(NamedTuple):
    """A sound and what is true of it."""

    group: str
    samples: Float32
    speaks: bool
    gender: str | None = None
    category: str | None = None


def sounds(valid: Corpus, test: Corpus, seed: int = 3) -> Iterator[Sound]:
    """All of them, one by one."""
    for split, corpus in (("valid", valid), ("test", test)):
        for clip in corpus.noise:
            x = corpus.samples(clip)[: 20 * SAMPLE_RATE]
            if len(x) >= 2 * SAMPLE_RATE:
                yield Sound(f"noise alone, {split}", x, False, None, clip.category)
    config = StreamConfig(seed=seed, p_noise_only=0.0, p_clean=0.0)
    for scene in scenes(valid, config, SCENES):
        yield Sound("scenes, valid", scene.clean + scene.noise, True, None, scene.category)
    rng = np.random.default_rng(seed)
    voices = [clip for clip in valid.speech if clip.gender]
    noises = [clip for clip in valid.noise if clip.category]
    for snr_db in SNRS_DB:
        for _ in range(MIXTURES):
            clip = voices[rng.integers(len(voices))]
            voice = valid.samples(clip)[: _VOICE_S * SAMPLE_RATE]
            noise = valid.samples(noises[rng.integers(len(noises))])
            behind = {
                "voice over music": music(rng, len(voice)),
                "voice over noise": np.resize(noise, len(voice)),
            }
            for group, other in behind.items():
                mixed = 0.1 * mix_at_snr(voice, other, snr_db)[0]
                yield Sound(group, mixed, True, clip.gender)
            at = 10 * SAMPLE_RATE
            sparse = np.zeros(_LONG_S * SAMPLE_RATE, np.float32)
            sparse[at : at + len(voice)] = voice
            mixed = 0.1 * mix_at_snr(sparse, np.resize(noise, len(sparse)), snr_db)[0]
            yield Sound("4 s of voice in 40 s of noise", mixed, True, clip.gender)


def counts(rows: list[tuple[Sound, dict[str, object]]]) -> list[str]:
    """Sounds, figures withheld or given wrongly, genders right / wrong, names right / wrong."""
    speaks = rows[0][0].speaks
    figures = sum(bool(found["figures"]) for _, found in rows)
    told = [f"{len(rows) - figures} without" if speaks else f"{figures} with"]
    for truth, key in (("gender", "gender"), ("category", "noise")):
        known = [(getattr(s, truth), found[key]) for s, found in rows if getattr(s, truth)]
        right = sum(name == label for name, label in known)
        wrong = sum(label not in (None, name) for name, label in known)
        told.append(f"{right} / {wrong}" if known else "")
    return [str(len(rows)), *told]


def main() -> None:
    """Read, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--readme", action="store_true", help="renew the table of the README")
    options = parser.parse_args()
    valid, test = (
        load_corpus(options.data, split, exclude=tuple(options.exclude))
        for split in ("valid", "test")
    )
    engines = [load(name) for name in SHIPPED]
    probes = [load_shipped(engine.name, engine.sha256) for engine in engines]
    found: dict[str, list[list[tuple[Sound, dict[str, object]]]]] = {}
    for sound in sounds(valid, test):
        columns = found.setdefault(sound.group, [[] for _ in engines])
        bare = sound._replace(samples=np.zeros(0, np.float32))
        for column, engine, reader in zip(columns, engines, probes, strict=True):
            column.append((bare, said(read(engine, reader, sound.samples))))
    lines = [
        [group, f"`{engine.name}`", *counts(column)]
        for group, columns in found.items()
        for engine, column in zip(engines, columns, strict=True)
    ]
    heads = ["", "", "sounds", "figures of speech", "gender right / wrong", "noise right / wrong"]
    text = table(heads, lines)
    print(text)
    if options.readme:
        renew({"confidence": text})


if __name__ == "__main__":
    main()
