"""A table of recordings with targets of one's own: what `dynse fit-probes` reads as manifest.csv.

    path,mic_distance_m,device,split
    a.wav,0.3,headset,train
    b.wav,2.0,laptop,test

``path`` is relative to the table's folder. ``split`` (train, valid, test) and ``group`` are
optional: without the first, recordings are divided 70/15/15 by a hash of their group (of their
path, if there is none), so that a speaker or a session does not end up on two sides. Every other
column is a target of the whole recording: a value if all its cells are numbers, else a class;
empty cells are unknown. The recordings are taken as they are, noisy, and need no clean reference.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.corpus import SPLITS, CorpusError, read_mono
from ..models.engine import Engine
from .data import LabelledStream, Say
from .features import Features, collect
from .fitting import Task
from .probe_file import around

__all__ = ["SPANS", "Manifest", "load_manifest"]

_OWN = ("path", "split", "group")
SPANS = around(125)
"""What is said of a whole recording changes slowly, if at all."""
_EACH = 16


@dataclass(frozen=True)
class Manifest:
    """Recordings and what is known about them.

    Attributes
    ----------
    rows : column -> cell, of each recording, with a ``split``.
    tasks : one a target column.
    classes : of each task that tells classes apart.
    """

    folder: Path
    rows: list[dict[str, str]]
    tasks: tuple[Task, ...]
    classes: dict[str, list[str]]

    def of(self, split: str) -> list[dict[str, str]]:
        """Rows of one split."""
        return [row for row in self.rows if row["split"] == split]

    def counts(self, split: str) -> dict[str, object]:
        """Recordings in a split, and how many know each target: for a look before a fit."""
        rows = self.of(split)
        found: dict[str, object] = {"recordings": len(rows)}
        for task in self.tasks:
            cells = [row[task.name] for row in rows if row[task.name]]
            found[task.name] = (
                {name: cells.count(name) for name in self.classes[task.name]}
                if task.kind == "class"
                else f"{len(cells)} values"
            )
        return found

    def stream(
        self, split: str, engine: Engine, say: Say = lambda text: None
    ) -> tuple[LabelledStream, Features] | None:
        """Targets and averaged masks of a split's recordings; None if it has none.

        The features are averages over `SPANS`, one in `_EACH` frames; the probes to be written
        read `SPANS`.

        Raises
        ------
        UnreadableError
            A recording cannot be decoded.
        """
        rows = self.of(split)
        if not rows:
            return None
        say(f"{split}: masks of {len(rows)} recordings")
        stored, lengths = [], []
        for row in rows:
            masks = collect(engine, [np.nan_to_num(read_mono(self.folder / row["path"]))])["masks"]
            # Averaged within the recording, and thinned, as averages hardly differ nearby.
            averaged = masks.block(0, len(masks), None, SPANS)
            stored.append(averaged[min(_EACH, len(averaged)) // 2 :: _EACH].astype(np.float16))
            lengths.append(len(stored[-1]))
        recording = np.repeat(np.arange(len(rows)), lengths).astype(np.int32)
        labels: dict[str, NDArray[np.int32]] = {"scene": recording, "utterance": recording}
        targets: dict[str, NDArray[Any]] = {"vad": np.ones(len(recording), np.bool_)}
        for task in self.tasks:
            cells = [row[task.name] for row in rows]
            if task.kind == "class":
                names = self.classes[task.name]
                numbers = np.array([names.index(c) if c in names else -1 for c in cells], np.int32)
                labels[task.name] = numbers[recording]
            else:
                values = np.array([float(c) if c else np.nan for c in cells], np.float32)
                targets[task.name] = values[recording]
        none = np.zeros(0, np.int16)
        stream = LabelledStream(self.folder, none, none, labels, dict(self.classes), [], targets)
        return stream, Features.of(np.concatenate(stored))


def load_manifest(data: Path | str) -> Manifest | None:
    """Read DATA/manifest.csv; None if there is none.

    Raises
    ------
    CorpusError
        No column ``path``, no target column, a recording that is not there, an unknown split, or
        no recording to fit on.
    """
    place = Path(data) / "manifest.csv"
    if not place.is_file():
        return None
    with place.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or [] if name]
        rows = [{name: (row.get(name) or "").strip() for name in columns} for row in reader]
    if "path" not in columns:
        raise CorpusError(f"{place}: no column path")
    names = [name for name in columns if name not in _OWN]
    if not names:
        raise CorpusError(f"{place}: no target columns beside {', '.join(columns)}")
    for row in rows:
        if not (place.parent / row["path"]).is_file():
            raise CorpusError(f"{place}: no such file {row['path']!r}")
    _divide(place, rows)
    if not any(row["split"] == "train" for row in rows):
        raise CorpusError(f"{place}: no recording in the split 'train'")
    tasks, classes = [], {}
    for name in names:
        cells = [row[name] for row in rows if row[name]]
        if not cells:
            continue
        if all(_is_number(cell) for cell in cells):
            tasks.append(Task(name, "value", "all", title=name))
        else:
            tasks.append(Task(name, "class", "all", title=name))
            classes[name] = sorted({row[name] for row in rows if row[name]})
    return Manifest(place.parent, rows, tuple(tasks), classes)


def _divide(place: Path, rows: Sequence[dict[str, str]]) -> None:
    """Give each row a split."""
    for row in rows:
        if not row.get("split"):
            draw = zlib.crc32((row.get("group") or row["path"]).encode()) % 100
            row["split"] = "train" if draw < 70 else "valid" if draw < 85 else "test"
        elif row["split"] not in SPLITS:
            known = ", ".join(SPLITS)
            raise CorpusError(f"{place}: unknown split {row['split']!r}; known ones are {known}")


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False
