"""Folders of speech and noise as one indexed corpus with labels.

Two layouts are read: tables (``speech.csv`` and ``noise.csv`` with a ``split`` column) and plain
folders (``clean/`` and ``noise/``, with optional ``speakers.csv`` and ``noise.csv``), where the
split is drawn by speaker from a hash, so that it is stable as files are added.
Recordings are decoded once, to int16 at 16 kHz, into a cache that worker processes map.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .errors import UnreadableError, UnusableError
from .stft import SAMPLE_RATE
from .suffixes import READABLE

SPLITS = ("train", "valid", "test")


class CorpusError(UnusableError):
    """A data folder that cannot be used as it is."""


@dataclass(frozen=True)
class Clip:
    """One recording: where it lies in the cache, and its labels ("" where unknown)."""

    path: str
    start: int
    frames: int
    speaker: str = ""
    gender: str = ""
    language: str = ""
    corpus: str = ""
    category: str = ""
    label: str = ""
    license: str = ""
    weight: float = 1.0


class Corpus:
    """Speech and noise clips of one split, with their samples in one memory-mapped array."""

    def __init__(self, speech: list[Clip], noise: list[Clip], cache: Path):
        self.speech, self.noise, self.cache = speech, noise, cache
        self._samples = np.load(cache, mmap_mode="r")

    def samples(self, clip: Clip) -> NDArray[np.float32]:
        """Samples of `clip`: (frames,) float32 in [-1, 1) at 16 kHz."""
        return self._samples[clip.start : clip.start + clip.frames].astype(np.float32) / 32768.0

    @property
    def licenses(self) -> dict[str, list[str]]:
        """Licence -> the corpora under it, for model cards."""
        found: dict[str, set[str]] = {}
        for clip in (*self.speech, *self.noise):
            found.setdefault(clip.license or "not stated", set()).add(clip.corpus or "user data")
        return {name: sorted(corpora) for name, corpora in sorted(found.items())}

    def seconds(self) -> tuple[float, float]:
        """Seconds of speech and of noise."""
        speech, noise = (
            sum(clip.frames for clip in clips) / SAMPLE_RATE for clips in (self.speech, self.noise)
        )
        return speech, noise


def load_corpus(
    data: Path | str, split: str, *, exclude: tuple[str, ...] = (), cache_dir: Path | None = None
) -> Corpus:
    """Index and decode one split of a data folder.

    Parameters
    ----------
    data : folder with ``speech.csv`` + ``noise.csv`` or with ``clean/`` + ``noise/``.
    split : "train", "valid" or "test".
    exclude : names of corpora to leave out.
    cache_dir : where the decoded samples go; by default ``$XDG_CACHE_HOME/dynse``.

    Raises
    ------
    CorpusError
        Folder, tables or columns are missing, the split holds no speech or no noise, or there is no
        such corpus to leave out.
    """
    data = Path(data)
    if split not in SPLITS:
        raise CorpusError(f"unknown split {split!r}; known ones are {', '.join(SPLITS)}")
    if not data.is_dir():
        raise CorpusError(f"{data}: no such folder")
    if (data / "speech.csv").is_file() and (data / "noise.csv").is_file():
        speech_rows = _table(data / "speech.csv", ("path", "split"))
        noise_rows = _table(data / "noise.csv", ("path", "split"))
    elif (data / "clean").is_dir() and (data / "noise").is_dir():
        speech_rows, noise_rows = _clean_rows(data), _noise_rows(data)
    else:
        raise CorpusError(f"{data}: needs speech.csv and noise.csv, or folders clean/ and noise/")
    corpora = {row.get("corpus", "") for row in (*speech_rows, *noise_rows)} - {""}
    if unknown := sorted(set(exclude) - corpora):
        known = f"known are {', '.join(sorted(corpora))}" if corpora else "it names none"
        raise CorpusError(f"{data}: no corpus {unknown[0]!r} to leave out; {known}")
    speech_rows, noise_rows = (
        [row for row in rows if row["split"] == split and row.get("corpus", "") not in exclude]
        for rows in (speech_rows, noise_rows)
    )
    for name, rows in (("speech", speech_rows), ("noise", noise_rows)):
        if not rows:
            raise CorpusError(f"{data}: no {name} in the split {split!r}")
    key = hashlib.sha256()
    for row in (*speech_rows, *noise_rows):
        try:
            stat = (data / row["path"]).stat()
        except OSError as error:
            raise CorpusError(f"{data / row['path']}: {error.strerror}") from error
        key.update(f"{row['path']}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    cache_dir = cache_dir or _default_cache()
    cache = cache_dir / f"corpus-{split}-{key.hexdigest()[:16]}.npy"
    index = cache.with_suffix(".json")
    if not (cache.is_file() and index.is_file()):
        _decode(data, [row["path"] for row in (*speech_rows, *noise_rows)], cache, index)
    places: dict[str, tuple[int, int]] = json.loads(index.read_text())
    speech = [_clip(row, places, weight=_cleanliness(row)) for row in speech_rows]
    noise = [_clip(row, places) for row in noise_rows]
    return Corpus(
        [clip for clip in speech if clip.frames >= SAMPLE_RATE // 2],
        [clip for clip in noise if clip.frames >= SAMPLE_RATE // 8],
        cache,
    )


def _cleanliness(row: dict[str, str]) -> float:
    """Weight of a clip as a clean target, from its background rating (DNSMOS BAK, 1..5).

    Below about 3.9 a recording carries audible noise of its own, and a net trained on it learns to
    leave noise in. Weighted rather than dropped, for the voices.
    """
    rating = row.get("dnsmos_bak", "")
    return float(1 / (1 + np.exp(-(float(rating) - 3.8) / 0.1))) if rating else 1.0


def _clip(row: dict[str, str], places: dict[str, tuple[int, int]], weight: float = 1.0) -> Clip:
    start, frames = places[row["path"]]
    names = ("speaker", "gender", "language", "corpus", "category", "label", "license")
    labels = {name: row.get(name) or "" for name in names}
    return Clip(path=row["path"], start=start, frames=frames, weight=weight, **labels)


def _table(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing:
        raise CorpusError(f"{path}: no column {', '.join(missing)}")
    return rows


def _recordings(folder: Path) -> list[Path]:
    """As the commands take them from a folder: none of hidden folders, nor what macOS leaves."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in READABLE
        and not path.name.startswith("._")
        and not any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])
    )


