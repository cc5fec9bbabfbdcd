"""Progress on stderr, only where a person is looking at it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 0.5
"""Shorter work shows no bar, and does not wait for rich to be imported."""


class FileProgress:
    """A bar for one file of known or unknown length.

    Parameters
    ----------
    label : shown beside the bar.
    quiet : show nothing.
    """

    def __init__(self, label: str, quiet: bool = False):
        self._label = label
        self._shown = not quiet and sys.stderr.isatty()
        self._started = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def update(self, done: int, total: int | None, rate: int) -> None:
        """Move the bar to `done` of `total` frames at `rate` Hz."""
        if not self._shown or time.monotonic() - self._started < _PATIENCE_S:
            return
        if self._progress is None:
            self._progress = self._open()
            self._task = self._progress.add_task(self._label, total=None)
        assert self._task is not None
        seconds = None if total is None else total / rate
        self._progress.update(self._task, completed=done / rate, total=seconds)

    def _open(self) -> Progress:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._label = escape(self._label)
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} s of sound"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        progress.start()
        return progress

    def __enter__(self) -> FileProgress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
