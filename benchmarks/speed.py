"""Speed of the engine beside the torch reference, itself with all gates open, and peers.

    python -m benchmarks.speed                     # all of it, under 15 minutes
    python -m benchmarks.speed --quick -o /tmp/s   # a look: short sounds, no peers, no hours

writes docs/speed.json and docs/speed.png and fills the README's table. One thread, the same sound,
rounds interleaved so that a noisy machine hurts all alike; median and range over the rounds, and
ratios taken within a round. Seconds are of processor time, which other work on the machine
disturbs least; commands and single calls go by the clock on the wall. What is timed is also
compared: the JSON has the largest difference of the engine's masks from the reference's. Peers come
from PyPI into a virtual environment under the temporary folder; where one cannot be had the JSON
says why.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
for variable in THREADS:
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - the thread counts must be set first
import soundfile  # noqa: E402

from benchmarks import speed_report  # noqa: E402
from dynse.audio.stft import HOP, SAMPLE_RATE, analyse, synthesise  # noqa: E402
from dynse.models import engine as engine_module  # noqa: E402
from dynse.models.checkpoint import DEFAULT, Checkpoint, load_network, read  # noqa: E402
from dynse.models.compute import count_macs  # noqa: E402
from dynse.models.engine import Engine  # noqa: E402
from dynse.models.stream import Stream, enhance  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("noisereduce", "pyrnnoise", "webrtc_noise_gain")
UTILISATIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
Clock = Callable[[], float]
"""Runs something once and gives its seconds."""


def sound(minutes: float) -> np.ndarray:
    """The repository's samples in a row, repeated: (n,) float32 at 16 kHz."""
    parts = []
    for path in sorted((ROOT / "samples" / "noisy").glob("*.wav")):
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate == SAMPLE_RATE:
            parts.append(x[:, 0])
    return np.resize(np.concatenate(parts), int(minutes * 60 * SAMPLE_RATE))


def clock(function: Callable[[], Any], now: Clock = time.process_time) -> Clock:
    """Time a function of this process."""

    def run() -> float:
        start = now()
        function()
        return now() - start

    return run


def spread(values: Any) -> dict[str, float]:
    """Median and range."""
    return {key: float(getattr(np, key)(values)) for key in ("median", "min", "max")}


