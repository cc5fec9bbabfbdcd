"""Times one peer in its own environment: python peer.py NAME FILE.wav, a line on stdin a run.

Prints the peer's version, then the seconds of processor time of each run, loading and warm-up not
counted. Run by `benchmarks.speed` with the interpreter of a virtual environment that has the peers;
needs nothing of dynse, so that their dependencies and ours cannot meet.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile


def noisereduce(x: np.ndarray) -> Callable[[], Any]:
    """Spectral gating, with its defaults."""
    import noisereduce

    return lambda: noisereduce.reduce_noise(y=x, sr=16000)


def pyrnnoise(x: np.ndarray) -> Callable[[], Any]:
    """RNNoise at its 48 kHz, frame by frame; resampling is not counted."""
    import soxr
    from pyrnnoise.rnnoise import create, destroy, process_frame

    pcm = np.clip(soxr.resample(x, 16000, 48000) * 32768, -32768, 32767).astype(np.int16)
    frames = [pcm[None, i : i + 480] for i in range(0, len(pcm) - 479, 480)]

    def run() -> None:
        state = create()
        for frame in frames:
            process_frame([state], frame)
        destroy(state)

    return run


def webrtc_noise_gain(x: np.ndarray) -> Callable[[], Any]:
    """WebRTC's noise suppression, which has no network, at its highest level."""
    from webrtc_noise_gain import AudioProcessor

    pcm = np.clip(x * 32768, -32768, 32767).astype(np.int16)
    frames = [pcm[i : i + 160].tobytes() for i in range(0, len(pcm) - 159, 160)]

    def run() -> None:
        processor = AudioProcessor(0, 4)
        for frame in frames:
            processor.Process10ms(frame)

    return run


PEERS = {function.__name__: function for function in (noisereduce, pyrnnoise, webrtc_noise_gain)}


def main() -> None:
    """Answer each line on stdin with the seconds of one run."""
    name, path = sys.argv[1:]
    x, _ = soundfile.read(path, dtype="float32")
    run = PEERS[name](x)
    run()
    print(importlib.metadata.version(name), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
