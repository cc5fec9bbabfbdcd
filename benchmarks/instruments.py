"""What the probes say of music that nobody sings in, played by sampled instruments.

    pip install --no-deps tinysoundfont pretty_midi    # the latter brings a font, TimGM6mb.sf2
    python -m benchmarks.instruments FONT.sf2 [--model NAME|FILE] [--probes FILE] [--json FILE]

120 solos, one by each instrument of General MIDI but the sound effects, and 60 bands of melody,
chords and bass, most with drums, 9 s each; a function of a seed. Whatever is said of speech in them
is wrong, and so is the name of a noise. Neither the networks nor the probes have met the font: the
music that they learn from is computed (`audio/music.py`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from dynse.audio.stft import SAMPLE_RATE
from dynse.models.checkpoint import DEFAULT
from dynse.models.engine import Engine, load
from dynse.models.stream import Stream
from dynse.probes.probe_file import Probes, load_probes, load_shipped
from dynse.probes.reading import ProbeReader, Reading

from .readme import table

SEED, SECONDS, FONT_RATE = 2, 9.0, 44100
FAMILIES = (
    "piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic", "percussive",
)  # fmt: skip
"""Of eight programs each."""
BANDS = 60
_DRUMS = 9
_SCALE = (0, 2, 4, 5, 7, 9, 11)
_MELODY = (0, 4, 24, 25, 40, 56, 65, 66, 68, 71, 73, 80, 11, 22)
_CHORDS = (0, 16, 24, 48, 50, 89, 27, 6)
_BASS = (32, 33, 34, 35, 38, 43)

Event = tuple[float, bool, int, int, int]
"""Time in s, whether a note begins (or ends), channel, key, velocity."""


def line(
    rng: np.random.Generator, channel: int, root: int, beat: float, chords: bool, legato: float
) -> list[Event]:
    """A melody in small steps from the key `root` on, or its triads."""
    events: list[Event] = []
    at, degree = 0.0, int(rng.integers(0, 7))
    while at < SECONDS - 0.1:
        length = beat * float(rng.choice([0.5, 1, 1, 2]))
        degree = int(np.clip(degree + rng.integers(-2, 3), -2, 9))
        velocity = int(rng.integers(70, 115))
        if rng.random() > 0.12:
            for step in (degree, degree + 2, degree + 4) if chords else (degree,):
                key = root + 12 * (step // 7) + _SCALE[step % 7]
                end = min(at + length * legato, SECONDS - 0.01)
                events += [(at, True, channel, key, velocity), (end, False, channel, key, 0)]
        at += length
    return events


def drums(beat: float) -> list[Event]:
    """Bass drum and snare in turns under a cymbal."""
    events: list[Event] = []
    for number, at in enumerate(np.arange(0, SECONDS - 0.1, beat / 2).tolist()):
        for key in {0: (42, 36), 2: (42, 38)}.get(number % 4, (42,)):
            events += [(at, True, _DRUMS, key, 100), (at + 0.1, False, _DRUMS, key, 0)]
    return events


def pieces(seed: int = SEED) -> dict[str, tuple[dict[int, int], list[Event]]]:
    """Name -> program of each channel, and the notes."""
    found: dict[str, tuple[dict[int, int], list[Event]]] = {}
    for program in range(8 * len(FAMILIES)):
        rng = np.random.default_rng((seed, program))
        low = FAMILIES[program // 8] == "bass"
        root = int(rng.choice([28, 33, 36] if low else [36, 43, 48, 55, 60]))
        beat, legato = rng.uniform(0.3, 0.7), float(rng.choice([0.5, 0.95]))
        notes = line(rng, 0, root, beat, not low and rng.random() < 0.3, legato)
        found[f"{FAMILIES[program // 8]}/{program}"] = {0: program}, notes
    for number in range(BANDS):
        rng = np.random.default_rng((seed, 1000 + number))
        beat, root = rng.uniform(0.35, 0.7), int(rng.integers(53, 62))
        programs = {k: int(rng.choice(x)) for k, x in enumerate((_MELODY, _CHORDS, _BASS))}
        notes = line(rng, 0, root + 12 * int(rng.integers(2)), beat, False, 0.9)
        notes += line(rng, 1, root, 2 * beat, True, 1.0)
        notes += line(rng, 2, root - 24, beat, False, 0.8)
        if rng.random() < 0.6:
            notes += drums(beat)
        found[f"band/{number}"] = programs, notes
    return found


def play(font: Path, programs: dict[int, int], events: list[Event]) -> NDArray[np.float32]:
    """(n,) at 16 kHz, with a peak of 0.4."""
    import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=FONT_RATE)
    bank = synth.sfload(str(font))
    for channel, program in programs.items():
        synth.program_select(channel, bank, 0, program)
    synth.program_select(_DRUMS, bank, 128, 0, True)
    parts, now = [], 0
    for at, begins, channel, key, velocity in [*sorted(events), (SECONDS, False, 0, 0, 0)]:
        until = round(at * FONT_RATE)
        if until > now:
            parts.append(np.frombuffer(bytes(synth.generate(until - now)), np.float32).copy())
            now = until
        if begins:
            synth.noteon(channel, key, velocity)
        else:
            synth.noteoff(channel, key)
    sound = np.concatenate(parts).reshape(-1, 2).mean(axis=1)
    sound = soxr.resample(sound, FONT_RATE, SAMPLE_RATE)
    return np.asarray(0.4 * sound / max(np.abs(sound).max(), 1e-6), np.float32)


def read(engine: Engine, probes: Probes, sound: NDArray[np.float32]) -> Reading:
    """What `dynse probe` would."""
    reader = ProbeReader(probes, engine, tracks=False)
    stream = Stream(engine, listener=reader)
    stream.feed(sound)
    stream.flush()
    return reader.finish(len(sound) / SAMPLE_RATE)


def said(reading: Reading) -> dict[str, Any]:
    """Of one piece: the share taken for speech, what was kept back, and what was said."""
    return {
        "speech": reading.speech_ratio,
        "doubtful": reading.doubtful,
        "snr_db": reading.values.get("snr_input_db"),
        "figures": any(value is not None for value in reading.values.values()),
        "gender": reading.classes.get("gender", (None, {}))[0],
        "noise": reading.classes.get("category", (None, {}))[0],
    }


def tables(rows: dict[str, dict[str, Any]]) -> str:
    """By family: how many sound like speech in places, get figures, a gender, a noise's name."""
    lines = []
    for family in (*FAMILIES, "band", ""):
        some = [row for name, row in rows.items() if name.startswith(family)]
        counts = [
            len(some),
            sum((row["speech"] or 0) > 0.1 for row in some),
            *(sum(bool(row[key]) for row in some) for key in ("figures", "gender", "noise")),
        ]
        lines.append([family or "**all**", *map(str, counts)])
    heads = ["music by", "pieces", "speech in over a tenth", "figures", "gender", "noise named"]
    return table(heads, lines)


def main() -> None:
    """Play, read and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("font", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--probes", type=Path, help="by default those shipped for the model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, help="write what was said of each piece here")
    options = parser.parse_args()
    engine = load(options.model)
    given = options.probes
    probes = load_probes(given) if given else load_shipped(engine.name, engine.sha256)
    rows = {
        name: said(read(engine, probes, play(options.font, programs, events)))
        for name, (programs, events) in pieces(options.seed).items()
    }
    print(tables(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
