"""What a model and its probes make of sound they were not made for: the known failures, measured.

    python -m benchmarks.failures TEST/ [--model NAME|FILE] [--probes FILE] [--json FILE] [--readme]

TEST/ holds ``clean/``, ``noisy/`` and ``test.csv`` (name, noise_category, speaker, gender). 24 of
its recordings, by as many speakers as there are, meet each of `CONDITIONS`, the first of which only
sets the SNR. All is a function of a seed. For reporting only: nothing may be chosen by it.

Whispering and music are made here. Whispered is speech that WORLD (`pyworld`) synthesises again
with noise for glottal pulses; true whispering, of which the data has none, also has a flatter
spectrum and raised formants. Music is plucked notes over chords, without voice and drums.
"""

from __future__ import annotations

import argparse
import csv
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from dynse.audio.metrics import package, si_sdr
from dynse.audio.mixing import active_level, mix_at_snr
from dynse.audio.stft import SAMPLE_RATE
from dynse.audio.telephone import TELEPHONE_RATE, telephone_line
from dynse.models.checkpoint import DEFAULT
from dynse.models.engine import Engine, load
from dynse.models.evaluation import METRICS, load_mono, score
from dynse.models.stream import enhance
from dynse.probes.probe_file import Probes, load_probes, load_shipped
from dynse.probes.reading import HOP_S, ProbeReader
from dynse.probes.targets import frame_rms, fundamental, voice_activity

from .readme import renew, table

Samples = NDArray[np.float32]

SEED, FILES, SNR_DB = 0, 24, 10.0
REVERBERATION_S, CLIPPING_DB = 1.0, -12.0


@dataclass(frozen=True)
class Source:
    """A talker and a noise of the test set, (n,) each at 16 kHz, and who and what they are."""

    clean: Samples
    noise: Samples
    speaker: str
    gender: str
    category: str


@dataclass(frozen=True)
class Take:
    """A recording under some condition, and what is true of it.

    Attributes
    ----------
    heard : (n,) what dynse is given, at `rate`.
    reference : what the output is scored against; None where there is nothing to keep.
    speech : whose activity is the truth of voice activity; None: nobody speaks.
    noise : the part of `heard` that SNR counts as noise; None: there is no SNR.
    pitch : whose F0 is the truth; None: there is none to read.
    gender, category : names that are right; "" where any name is wrong.
    rate : of `heard`, Hz; all else is at 16 kHz.
    """

    heard: Samples
    reference: Samples | None
    speech: Samples | None
    noise: Samples | None
    pitch: Samples | None
    gender: str
    category: str
    rate: int = SAMPLE_RATE


Builder = Callable[[np.random.Generator, Source, Source], Take]


