"""Speed of the engine beside the torch reference, itself with all gates open, and peers.

    python -m benchmarks.speed [--minutes 2] [--rounds 5] [-o docs/speed.json]

One thread, the same sound, rounds interleaved so that a noisy machine hurts all alike; median and
range over the rounds. What is timed is also checked: the engine's output against the reference.
Peers are measured where they are installed (`pip install noisereduce pyrnnoise`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - the thread counts must be set first
import soundfile  # noqa: E402

from dynse.audio.stft import HOP, SAMPLE_RATE, analyse  # noqa: E402
from dynse.models.checkpoint import DEFAULT, load_network, read  # noqa: E402
from dynse.models.compute import count_macs  # noqa: E402
from dynse.models.engine import Engine  # noqa: E402
from dynse.models.stream import Stream, enhance  # noqa: E402

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "noisy"


def sound(minutes: float) -> np.ndarray:
    """The repository's samples in a row, repeated: (n,) float32 at 16 kHz."""
    parts = []
    for path in sorted(SAMPLES.glob("*.wav")):
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate == SAMPLE_RATE:
            parts.append(x[:, 0])
    row = np.concatenate(parts)
    return np.resize(row, int(minutes * 60 * SAMPLE_RATE))


class Shifted(Engine):
    """The engine with all gate scores moved by a constant, to reach any utilisation."""

    def shift(self, by: float) -> None:
        """Add `by` to each gate's bias."""
        from dataclasses import replace

        blocks = tuple(replace(b, score_bias=b.score_bias + by) for b in self._network.blocks)
        self._weights = replace(self._network, blocks=blocks).packed()


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleave(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Median and range of each function's time, after one call of each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(timed(function))
    return {
        name: {
            "median": float(np.median(found)),
            "min": float(min(found)),
            "max": float(max(found)),
        }
        for name, found in times.items()
    }


def step_in_blocks(engine: Engine, frames: np.ndarray, block: int) -> Callable[[], Any]:
    """Run all frames in blocks of `block`."""

    def run() -> None:
        state = engine.initial_state()
        for start in range(0, len(frames), block):
            engine.step(frames[start : start + block], state)

    return run


def peers(x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Enhancers from PyPI that are installed."""
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("noisereduce"):
        import noisereduce

        found["noisereduce"] = lambda: noisereduce.reduce_noise(y=x, sr=SAMPLE_RATE)
    if importlib.util.find_spec("pyrnnoise"):
        import pyrnnoise
        import soxr

        high = soxr.resample(x, SAMPLE_RATE, 48000)
        pcm = np.clip(high * 32768, -32768, 32767).astype(np.int16)[None]

        def rnnoise() -> None:
            for _ in pyrnnoise.RNNoise(48000).denoise_chunk(pcm):
                pass

        found["rnnoise"] = rnnoise
    return found


def command_seconds(arguments: list[str], rounds: int) -> dict[str, float]:
    """Wall time of the command from shell to exit: median and range."""

    def run() -> None:
        subprocess.run([sys.executable, "-m", "dynse", *arguments], check=True, capture_output=True)

    run()
    times = [timed(run) for _ in range(rounds)]
    return {"median": float(np.median(times)), "min": min(times), "max": max(times)}


def peak_megabytes(minutes: float, folder: Path) -> float:
    """Peak resident memory of `enhance` on a 16 kHz file of this length, from a fresh process."""
    path = folder / "long.wav"
    second = (0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)).astype(np.float32)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for _ in range(int(minutes * 60)):
            file.write(second)
    code = (
        "import resource, sys; from dynse.cli.app import _run; "
        f"code = _run(['enhance', {str(path)!r}, '-o', {str(folder / 'out.wav')!r}, "
        "'--overwrite', '-q']); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def streaming_ms(engine: Engine, x: np.ndarray) -> dict[str, float]:
    """Milliseconds of a 16 ms call through the Python API: median and 99th percentile."""
    stream = Stream(engine)
    hops = [x[i : i + HOP] for i in range(0, len(x) - HOP, HOP)]
    times = np.array([timed(lambda hop=hop: stream.feed(hop)) for hop in hops])[100:] * 1e3
    return {"median": float(np.median(times)), "p99": float(np.percentile(times, 99))}


def measure(model: str, minutes: float, rounds: int, long: bool) -> dict[str, Any]:
    """All figures."""
    import torch

    torch.set_num_threads(1)
    checkpoint = read(model)
    engine, everything = Engine(checkpoint), Engine(checkpoint, all_open=True)
    network = load_network(checkpoint)
    x = sound(minutes)
    frames = analyse(x)
    spectrum = torch.from_numpy(frames)[None]

    def reference() -> Any:
        with torch.inference_mode():
            return network(spectrum).mask[0].numpy()

    mask, gates, _ = engine.step(frames, engine.initial_state())
    difference = float(np.abs(reference() - mask).max())
    assert difference < 1e-4, f"engine and reference differ by {difference}"

    network_times = {}
    for block in (1, 8, 64, 1024):
        found = interleave(
            {
                "pruned": step_in_blocks(engine, frames, block),
                "all_open": step_in_blocks(everything, frames, block),
            },
            rounds,
        )
        network_times[str(block)] = {
            name: {key: 1e6 * value / len(frames) for key, value in times.items()}
            for name, times in found.items()
        }
    whole = interleave(
        {
            "dynse": lambda: enhance(engine, x),
            "dynse, all gates open": lambda: enhance(everything, x),
            "torch reference, network only": reference,
            **peers(x),
        },
        rounds,
    )
    sweep = []
    for by in np.linspace(-3, 3, 9):
        shifted = Shifted(checkpoint)
        shifted.shift(float(by))
        state = shifted.initial_state()
        used = float(shifted.step(frames, state)[1].mean())
        runs = {str(b): step_in_blocks(shifted, frames, b) for b in (1, 64)}
        found = interleave(runs, max(1, rounds // 2))
        sweep.append(
            {"utilisation": used}
            | {f"us_a_frame_{b}": 1e6 * t["median"] / len(frames) for b, t in found.items()}
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        soundfile.write(folder / "short.wav", x[: 3 * SAMPLE_RATE], SAMPLE_RATE)
        short = [str(folder / "short.wav"), "-o", str(folder / "o.wav"), "--overwrite"]
        commands = {
            "--help": command_seconds(["--help"], rounds),
            "enhance, 3 s file": command_seconds(["enhance", *short, "--model", model], rounds),
        }
        lengths = (1, 60, 180) if long else (1, 10)
        memory = {str(length): peak_megabytes(length, folder) for length in lengths}
    seconds = len(x) / SAMPLE_RATE
    return {
        "model": {"name": engine.name, "sha256": engine.sha256},
        "machine": {
            "cpu": _cpu(),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "torch", "soxr")},
        },
        "seconds": seconds,
        "utilisation": float(gates.mean()),
        "mmac_per_s": count_macs(engine.header["dims"]).mmac_per_s(float(gates.mean())),
        "engine_minus_reference": difference,
        "real_time_factor": {
            name: {key: value / seconds for key, value in times.items()}
            for name, times in whole.items()
        },
        "network_us_a_frame": network_times,
        "streaming_16_ms_call_ms": streaming_ms(engine, x),
        "speed_against_utilisation": sweep,
        "command_s": commands,
        "peak_mb_by_minutes": memory,
        "own_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def draw(report: dict[str, Any], path: Path) -> None:
    """Real-time factors, and time against utilisation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = list(report["real_time_factor"])
    left.barh(names, [report["real_time_factor"][name]["median"] for name in names])
    left.set_xscale("log")
    left.set_xlabel("real-time factor, one thread")
    used = [point["utilisation"] for point in report["speed_against_utilisation"]]
    for block in ("1", "64"):
        times = [point[f"us_a_frame_{block}"] for point in report["speed_against_utilisation"]]
        right.plot(used, times, "o-", label=f"{block} frames a call")
    right.set_xlabel("utilisation")
    right.set_ylabel("µs a frame, network only")
    right.set_ylim(bottom=0)
    right.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", action="store_true", help="memory on 60 and 180 minutes too")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments.model, arguments.minutes, arguments.rounds, arguments.long)
    print(json.dumps(report, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
        draw(report, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
