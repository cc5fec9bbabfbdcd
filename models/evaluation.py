"""Scores of a model on pairs of clean and noisy recordings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.errors import DynseError, UnusableError
from ..audio.io import open_reader
from ..audio.metrics import MetricError, pesq_wb, si_sdr, stoi
from ..audio.resampling import StreamResampler
from ..audio.stft import SAMPLE_RATE, analyse
from ..audio.suffixes import READABLE
from .compute import count_macs
from .engine import Engine, load
from .stream import enhance

NOISE_FREE_DB = 60.0
"""From this SI-SDR of the input on, a pair holds no noise, and a gain says nothing."""
METRICS = ("pesq", "stoi", "estoi", "si_sdr_db")


class EvaluationError(DynseError):
    """A pair that cannot be scored."""


class PairingError(UnusableError):
    """Files or folders that make no pairs."""


@dataclass(frozen=True)
class PairScore:
    """One pair's scores, and what is needed to add up its gates over pairs.

    Attributes
    ----------
    noisy, enhanced : metric -> value; None where a metric is not defined.
    utilisation : mean share of open gates; None for a static network.
    rtf : wall time of enhancement over the duration, one thread.
    open_frames : (I * C,) frames in which each gate was open, and ``frames`` in all.
    speech_open, speech_frames : share of open gates summed over frames with speech, their number.
    """

    name: str
    duration_s: float
    noisy: dict[str, float | None]
    enhanced: dict[str, float | None]
    utilisation: float | None
    rtf: float
    frames: int
    open_frames: NDArray[np.int64]
    speech_open: float
    speech_frames: int

    @property
    def noise_free(self) -> bool:
        """Whether the input is its own reference, but for rounding."""
        level = self.noisy["si_sdr_db"]
        return level is not None and level >= NOISE_FREE_DB


def find_pairs(clean: Path, noisy: Path) -> list[tuple[Path, Path]]:
    """Pair two files, or the recordings of two folders by name (the suffix may differ).

    Raises
    ------
    PairingError
        A path is missing, or a recording has no counterpart or two.
    """
    for path in (clean, noisy):
        if not path.exists():
            raise PairingError(f"{path}: no such file or folder")
    if clean.is_file() and noisy.is_file():
        return [(clean, noisy)]
    if clean.is_file() or noisy.is_file():
        raise PairingError("give two files or two folders")
    there, here = map(_by_name, (clean, noisy))
    alone = sorted(set(there) ^ set(here))
    if alone:
        raise PairingError(f"without a counterpart: {', '.join(alone[:5])}")
    if not here:
        raise PairingError(f"{noisy}: no audio files")
    return [(there[stem], path) for stem, path in here.items()]


def _by_name(folder: Path) -> dict[str, Path]:
    """The recordings of a folder by name without suffix; what else lies there does not matter."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in READABLE and not path.name.startswith("."):
            if path.stem in found:
                raise PairingError(f"{path}: {found[path.stem].name} has the same name")
            found[path.stem] = path
    return found


def load_mono(path: Path) -> NDArray[np.float32]:
    """Whole recording as (n,) float32 at 16 kHz, channels averaged."""
    with open_reader(str(path)) as reader:
        resampler = StreamResampler(reader.sample_rate, SAMPLE_RATE, 1)
        parts = [
            resampler.feed(block.mean(axis=1, keepdims=True, dtype=np.float32))
            for block in reader.blocks(SAMPLE_RATE)
        ]
    return np.concatenate([*parts, resampler.flush()])[:, 0]


def score(clean: NDArray[np.float32], estimate: NDArray[np.float32]) -> dict[str, float | None]:
    """All metrics of one estimate; None where one is not defined (silence, too short)."""
    functions = {
        "pesq": pesq_wb,
        "stoi": stoi,
        "estoi": lambda s, e: stoi(s, e, extended=True),
        "si_sdr_db": si_sdr,
    }
    found: dict[str, float | None] = {}
    for name, function in functions.items():
        try:
            found[name] = float(function(clean, estimate))
        except MetricError:
            found[name] = None
    return found


