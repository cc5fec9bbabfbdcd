"""Damaged sound files through `enhance` and `probe`: never a traceback, a hang, or half a file.

    python -m benchmarks.fuzz 5000 [--seed 0] [--model NAME --probes FILE]

Headers of several kinds of WAV, and whole small files of other formats, with bytes changed and ends
cut off; every second one goes to `dynse probe` where there are probes. Everything runs in one
process, which a case that crashes or does not end within a minute ends: the case is then in
`fuzz-case.bin`. A hang is 5 s of processor time, ffmpeg's included, so that a busy machine does not
look like one. Prints counts by outcome; exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf

from dynse.cli.app import _run

LIMIT_S = 5


def originals() -> dict[str, bytes]:
    """Small files of many kinds, by suffix and what is special about them."""
    x = 0.1 * np.random.default_rng(0).standard_normal((200, 2))
    kinds = {
        "plain.wav": ("WAV", "PCM_16"),
        "float.wav": ("WAV", "FLOAT"),
        "extensible.wav": ("WAVEX", "PCM_24"),
        "ulaw.wav": ("WAV", "ULAW"),
        "adpcm.wav": ("WAV", "IMA_ADPCM"),
        "long.rf64": ("RF64", "PCM_16"),
        "a.w64": ("W64", "PCM_16"),
        "a.flac": ("FLAC", "PCM_16"),
        "a.ogg": ("OGG", "VORBIS"),
        "a.aiff": ("AIFF", "PCM_16"),
        "a.au": ("AU", "PCM_16"),
        "a.caf": ("CAF", "PCM_16"),
        "a.mp3": ("MP3", "MPEG_LAYER_III"),
    }
    found = {}
    for name, (container, subtype) in kinds.items():
        file = io.BytesIO()
        sf.write(file, x, 16000, subtype, format=container)
        found[name] = file.getvalue()
    chunks = b"LIST" + struct.pack("<I4s", 4, b"INFO") + b"bext" + struct.pack("<I5sx", 5, b"hello")
    plain = found["plain.wav"]
    found["chunks.wav"] = plain[:12] + chunks + plain[12:] + chunks
    return found


def damaged(n: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield `n` of (name, what was done to it, contents), the systematic ones first."""
    files = originals()
    generator = random.Random(seed)

    def systematic() -> Iterator[tuple[str, str, bytes]]:
        plain = files["plain.wav"]
        for at in range(0, len(plain), 16):
            yield "plain.wav", f"cut at {at}", plain[:at]
        for name in sorted(files, key=lambda name: (name != "plain.wav", not name.endswith("wav"))):
            data = files[name]
            for at in range(min(len(data), 128)):
                yield name, f"byte {at} flipped", change(data, {at: data[at] ^ 0xFF})
            for at in range(0, len(data), 16):
                yield name, f"cut at {at}", data[:at]

    count = 0
    for case in systematic():
        if count == n:
            return
        count += 1
        yield case
    while count < n:
        name = generator.choice(list(files))
        data = files[name]
        places = [min(int(generator.expovariate(1 / 40)), len(data) - 1) for _ in range(4)]
        changes = {at: generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)])
                   for at in places[: generator.randint(1, 4)]}  # fmt: skip
        end = generator.choice([len(data), generator.randrange(len(data))])
        yield name, f"bytes {changes}, cut at {end}", change(data, changes)[:end]
        count += 1


def change(data: bytes, changes: dict[int, int]) -> bytes:
    """Copy with some bytes replaced."""
    copy = bytearray(data)
    for at, value in changes.items():
        copy[at] = value
    return bytes(copy)


def problem(
    folder: Path, name: str, data: bytes, how: list[str], do: str = "enhance"
) -> tuple[str, str | None]:
    """Enhance or probe one file in an empty folder; its outcome and what is wrong with it."""
    source, target = folder / name, folder / "out" / "out.wav"
    source.write_bytes(data)
    said, out = io.StringIO(), io.TextIOWrapper(io.BytesIO(), "utf-8")
    more = ["-o", str(target)] if do == "enhance" else ["--jsonl"]
    before = sum(os.times()[:4])
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        code = _run([do, str(source), *more, *how])
    took, text = sum(os.times()[:4]) - before, said.getvalue()
    out.seek(0)
    left = sorted(os.listdir(folder / "out")) if (folder / "out").exists() else []
    wrong = None
    if code not in (0, 1):
        wrong = f"exit code {code}"
    elif took > LIMIT_S:
        wrong = f"took {took:.1f} s"
    elif "Traceback" in text or "internal error, " in text:
        wrong = "traceback or internal error"
    elif code == 1 and (len(text.splitlines()) != 1 or name not in text):
        wrong = "not one line that names the file"
    elif left != (["out.wav"] if code == 0 and do == "enhance" else []):
        wrong = f"files left: {left}"
    elif code == 0 and do == "enhance" and not _whole(target):
        wrong = "the output is not whole"
    elif do == "probe" and json.loads(out.read())["status"] != ("error" if code else "ok"):
        wrong = "the report does not say what the exit code does"
    for path in (source, target):
        path.unlink(missing_ok=True)
    outcome = do + "d" if code == 0 else text.partition(": ")[2].strip()[:50]
    return outcome, None if wrong is None else f"{do}, {wrong}: {text.strip()[-500:]}"


def _whole(path: Path) -> bool:
    with sf.SoundFile(path) as sound:
        return len(sound.read()) == sound.frames


def main() -> int:
    """Run the cases, tell what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="dynse-25")
    parser.add_argument("--probes", help="for every second case, through dynse probe")
    wanted = parser.parse_args()
    started, wrong, counts = time.monotonic(), 0, Counter[str]()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, what, data) in enumerate(damaged(wanted.cases, wanted.seed)):
            Path("fuzz-case.bin").write_bytes(data)
            # A hang ends the process, with a stack trace of where it was.
            faulthandler.dump_traceback_later(60, exit=True)
            begun = sum(os.times()[:4])
            do = "probe" if wanted.probes and number % 2 else "enhance"
            how = ["--model", wanted.model] + (["--probes", wanted.probes] if do == "probe" else [])
            outcome, why = problem(Path(folder), name, data, how, do)
            slowest = max(slowest, sum(os.times()[:4]) - begun)
            faulthandler.cancel_dump_traceback_later()
            counts[outcome] += 1
            if why is not None:
                wrong += 1
                print(f"{name}, {what}: {why}", flush=True)
    Path("fuzz-case.bin").unlink(missing_ok=True)
    for outcome, count in counts.most_common():
        print(f"{count:6} {outcome}")
    took = time.monotonic() - started
    print(
        f"{wanted.cases} cases in {took:.0f} s, slowest {slowest:.2f} s of processor, {wrong} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
