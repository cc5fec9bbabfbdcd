"""Hours of stereo 48 kHz through a pipe: how far the output lags, and how much memory it takes.

    python -m benchmarks.long_pipe [--hours 3] [--pace 10] [--model NAME]

Feeds WAV of unknown length to `dynse enhance - -o -` at `pace` times real time and reads what comes
out at the same time. The lag of a sample is the time from handing it to the pipe to having it back;
at a pace above 1 the same stretch of sound takes less time, so the lag is also told in sound.
Prints both, the peak memory after a minute and at the end, and exits with 1 if the lag reached 1 s
of either, if memory grew by more than 10 MB, or if a frame was lost.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

RATE, CHANNELS, WIDTH = 48000, 2, 2
FRAME = CHANNELS * WIDTH
LIMIT_S, LIMIT_MB = 1.0, 10.0
INSTALLED = Path(sys.executable).with_name("dynse")


def header() -> bytes:
    """WAV of unknown length, as ffmpeg writes it to a pipe."""
    fmt = struct.pack("<HHIIHH", 1, CHANNELS, RATE, RATE * FRAME, FRAME, 8 * WIDTH)
    unknown = b"\xff" * 4
    return b"RIFF" + unknown + b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + unknown


def noisy_voice(seconds: int = 60) -> bytes:
    """A buzz that comes and goes in noise, to be repeated."""
    rng = np.random.default_rng(0)
    t = np.arange(seconds * RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    voice = 0.1 * voice * np.clip(np.sin(2 * np.pi * 0.8 * t), 0, 1)
    x = np.stack([voice, 0.7 * voice], 1) + 0.02 * rng.standard_normal((len(t), CHANNELS))
    return (32767 * np.clip(x, -1, 1)).astype("<i2").tobytes()


def peak_mb(pid: int) -> float:
    """Largest resident memory so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Pipe:
    """`dynse enhance - -o -` with somebody at both ends."""

    def __init__(self, hours: float, pace: float, model: str) -> None:
        self.frames, self.pace = round(hours * 3600 * RATE), pace
        self.process = subprocess.Popen(
            [INSTALLED, "enhance", "-", "-o", "-", "-q", "--model", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # Times at which each chunk was handed over: chunk k ends with frame (k + 1) * chunk.
        self.chunk = max(round(RATE * 0.02 * max(pace / 5, 1)), 1)
        self.fed_at: list[float] = []
        self.late = 0  # chunks handed over too late, since the pipe was full

    def feed(self) -> None:
        """Hand over all sound at the pace."""
        sound = noisy_voice()
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(header())
        started, at = time.monotonic(), 0
        while at < self.frames:
            n = min(self.chunk, self.frames - at)
            due = started + at / RATE / self.pace
            time.sleep(max(due - time.monotonic(), 0))
            place = at * FRAME % len(sound)
            data = sound[place : place + n * FRAME]
            data += sound[: n * FRAME - len(data)]
            self.fed_at.append(time.monotonic())
            stdin.write(data)
            stdin.flush()
            self.late += time.monotonic() - due > 0.05
            at += n
        stdin.close()

    def drain(self) -> dict[str, float]:
        """Read all sound that comes out; what there is to tell of it."""
        out = self.process.stdout
        assert out is not None
        thread = threading.Thread(target=self.feed, daemon=True)
        thread.start()
        out.read(44)
        received, lags, behind, early = 0, [], [], None
        while data := out.read1(1 << 16):  # type: ignore[attr-defined]
            now = time.monotonic()
            # The oldest frame among these has waited longest.
            oldest = received // FRAME
            lags.append(now - self.fed_at[oldest // self.chunk])
            fed = min(len(self.fed_at) * self.chunk, self.frames)
            behind.append((fed - oldest) / RATE)
            received += len(data)
            if early is None and received > 60 * RATE * FRAME:
                early = peak_mb(self.process.pid)
        thread.join()
        out.close()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        # What comes with the end was held back only because nothing pushed it.
        first, lag, sound = lags[0], sorted(lags[1:]), sorted(behind[1:])
        return {
            "exit code": self.process.returncode,
            "frames lost": self.frames - received // FRAME,
            "first samples after, s": first,
            "lag, median, s": lag[len(lag) // 2],
            "lag, 99.9 %, s": lag[int(len(lag) * 0.999)],
            "lag, largest, s": lag[-1],
            "lag in sound, median, s": sound[len(sound) // 2],
            "lag in sound, largest, s": sound[-1],
            "chunks the full pipe held up": self.late,
            "memory after a minute, MB": early or 0.0,
            "memory at the end, MB": usage.ru_maxrss / 1024,
            "CPU, s": usage.ru_utime + usage.ru_stime,
        }


def main() -> int:
    """Run it, print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--pace", type=float, default=10.0, help="times real time")
    parser.add_argument("--model", default="dynse-25")
    wanted = parser.parse_args()
    started = time.monotonic()
    found = Pipe(wanted.hours, wanted.pace, wanted.model).drain()
    print(f"{wanted.hours:g} h at {wanted.pace:g} x real time, {time.monotonic() - started:.0f} s")
    for name, value in found.items():
        print(f"{name:30} {value:.3f}" if isinstance(value, float) else f"{name:30} {value}")
    grown = found["memory at the end, MB"] - found["memory after a minute, MB"]
    bad = found["exit code"] or found["frames lost"] or found["lag, 99.9 %, s"] >= LIMIT_S
    return int(bool(bad or grown > LIMIT_MB))


if __name__ == "__main__":
    sys.exit(main())
