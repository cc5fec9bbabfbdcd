"""Utilisation against input SNR, on the same recordings: what else differs between files is out.

    python -m benchmarks.difficulty CLEAN/ NOISY/ [--model NAME|FILE]

The noise of each pair, noisy minus clean, is added to its clean recording again at -5 to 20 dB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dynse.audio.mixing import mix_at_snr
from dynse.audio.stft import analyse
from dynse.models.checkpoint import DEFAULT
from dynse.models.engine import load
from dynse.models.evaluation import find_pairs, load_mono

SNRS_DB = (-5, 0, 5, 10, 15, 20)


def main() -> None:
    """Measure and print mean utilisation by SNR, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clean", type=Path)
    parser.add_argument("noisy", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    arguments = parser.parse_args()
    engine = load(arguments.model)
    used: dict[int, list[float]] = {snr_db: [] for snr_db in SNRS_DB}
    for clean_path, noisy_path in find_pairs(arguments.clean, arguments.noisy):
        clean, noisy = load_mono(clean_path), load_mono(noisy_path)
        for snr_db, found in used.items():
            frames = analyse(mix_at_snr(clean, noisy - clean, snr_db)[0])
            found.append(float(engine.step(frames, engine.initial_state())[1].mean()))
    print(json.dumps({f"{snr_db} dB": round(float(np.mean(u)), 4) for snr_db, u in used.items()}))


if __name__ == "__main__":
    main()