def interleave(clocks: dict[str, Clock], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each, (rounds,), after one run of each to warm up.

    Each round begins with another one: what runs after a peer finds the caches cold.
    """
    for run in clocks.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in clocks}
    names = list(clocks)
    for turn in range(rounds):
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            times[name].append(clocks[name]())
    return {name: np.array(found) for name, found in times.items()}


class Shifted(Engine):
    """The engine with all gate scores moved by a constant, to reach a utilisation."""

    def __init__(self, checkpoint: Checkpoint, frames: np.ndarray, wanted: float):
        super().__init__(checkpoint)
        low, high = -100.0, 100.0
        for _ in range(18):
            self._shift((low + high) / 2)
            self.used = float(self.step(frames, self.initial_state())[1].mean())
            low, high = (low, (low + high) / 2) if self.used > wanted else ((low + high) / 2, high)

    def _shift(self, by: float) -> None:
        padded = self._hidden - self._channels
        shift = np.pad(np.full(self._channels, by, np.float32), (0, padded))
        blocks = tuple(replace(b, score_bias=b.score_bias + shift) for b in self._network.blocks)
        self._weights = replace(self._network, blocks=blocks).packed()


def in_blocks(engine: Engine, frames: np.ndarray, block: int) -> Clock:
    """Run all frames in blocks of `block`."""

    def run() -> None:
        state = engine.initial_state()
        for start in range(0, len(frames), block):
            engine.step(frames[start : start + block], state)

    return clock(run)


class Peers:
    """Peers in an environment of their own, each a process that times itself when asked."""

    def __init__(self, path: Path):
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        python = Path(tempfile.gettempdir()) / "dynse-peers" / "bin" / "python"
        if not python.exists():
            venv.create(python.parent.parent, with_pip=True)
            install = [str(python), "-m", "pip", "install", "-q", "soundfile", "soxr"]
            subprocess.run(install, check=True, capture_output=True)
        for name in PEERS:
            find = [str(python), "-c", f"import {name}"]
            if subprocess.run(find, capture_output=True).returncode:
                install = [str(python), "-m", "pip", "install", "-q", name]
                subprocess.run(install, capture_output=True)
            process = subprocess.Popen(
                [str(python), str(ROOT / "benchmarks" / "peer.py"), name, str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            version = process.stdout.readline().strip()
            if version:
                self.versions[name], self._processes[name] = version, process
            else:
                self.missing[name] = (process.stderr.read().strip().splitlines() or ["?"])[-1]

    def clocks(self) -> dict[str, Clock]:
        """One for each that could be had."""

        def of(process: subprocess.Popen[str]) -> Clock:
            def run() -> float:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            return run

        return {name: of(process) for name, process in self._processes.items()}

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.communicate()


def command(*arguments: str, **environment: str) -> Clock:
    """Time `dynse ARGUMENTS` from shell to exit."""
    call = [str(Path(sys.executable).with_name("dynse")), *arguments]
    return clock(
        lambda: subprocess.run(
            call, check=True, capture_output=True, env={**os.environ, **environment}
        ),
        time.perf_counter,
    )


def long_file(path: Path, minutes: int) -> None:
    """Write `minutes` of noise, 16 kHz mono, a minute at a time."""
    minute = 0.1 * np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for _ in range(minutes):
            file.write(minute)


def peak_megabytes(path: Path) -> float:
    """Peak resident memory of `dynse enhance` on a file, in a process of its own."""
    # VmHWM: ru_maxrss would count this process too, out of which that one is forked.
    code = (
        "import sys; from dynse.cli.app import _run; "
        f"code = _run(['enhance', {str(path)!r}, '-o', {str(path.with_name('out.wav'))!r}, "
        "'--overwrite', '-q']); "
        "print(*(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM'))); "
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def streaming_ms(engine: Engine, x: np.ndarray) -> dict[str, float]:
    """Milliseconds of a 16 ms call through the Python API: median and 99th percentile."""
    stream = Stream(engine)
    hops = [x[i : i + HOP] for i in range(0, len(x) - HOP, HOP)]
    times = np.zeros(len(hops))
    for i, hop in enumerate(hops):
        start = time.perf_counter()
        stream.feed(hop)
        times[i] = 1e3 * (time.perf_counter() - start)
    times = times[100:]
    return {"median": float(np.median(times)), "p99": float(np.percentile(times, 99))}


def of_network(checkpoint: Checkpoint, frames: np.ndarray, rounds: int) -> dict[str, Any]:
    """Microseconds a frame of the network alone, pruned and with all gates open, by block size."""
    pruned, dense = Engine(checkpoint), Engine(checkpoint, all_open=True)
    found = {}
    for block in (1, 8, 64, 1024):
        clocks = {
            "pruned": in_blocks(pruned, frames, block),
            "all_open": in_blocks(dense, frames, block),
        }
        times = interleave(clocks, rounds)
        found[str(block)] = {
            **{name: spread(1e6 * t / len(frames)) for name, t in times.items()},
            "ratio": spread(times["all_open"] / times["pruned"]),
        }
    return found


def by_utilisation(checkpoint: Checkpoint, frames: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Time of the network against utilisation, with the gates' scores shifted."""
    engines = [Shifted(checkpoint, frames[:1000], wanted) for wanted in UTILISATIONS]
    clocks = {
        f"{i} {block}": in_blocks(engine, frames, block)
        for i, engine in enumerate(engines)
        for block in (1, 64)
    }
    times = interleave(clocks, rounds)
    return [
        {"utilisation": float(engine.step(frames, engine.initial_state())[1].mean())}
        | {f"us_a_frame_{b}": spread(1e6 * times[f"{i} {b}"] / len(frames)) for b in (1, 64)}
        for i, engine in enumerate(engines)
    ]


def of_commands(folder: Path, model: str, x: np.ndarray, rounds: int, minutes: int) -> dict:
    """Seconds of the command, and its real-time factor on a file of `minutes`."""
    soundfile.write(folder / "short.wav", x[: 3 * SAMPLE_RATE], SAMPLE_RATE)
    soundfile.write(folder / "ten.wav", np.resize(x, minutes * 60 * SAMPLE_RATE), SAMPLE_RATE)
    options = ["-o", str(folder / "o.wav"), "--overwrite", "-q", "--model", model]
    short = ["enhance", str(folder / "short.wav"), *options]
    clocks = {
        "--help": command("--help"),
        "enhance, 3 s file": command(*short),
        f"enhance, {minutes} min file": command("enhance", str(folder / "ten.wav"), *options),
    }
    found = {name: spread(t) for name, t in interleave(clocks, rounds).items()}
    # No module compiled, as nobody ran or installed anything before: worse than pip leaves it.
    first = []
    for i in range(3):
        empty = str(folder / f"pycache{i}")
        first.append(command(*short, PYTHONPYCACHEPREFIX=empty)())
    found["enhance, 3 s file, nothing compiled before"] = spread(first)
    return found


def of_workers(folder: Path, model: str, x: np.ndarray, rounds: int) -> dict[str, Any]:
    """Throughput of a batch against the number of worker processes, and the speed-up."""
    (folder / "in").mkdir()
    for i in range(8):
        soundfile.write(folder / "in" / f"{i}.wav", np.resize(x, 120 * SAMPLE_RATE), SAMPLE_RATE)
    options = ["enhance", str(folder / "in"), "-o", str(folder / "out"), "--overwrite", "-q"]
    options += ["--model", model]
    cores = len(os.sched_getaffinity(0))
    clocks = {str(n): command(*options, "-j", str(n)) for n in sorted({1, 2, cores})}
    times = interleave(clocks, rounds)
    return {
        n: {"seconds": spread(t), "speed_up": spread(times["1"] / t)} for n, t in times.items()
    } | {"cores": cores}


def measure(model: str, minutes: float, rounds: int, quick: bool) -> dict[str, Any]:
    """All figures."""
    import torch

    started = time.perf_counter()
    torch.set_num_threads(1)
    checkpoint = read(model)
    engine, dense = Engine(checkpoint), Engine(checkpoint, all_open=True)
    network = load_network(checkpoint)
    x = sound(minutes)
    frames = analyse(x)

    def reference() -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(analyse(x))[None]).mask[0].numpy()

    mask, gates, _ = engine.step(frames, engine.initial_state())
    difference = float(np.abs(reference() - mask).max())
    used = float(gates.mean())
    lengths = (1, 10) if quick else (1, 10, 60, 180)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        soundfile.write(folder / "sound.wav", x, SAMPLE_RATE)
        peers = None if quick else Peers(folder / "sound.wav")
        clocks = {
            "dynse": clock(lambda: enhance(engine, x)),
            "dynse, all gates open": clock(lambda: enhance(dense, x)),
            "torch reference": clock(lambda: synthesise(analyse(x) * reference(), len(x))),
            **(peers.clocks() if peers else {}),
        }
        times = interleave(clocks, max(3, rounds // 2))
        if peers:
            peers.close()
        commands = of_commands(folder, model, x, max(3, rounds // 2), 1 if quick else 10)
        workers = of_workers(folder, model, x, max(3, rounds // 4))
        memory = {}
        for length in lengths:
            long_file(folder / "long.wav", length)
            memory[str(length)] = peak_megabytes(folder / "long.wav")

    seconds = len(x) / SAMPLE_RATE
    versions = ("numpy", "torch", "soxr", "soundfile")
    kernels = engine_module._engine.kernels() if engine_module._engine else ["numpy"]
    return {
        "model": {"name": engine.name, "sha256": engine.sha256},
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": os.getloadavg()[1],
            "python": platform.python_version(),
            "kernel": kernels[-1],
            **{name: importlib.metadata.version(name) for name in versions},
        },
        "seconds": seconds,
        "utilisation": used,
        "mmac_per_s": count_macs(engine.header["dims"]).mmac_per_s(used),
        "mmac_per_s_dense": count_macs(engine.header["dims"]).mmac_per_s(1.0),
        "mask_difference_to_reference": difference,
        "real_time_factor": {name: spread(t / seconds) for name, t in times.items()},
        "times_as_fast_as": {
            name: spread(t / times["dynse"]) for name, t in times.items() if name != "dynse"
        },
        "peers": {"versions": peers.versions, "missing": peers.missing} if peers else "not run",
        "network_us_a_frame": of_network(checkpoint, frames, rounds),
        "streaming_16_ms_call_ms": streaming_ms(engine, x),
        "speed_against_utilisation": by_utilisation(checkpoint, frames, max(3, rounds // 2)),
        "command_s": commands,
        "workers": workers,
        "peak_mb_by_minutes": memory,
        "benchmark_s": time.perf_counter() - started,
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="no peers, no long files, README kept")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    report = measure(arguments.model, arguments.minutes, arguments.rounds, arguments.quick)
    (arguments.output / "speed.json").write_text(json.dumps(report, indent=2) + "\n")
    speed_report.draw(report, arguments.output / "speed.png")
    print(speed_report.table(report))
    if not arguments.quick and arguments.output == ROOT / "docs":
        speed_report.fill(ROOT / "README.md", report)


if __name__ == "__main__":
    main()