def _drawn_splits(keys: set[str], what: str) -> dict[str, str]:
    """Split of each key, 80/10/10, drawn from its hash so that it stays as files are added.

    With few keys a split may have drawn none; it then takes the nearest of the training keys.
    """
    if not keys:
        return {}
    if len(keys) < len(SPLITS):
        raise CorpusError(f"{what} needs at least {len(SPLITS)} to split, found {len(keys)}")
    draw = {key: zlib.crc32(key.encode()) % 100 for key in keys}
    split = {key: "train" if d < 80 else "valid" if d < 90 else "test" for key, d in draw.items()}
    for name in SPLITS:
        if name not in split.values():
            counts = {other: list(split.values()).count(other) for other in SPLITS}
            largest = max(counts, key=lambda other: counts[other])
            found = (key for key in sorted(keys) if split[key] == largest)
            split[max(found, key=lambda key: draw[key])] = name
    return split


def _clean_rows(data: Path) -> list[dict[str, str]]:
    """Speech of a plain folder: the speaker is the folder below clean/, or the table's word."""
    table: dict[str, dict[str, str]] = {}
    if (data / "speakers.csv").is_file():
        table = {row["speaker"]: row for row in _table(data / "speakers.csv", ("speaker",))}
    found = {}
    for path in _recordings(data / "clean"):
        inner = path.relative_to(data / "clean")
        found[path] = inner.parts[0] if len(inner.parts) > 1 else path.stem.split("_")[0]
    free = {name for name in found.values() if not table.get(name, {}).get("split")}
    drawn = _drawn_splits(free, f"{data / 'clean'} (folders or names by speaker)")
    rows = []
    for path, speaker in found.items():
        known = table.get(speaker, {})
        rows.append(
            {
                "path": path.relative_to(data).as_posix(),
                "split": known.get("split") or drawn[speaker],
                "speaker": speaker,
                "gender": known.get("gender", ""),
                "language": known.get("accent", "") or known.get("language", ""),
            }
        )
    return rows


def _noise_rows(data: Path) -> list[dict[str, str]]:
    """Noise of a plain folder: the category is the table's word, or the folder below noise/."""
    table: dict[str, dict[str, str]] = {}
    if (data / "noise.csv").is_file():
        table = {row["name"]: row for row in _table(data / "noise.csv", ("name", "category"))}
    found = _recordings(data / "noise")
    known_rows = {}
    for path in found:
        name = path.relative_to(data / "noise").as_posix()
        known_rows[name] = table.get(name) or table.get(path.name) or table.get(path.stem) or {}
    free = {name for name, known in known_rows.items() if not known.get("split")}
    drawn = _drawn_splits(free, str(data / "noise"))
    rows = []
    for path in found:
        inner = path.relative_to(data / "noise")
        known = known_rows[inner.as_posix()]
        folder = inner.parts[0] if len(inner.parts) > 1 else ""
        rows.append(
            {
                "path": path.relative_to(data).as_posix(),
                "split": known.get("split") or drawn[inner.as_posix()],
                "category": known.get("category") or folder,
                "label": path.stem,
            }
        )
    return rows


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynse"


def read_mono(path: Path) -> NDArray[np.float32]:
    """A recording as (n,) float32 at 16 kHz, channels averaged.

    Raises
    ------
    UnreadableError
    """
    try:
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UnreadableError(str(error), path) from error
    mono = x.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return np.asarray(mono, np.float32)


def _int16(path: Path) -> NDArray[np.int16]:
    x: NDArray[np.int16] = np.round(np.clip(read_mono(path) * 32768, -32768, 32767)).astype("i2")
    return x


def _decode(data: Path, paths: list[str], cache: Path, index: Path) -> None:
    places: dict[str, tuple[int, int]] = {}
    parts: list[NDArray[np.int16]] = []
    start = 0
    with ThreadPoolExecutor() as threads:
        for path, x in zip(paths, threads.map(_int16, [data / p for p in paths]), strict=True):
            parts.append(x)
            places[path] = (start, len(x))
            start += len(x)
    cache.parent.mkdir(parents=True, exist_ok=True)
    for target, write in (
        (cache, lambda file: np.save(file, np.concatenate(parts))),
        (index, lambda file: file.write(json.dumps(places).encode())),
    ):
        with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
            write(file)
        os.replace(file.name, target)
