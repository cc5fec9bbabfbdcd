"""A large folder with bad files in it, killed at random moments and run again.

    python -m benchmarks.batch_torture [--files 2000] [--bad 40] [--kills 20] [--jobs 2]

Checks that an undisturbed run writes every good file whole and tells of every bad one in one line,
and that a run killed with SIGKILL over and over, each time started again with --skip-existing, ends
with the same bytes and nothing else. A run that came to its end before its kill is checked, and
begun anew. Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf


def _changed(at: int, data: bytes) -> Callable[[Path, bytes], None]:
    def write(path: Path, good: bytes) -> None:
        path.write_bytes(good[:at] + data + good[at + len(data) :])

    return write


BAD: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("These are words.\n" * 99),
    "zeros": lambda path, _: path.write_bytes(bytes(5000)),
    "broken link": lambda path, _: path.symlink_to("nowhere.wav"),
    "half a header": lambda path, good: path.write_bytes(good[:20]),
    "no data chunk": lambda path, good: path.write_bytes(good[:36]),
    "no fmt chunk": _changed(12, b"junk"),
    "not a RIFF": _changed(0, b"FFIR"),
    "0 channels": _changed(22, struct.pack("<H", 0)),
    "65 channels": _changed(22, struct.pack("<H", 65)),
    "sample rate 1 Hz": _changed(24, struct.pack("<I", 1)),
    "unknown code": _changed(20, struct.pack("<H", 0x1234)),
}
"""Twelve ways in which a file is bad, and how to make one of a good one."""


def fill(folder: Path, files: int, bad: int, seed: int = 0) -> set[str]:
    """Make short files, `bad` of them bad in turn; the names of these."""
    generator = random.Random(seed)
    rng = np.random.default_rng(seed)
    broken = set(generator.sample(range(files), bad))
    names = set()
    ways = list(BAD.values())
    for i in range(files):
        path = folder / f"{i % 7}" / f"{i:05}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * rng.standard_normal(generator.randrange(1000, 16000))
        sf.write(path, samples, generator.choice([8000, 16000, 44100]), "PCM_16")
        if i in broken:
            good = path.read_bytes()
            path.unlink()
            ways[len(names) % len(ways)](path, good)
            names.add(str(path))
    return names


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def torture(
    folder: Path, files: int, bad: int, kills: int, jobs: int, model: str, seed: int = 0
) -> list[str]:
    """What is wrong after all that; nothing, it is hoped."""
    names = fill(folder / "in", files, bad, seed)
    command = [sys.executable, "-m", "dynse", "enhance", str(folder / "in"), "-r"]
    command += ["-j", str(jobs), "--model", model]
    wrong = []

    started = time.monotonic()
    whole = subprocess.run(
        [*command, "-o", str(folder / "whole")], stderr=subprocess.PIPE, text=True, check=False
    )
    took = time.monotonic() - started
    told = [line for line in whole.stderr.splitlines() if line.split(": ")[0] in names]
    failures = [line for line in told if " -> " not in line]
    expected = contents(folder / "whole")
    if whole.returncode != (1 if bad else 0):
        wrong.append(f"exit code {whole.returncode}")
    if {line.split(": ")[0] for line in failures} != names or len(failures) != len(names):
        wrong.append(f"{len(failures)} failure lines for {len(names)} bad files")
    if len(expected) != files - bad:
        wrong.append(f"{len(expected)} of {files - bad} files written")
    if "Traceback" in whole.stderr:
        wrong.append("a traceback")

    generator = random.Random(seed)
    again = [*command, "-o", str(folder / "killed"), "--skip-existing", "-q"]
    caught = ends = 0
    while caught < kills:
        with subprocess.Popen(again, stderr=subprocess.DEVNULL) as process:
            time.sleep(generator.uniform(0.3, max(took / 4, 1.5)))
            process.send_signal(signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
        now = contents(folder / "killed")
        halves = [
            name
            for name, data in now.items()
            if not name.endswith(".part") and data != expected.get(name)
        ]
        wrong += [f"after a kill {name} is not whole" for name in halves]
        caught += killed
        if not killed:
            ends += 1
            wrong += [] if now == expected else ["a run between kills ended with something else"]
            shutil.rmtree(folder / "killed")
    last = subprocess.run(again, stderr=subprocess.DEVNULL, check=False)
    if last.returncode != whole.returncode:
        wrong.append(f"exit code {last.returncode} at last")
    if contents(folder / "killed") != expected:
        different = set(contents(folder / "killed").items()) ^ set(expected.items())
        wrong.append(f"different: {sorted({name for name, _ in different})[:10]}")
    print(f"{files} files in {took:.1f} s, {caught} kills, {ends} times to the end in between")
    return wrong


def main() -> int:
    """Run it, tell what is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option, number in [("files", 2000), ("bad", 40), ("kills", 20), ("jobs", 2), ("seed", 0)]:
        parser.add_argument(f"--{option}", type=int, default=number)
    parser.add_argument("--model", default="dynse-25")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = torture(Path(folder), **vars(options))
    for line in wrong:
        print(line)
    print("all well" if not wrong else f"{len(wrong)} things wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
