"""What is told on stderr while work goes on: lines, and a bar where a person is looking at it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 0.5
"""Shorter work shows no bar, and does not wait for rich to be imported."""

_EVERY_S = 0.1


def say(text: str) -> None:
    """Write a line to stderr; that it cannot be written, or nobody reads it, stops no work."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def abandon(stream: Any, number: int) -> None:
    """Let what is still to be written to stdout (1) or stderr (2) vanish.

    What could not be written waits in a buffer; Python would try again at its exit, complain and
    end with 120.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno() if stream else number)


class Screen:
    """Lines and a bar over several inputs of known or unknown length.

    Parameters
    ----------
    sizes : bytes of each input, 0 where unknown; how far the bar is goes by them, since lengths
        in seconds would have to be read from all headers first.
    quiet : no bar, and no lines but errors.
    """

    def __init__(self, sizes: list[int], quiet: bool = False):
        self._quiet, self._sizes = quiet, sizes
        self._shown = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._started, self._drawn = time.monotonic(), 0.0
        self._files, self._bytes, self._sound_s = 0, 0, 0.0
        self._running: dict[int, tuple[float, float]] = {}  # input -> share, seconds
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def line(self, text: str, error: bool = False) -> None:
        """Say something; nothing but errors when quiet."""
        if self._quiet and not error:
            return
        if self._progress is None:
            say(text)
            return
        with suppress(OSError):
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def data(self, data: bytes) -> None:
        """Write to stdout, without the bar in between where both are on one terminal."""
        bar = self._progress if sys.stdout.isatty() else None
        if bar is not None:
            bar.stop()
        try:
            # Bytes, so that it is UTF-8 whatever the locale says.
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        finally:
            if bar is not None:
                bar.start()

    def moved(self, i: int, done: int, total: int | None, rate: int) -> None:
        """Input `i` is at `done` of `total` frames at `rate` Hz."""
        self._running[i] = (min(done / total, 1.0) if total else 0.0, done / rate)
        self._draw()

    def ended(self, i: int) -> None:
        """Input `i` is done, or has failed."""
        self._sound_s += self._running.pop(i, (0.0, 0.0))[1]
        self._bytes += self._sizes[i]
        self._files += 1
        self._draw()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress is not None:
            with suppress(OSError):
                self._progress.stop()
            self._progress = None
            self._shown = False

    def told(self) -> tuple[float | None, str]:
        """Share that is done, if it is known, and what to write beside the bar."""
        spent = time.monotonic() - self._started
        sound = self._sound_s + sum(seconds for _, seconds in self._running.values())
        inside = sum(share * self._sizes[i] for i, (share, _) in self._running.items())
        total = sum(self._sizes)
        share = (self._bytes + inside) / total if total else None
        text = f"{self._files}/{len(self._sizes)} files, {_clock(sound)} of sound"
        if share:
            rest = (1 - share) / share
            text += f" done, about {_clock(sound * rest)} to go in {_clock(spent * rest)}"
        return share, text

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._shown or now - self._started < _PATIENCE_S or now - self._drawn < _EVERY_S:
            return
        self._drawn = now
        share, text = self.told()
        if self._progress is None:
            self._open()
        assert self._progress is not None
        assert self._task is not None
        total = None if share is None else 1.0
        self._progress.update(self._task, completed=share or 0.0, total=total, told=text)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            # It would send what is written to stdout to the bar's own stream, stderr.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=None, told="")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
