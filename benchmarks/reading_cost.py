"""What reading the probes adds to the time of `enhance`, in process, without files.

    python -m benchmarks.reading_cost [--model NAME]

Two minutes of the samples, one thread, processor time; each round runs `enhance` without, with and
without the probes, and the share is the median over the rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from dynse.audio.stft import SAMPLE_RATE
from dynse.models.checkpoint import DEFAULT
from dynse.models.engine import load
from dynse.models.evaluation import load_mono
from dynse.models.stream import Enhancer
from dynse.probes.probe_file import load_shipped
from dynse.probes.reading import ProbeReader

NOISY = Path(__file__).resolve().parent.parent / "samples" / "noisy"
SECONDS, BLOCK, ROUNDS = 120, 16_384, 41


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT)
    engine = load(parser.parse_args().model)
    probes = load_shipped(engine.name, engine.sha256)
    sound = np.concatenate([load_mono(path) for path in sorted(NOISY.glob("*.wav"))])
    sound = np.resize(sound, SECONDS * SAMPLE_RATE)[:, None]

    def seconds(reader: ProbeReader | None) -> float:
        started = time.process_time()
        listener = None if reader is None else reader.update
        enhancer = Enhancer(engine, SAMPLE_RATE, 1, listener=listener)
        for at in range(0, len(sound), BLOCK):
            enhancer.feed(sound[at : at + BLOCK])
        enhancer.flush()
        if reader is not None:
            reader.finish()
        return time.process_time() - started

    shares = []
    for _ in range(ROUNDS):
        before, reading, after = seconds(None), seconds(ProbeReader(probes, engine)), seconds(None)
        shares.append(2 * reading / (before + after) - 1)
    low, share, high = np.quantile(shares, (0.25, 0.5, 0.75))
    print(f"reading adds {share:.1%} (quartiles {low:.1%} and {high:.1%})")


if __name__ == "__main__":
    main()
