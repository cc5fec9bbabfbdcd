"""What reading the probes adds to the time of `dynse enhance`.

    python -m benchmarks.reading_cost

Two enhancers in one process, one of which has its probes read, take block after block in turns, and
of each block the median time over the rounds counts: what else the machine does hits both alike,
where two whole runs after each other differ by more than reading costs. That is what reading takes,
beside the loading of its code and weights. It is compared with the enhancement alone, samples in,
samples out, and with the command, which also starts, reads and writes files (median of its runs).
Samples of the repository, repeated to 2 and to 60 minutes; one thread.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from dynse.audio.stft import SAMPLE_RATE
from dynse.models.engine import Engine, load
from dynse.models.evaluation import load_mono
from dynse.models.stream import Enhancer

if TYPE_CHECKING:
    from dynse.probes.probe_file import Probes

NOISY = Path(__file__).resolve().parent.parent / "samples" / "noisy"
BLOCK = SAMPLE_RATE
MINUTES_AND_ROUNDS = ((2, 61), (60, 5))


def main() -> None:
    """Measure and print."""
    engine = load()
    probes, loading = _load(engine)
    samples = np.concatenate([load_mono(path) for path in sorted(NOISY.glob("*.wav"))])
    for minutes, rounds in MINUTES_AND_ROUNDS:
        sound = np.resize(samples, minutes * 60 * SAMPLE_RATE)[:, None]
        blocks = [sound[at : at + BLOCK] for at in range(0, len(sound), BLOCK)]
        spent = np.array([_round(engine, probes, blocks) for _ in range(rounds)])  # (R, 2, calls)
        plain, both = np.median(spent, axis=0).sum(axis=1)
        command = _command(sound, rounds if minutes > 10 else 15)
        print(
            f"{minutes} min: reading {1e3 * (both - plain):.1f} ms and loading it"
            f" {1e3 * loading:.1f} ms: {both / plain - 1:.1%} of {plain:.3f} s of enhancement,"
            f" with loading {(both - plain + loading) / command:.1%} of {command:.2f} s of"
            " the command"
        )


def _load(engine: Engine) -> tuple[Probes, float]:
    """Probes, and the seconds to import what reads them, to load them and to get ready."""
    started = time.perf_counter()
    from dynse.probes import reading
    from dynse.probes.probe_file import load_shipped

    probes = load_shipped(engine.name, engine.sha256)
    reading.ProbeReader(probes, engine, tracks=False)
    return probes, time.perf_counter() - started


def _round(engine: Engine, probes: Probes, blocks: list[Any]) -> list[list[float]]:
    """Seconds without and with reading, of each call: both lists are as long as each other."""
    from dynse.probes.reading import ProbeReader

    spent: list[list[float]] = [[], []]

    def timed(which: int, what: Callable[..., Any], *given: Any) -> Any:
        started = time.perf_counter()
        found = what(*given)
        spent[which].append(time.perf_counter() - started)
        return found

    reader = timed(1, partial(ProbeReader, probes, engine, tracks=False))
    enhancers = [Enhancer(engine, SAMPLE_RATE, 1, listener=x) for x in (None, reader.update)]
    for number, block in enumerate(blocks):
        for which in (0, 1) if number % 2 else (1, 0):
            timed(which, enhancers[which].feed, block)
    for which in (0, 1):
        timed(which, enhancers[which].flush)
    timed(1, reader.finish)
    spent[0] += [0.0, 0.0]
    return spent


def _command(sound: Any, runs: int) -> float:
    """Median seconds of `dynse enhance` of a file with this sound."""
    took = []
    with tempfile.TemporaryDirectory() as folder:
        noisy, enhanced = Path(folder) / "noisy.wav", Path(folder) / "enhanced.wav"
        soundfile.write(noisy, sound, SAMPLE_RATE)
        command = [sys.executable, "-m", "dynse", "enhance", "-q", noisy, "-o", enhanced]
        for _ in range(runs):
            started = time.perf_counter()
            subprocess.run([*command, "--overwrite"], check=True)
            took.append(time.perf_counter() - started)
    return float(np.median(took))


if __name__ == "__main__":
    main()