def speech_frames(clean: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames of the STFT grid in which the clean reference is within 40 dB of its loudest one."""
    power = (np.abs(analyse(clean)) ** 2).sum(-1)
    return power > max(power.max(initial=0.0) * 1e-4, 1e-10)


def score_pair(engine: Engine, clean_path: Path, noisy_path: Path) -> PairScore:
    """Enhance one recording and score it against its reference.

    Raises
    ------
    EvaluationError
        The two differ in length.
    """
    clean, noisy = load_mono(clean_path), load_mono(noisy_path)
    if len(clean) != len(noisy):
        raise EvaluationError(
            f"{noisy_path}: {len(noisy)} samples at 16 kHz, its reference has {len(clean)}"
        )
    every = engine.gate_shape[0] * engine.gate_shape[1]
    collected = [np.zeros((0, every), np.uint8)]  # all there is of an empty recording

    def listen(_: object, gates: NDArray[np.uint8], __: object) -> None:
        collected.append(gates.reshape(len(gates), every))

    started = time.perf_counter()
    enhanced = enhance(engine, noisy, listener=listen)
    took = time.perf_counter() - started
    gates = np.concatenate(collected)
    share = gates.mean(axis=1) if every else np.zeros(len(gates))
    present = speech_frames(clean)
    seconds = len(noisy) / SAMPLE_RATE
    return PairScore(
        name=noisy_path.name,
        duration_s=seconds,
        noisy=score(clean, noisy),
        enhanced=score(clean, enhanced),
        utilisation=float(share.mean()) if gates.size else None,
        rtf=took / seconds if seconds else 0.0,
        frames=len(gates),
        open_frames=gates.sum(axis=0, dtype=np.int64),
        speech_open=float(share[present].sum()),
        speech_frames=int(present.sum()),
    )


def score_pairs(
    model: str | Path, pairs: Iterable[tuple[Path, Path]], jobs: int = 1
) -> Iterator[PairScore]:
    """Score pairs in order, on `jobs` processes."""
    tasks = [(str(model), clean, noisy) for clean, noisy in pairs]
    if jobs <= 1:
        yield from map(_score_task, tasks)
        return
    # A fresh interpreter each: forking a process that may hold threads is not safe.
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_score_task, tasks)
    except BrokenProcessPool as error:
        raise EvaluationError(
            "a worker process died, out of memory perhaps: try fewer of them (-j)"
        ) from error


_engines: dict[str, Engine] = {}


def _score_task(task: tuple[str, Path, Path]) -> PairScore:
    model, clean, noisy = task
    if model not in _engines:
        _engines[model] = load(model)
    return score_pair(_engines[model], clean, noisy)


def summarise(scores: list[PairScore], engine: Engine) -> dict[str, Any]:
    """Means over pairs, and how dynamic the gates were over all frames.

    Returns
    -------
    dict
        ``noisy``, ``enhanced`` and ``gain`` by metric, ``scored``, how many pairs each of them is
        defined for and its mean is of, ``utilisation``, ``mmac_per_s``, ``rtf``, and of a gated
        model ``gates``: how many have a standard deviation above 0.1, the extremes of the blocks'
        mean utilisations, and the utilisation in frames with and without speech.
    """
    noisy: dict[str, float | None] = {}
    enhanced: dict[str, float | None] = {}
    gain: dict[str, float | None] = {}
    scored: dict[str, int] = {}
    for metric in METRICS:
        both = [(s.noisy[metric], s.enhanced[metric]) for s in scores]
        values = np.array([pair for pair in both if None not in pair], np.float64)
        scored[metric] = len(values)
        if len(values):
            before, after = values.mean(axis=0)
            noisy[metric], enhanced[metric] = float(before), float(after)
            gain[metric] = float(after - before)
        else:
            noisy[metric] = enhanced[metric] = gain[metric] = None
    frames = sum(s.frames for s in scores)
    known = [s.utilisation for s in scores if s.utilisation is not None]
    utilisation = float(np.mean(known)) if known else None
    summary: dict[str, Any] = {
        "files": len(scores),
        "scored": scored,
        "noisy": noisy,
        "enhanced": enhanced,
        "gain": gain,
        "utilisation": utilisation,
        "mmac_per_s": count_macs(engine.header["dims"]).mmac_per_s(
            1.0 if utilisation is None else utilisation
        ),
        "rtf": float(np.median([s.rtf for s in scores])),
    }
    if utilisation is not None:
        rate = np.sum([s.open_frames for s in scores], axis=0) / frames
        blocks = rate.reshape(engine.gate_shape).mean(axis=1)
        speech = sum(s.speech_frames for s in scores)
        in_speech = sum(s.speech_open for s in scores)
        silent = frames - speech
        summary["gates"] = {
            "dynamic": int(np.count_nonzero(np.sqrt(rate * (1 - rate)) > 0.1)),
            "all": rate.size,
            "block_min": float(blocks.min()),
            "block_max": float(blocks.max()),
            "utilisation_speech": in_speech / speech if speech else None,
            "utilisation_no_speech": (
                (float(rate.mean()) * frames - in_speech) / silent if silent else None
            ),
        }
    return summary


__all__ = [
    "METRICS",
    "NOISE_FREE_DB",
    "EvaluationError",
    "PairScore",
    "PairingError",
    "find_pairs",
    "load_mono",
    "score",
    "score_pair",
    "score_pairs",
    "speech_frames",
    "summarise",
]