def control(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """Noise at 10 dB, nothing else."""
    noisy, noise = mix_at_snr(one.clean, one.noise, SNR_DB)
    return Take(noisy, one.clean, one.clean, noise, one.clean, one.gender, one.category)


def telephone(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """Noise at 10 dB, 300 to 3400 Hz, mu-law at 8 kHz; the reference the same without noise."""
    noisy, _ = mix_at_snr(one.clean, one.noise, SNR_DB)
    gain = np.float32(0.5 / np.abs(noisy).max())
    heard, clean = (telephone_line(gain * x) for x in (noisy, one.clean))
    reference = to_model_rate(clean, TELEPHONE_RATE)
    noise = to_model_rate(heard, TELEPHONE_RATE) - reference
    words = (one.gender, one.category)
    return Take(heard, reference, reference, noise, one.clean, *words, TELEPHONE_RATE)


def whispering(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """Speech made whisper by WORLD, noise at 10 dB; the reference is the whisper."""
    spoken = whispered(one.clean)
    noisy, noise = mix_at_snr(spoken, one.noise, SNR_DB)
    return Take(noisy, spoken, spoken, noise, None, one.gender, one.category)


def overlapping_talkers(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """A second talker at 0 dB, no noise; the reference is the first. Two genders have no name."""
    second = np.resize(other.clean, len(one.clean))
    second = second * np.float32(active_level(one.clean) / active_level(second))
    both = one.clean + second
    gender = one.gender if one.gender == other.gender else ""
    return Take(both, one.clean, both, second, one.clean, gender, "")


def music_alone(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """Plucked notes over chords, nobody speaks: whatever a probe names is wrong."""
    return Take(tune(rng, len(one.clean)), None, None, None, None, "", "")


def music_behind_speech(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """Speech over such music at 10 dB; no category is the right one."""
    noisy, noise = mix_at_snr(one.clean, tune(rng, len(one.clean)), SNR_DB)
    return Take(noisy, one.clean, one.clean, noise, one.clean, one.gender, "")


def reverberation(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """A room of T60 1 s, tail as strong as direct sound, noise at 10 dB; the reference is dry."""
    t = np.arange(int(REVERBERATION_S * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(t)) * 10 ** (-3 * t / REVERBERATION_S)
    response /= np.sqrt(np.sum(response**2))
    response[0] = 1.0
    wet = signal.fftconvolve(one.clean, response)[: len(one.clean)].astype(np.float32)
    noisy, noise = mix_at_snr(wet, one.noise, SNR_DB)
    return Take(noisy, one.clean, one.clean, noise, one.clean, one.gender, one.category)


def clipping(rng: np.random.Generator, one: Source, other: Source) -> Take:
    """Noise at 10 dB, clipped 12 dB below the peak; the reference is not clipped."""
    noisy, noise = mix_at_snr(one.clean, one.noise, SNR_DB)
    limit = np.abs(noisy).max() * 10 ** (CLIPPING_DB / 20)
    words = (one.gender, one.category)
    return Take(noisy.clip(-limit, limit), one.clean, one.clean, noise, one.clean, *words)


CONDITIONS: tuple[Builder, ...] = (
    *(control, telephone, whispering, overlapping_talkers),
    *(music_alone, music_behind_speech, reverberation, clipping),
)


def whispered(x: Samples) -> Samples:
    """`x` (n,) with its spectral envelope, but excited by noise alone; as loud as it was."""
    world = package("pyworld")
    speech = x.astype(np.float64)
    f0, time = world.dio(speech, SAMPLE_RATE)
    f0 = world.stonemask(speech, f0, time, SAMPLE_RATE)
    envelope = world.cheaptrick(speech, f0, time, SAMPLE_RATE)
    out = world.synthesize(np.zeros_like(f0), envelope, np.ones_like(envelope), SAMPLE_RATE)
    out = np.pad(out, (0, max(len(x) - len(out), 0)))[: len(x)].astype(np.float32)
    return out * np.float32(active_level(x) / max(active_level(out), 1e-9))


def tune(rng: np.random.Generator, n: int) -> Samples:
    """`n` samples of plucked strings: a melody of two notes a second, a chord every two."""
    out = np.zeros(n)
    key = 110 * 2 ** (rng.integers(12) / 12)
    for beat in range(-(-2 * n // SAMPLE_RATE)):
        root = (0, 9, 5, 7)[beat // 4 % 4]
        notes = [root + 12 + (0, 2, 4, 7, 9, 12)[rng.integers(6)]]
        if beat % 4 == 0:
            notes += [root, root + (3 if root == 9 else 4), root + 7]
        t = np.arange(n - beat * SAMPLE_RATE // 2) / SAMPLE_RATE
        for note in notes:
            w = 2 * np.pi * key * 2 ** (note / 12)
            for k in range(1, 9):
                out[n - len(t) :] += np.exp(-t * (1.2 + 0.8 * k)) / k * np.sin(w * k * t)
    return (0.1 * out / np.abs(out).max()).astype(np.float32)


def to_model_rate(x: Samples, rate: int) -> Samples:
    """(n,) at `rate` -> at 16 kHz."""
    return x if rate == SAMPLE_RATE else soxr.resample(x, rate, SAMPLE_RATE).astype(np.float32)


def sources(test: Path) -> list[Source]:
    """FILES recordings in random order, one of each speaker before the second of any."""
    with (test / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [rows[at] for at in np.random.default_rng(SEED).permutation(len(rows))]
    speakers = [row["speaker"] for row in rows]
    turns = [speakers[:at].count(speaker) for at, speaker in enumerate(speakers)]
    found = []
    for at in np.argsort(turns, kind="stable")[:FILES]:
        row = rows[at]
        clean, noisy = (load_mono(test / side / row["name"]) for side in ("clean", "noisy"))
        words = (row["speaker"], row["gender"], row["noise_category"])
        found.append(Source(clean, noisy - clean, *words))
    return found


def measure(test: Path, engine: Engine, probes: Probes) -> dict[str, Any]:
    """All figures, rounded, as plain values."""
    talkers = sources(test)
    report: dict[str, Any] = {
        "model": {"name": engine.name, "sha256": engine.sha256},
        "probes": {"name": probes.name, "sha256": probes.sha256},
        "conditions": {},
    }
    for build in CONDITIONS:
        rows = []
        for number, one in enumerate(talkers):
            others = [x for x in talkers if x.speaker != one.speaker]
            rng = np.random.default_rng((SEED, number))
            take = build(rng, one, others[rng.integers(len(others))])
            rows.append(observe(engine, probes, take))
        name, what = build.__name__.replace("_", " "), build.__doc__
        report["conditions"][name] = {"what": what, **summarise(rows)}
    return report


def observe(engine: Engine, probes: Probes, take: Take) -> dict[str, Any]:
    """Scores of one recording, and what its probes say beside the truth; None: undefined."""
    reader = ProbeReader(probes, engine)
    out = enhance(engine, take.heard, take.rate, listener=reader)
    reading = reader.finish(len(take.heard) / take.rate)
    heard, enhanced = (to_model_rate(x, take.rate) for x in (take.heard, out))
    power, left = (float(np.mean(np.square(x))) for x in (heard, enhanced))
    found: dict[str, Any] = {
        "utilisation": reading.utilisation,
        "removed_db": 10 * np.log10(power / max(left, 1e-12)),
        "si_sdr_to_input_db": si_sdr(heard, enhanced),
    }
    for side, x in (("noisy", heard), ("enhanced", enhanced)):
        scores = dict.fromkeys(METRICS) if take.reference is None else score(take.reference, x)
        found |= {f"{side}.{metric}": value for metric, value in scores.items()}
    said = np.zeros(reading.frames, np.bool_)
    for segment in reading.segments:
        said[int(np.ceil(segment.start_s / HOP_S)) : int(np.ceil(segment.end_s / HOP_S))] = True
    speaks = voice_activity(np.zeros_like(heard) if take.speech is None else take.speech)
    # At 8 kHz the resamplers of `enhance` and of this file may differ by a sample, thus a frame.
    true = np.zeros(reading.frames, np.bool_)
    true[: len(speaks)] = speaks[: len(true)]
    found["vad_accuracy"] = float(np.mean(said == true))
    found["speech_read"], found["speech_true"] = float(said.mean()), float(true.mean())
    found["snr_read_db"] = reading.values["snr_input_db"]
    found["snr_true_db"] = found["snr_error_db"] = None
    if take.noise is not None:
        parts = (heard - take.noise, take.noise)
        kept, noise = (np.linalg.norm(frame_rms(x)[speaks]) for x in parts)
        found["snr_true_db"] = true_db = float(20 * np.log10(kept / noise))
        if found["snr_read_db"] is not None:
            found["snr_error_db"] = abs(found["snr_read_db"] - true_db)
    for name, right in (("gender", take.gender), ("category", take.category)):
        label = reading.classes[name][0]
        found[name] = "unnamed" if label is None else "right" if label == right else "wrong"
    read = reading.values["f0_median"]
    found["f0_given"], found["f0_error"] = float(read is not None), None
    if take.pitch is not None and read is not None:
        f0 = fundamental(take.pitch)
        found["f0_error"] = abs(read / np.median(f0[f0 > 0]) - 1)
    return found


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over recordings, of the error of F0 the median, of names how many were what."""
    found: dict[str, Any] = {"files": len(rows), "noisy": {}, "enhanced": {}, "probes": {}}
    whole = ("utilisation", "removed_db", "si_sdr_to_input_db")
    for key in rows[0]:
        side, _, metric = key.partition(".")
        place = found[side] if metric else found if key in whole else found["probes"]
        column = [row[key] for row in rows if row[key] is not None]
        if key in ("gender", "category"):
            place[key] = {word: column.count(word) for word in ("right", "wrong", "unnamed")}
        else:
            mean = np.median if key == "f0_error" else np.mean
            place[metric or key] = round(float(mean(column)), 3) if column else None
    return found


def tables(report: dict[str, Any]) -> str:
    """The conditions, the scores, and what the probes read."""
    meanings, sound, read = [], [], []
    for name, part in report["conditions"].items():
        p, before, after = part["probes"], part["noisy"], part["enhanced"]
        meanings.append(textwrap.fill(f"* **{name}**: {part['what']}", 100, subsequent_indent="  "))
        scores = (
            "–" if after[m] is None else f"{before[m]:.{d}f} → {after[m]:.{d}f}"
            for m, d in (("pesq", 2), ("estoi", 3), ("si_sdr_db", 1))
        )
        rest = ((part["si_sdr_to_input_db"], 1), (part["removed_db"], 1), (part["utilisation"], 2))
        sound.append((name, *scores, *(_number(*x) for x in rest)))
        cells = (
            f"{p['speech_read']:.2f} ({p['speech_true']:.2f})",
            f"{p['vad_accuracy']:.3f}",
            f"{_number(p['snr_read_db'], 1)} ({_number(p['snr_true_db'], 1)})",
            _number(p["snr_error_db"], 1),
            *(" / ".join(map(str, p[key].values())) for key in ("gender", "category")),
            f"{_number(p['f0_error'], 2)} ({p['f0_given']:.2f})",
        )
        read.append((name, *cells))
    head = ("noisy → enhanced", "WB-PESQ", "ESTOI", "SI-SDR dB", "SI-SDR to the input dB")
    said = ("probes", "speech (true)", "VAD accuracy", "SNR dB (true)", "SNR error dB", "gender")
    first = table((*head, "removed dB", "utilisation"), sound)
    second = table((*said, "noise", "F0 relative error (given)"), read)
    return "\n\n".join(("\n".join(meanings), first, second))


def _number(x: float | None, digits: int) -> str:
    return "–" if x is None else f"{x:.{digits}f}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("test", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--probes", type=Path, help="by default those shipped for the model")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--readme", action="store_true", help="renew the tables of README.md")
    options = parser.parse_args()
    engine = load(options.model)
    given = options.probes
    probes = load_probes(given) if given else load_shipped(engine.name, engine.sha256)
    report = measure(options.test, engine, probes)
    print(tables(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if options.readme:
        renew({"failures": tables(report)})


if __name__ == "__main__":
    main()
