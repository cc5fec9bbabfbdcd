"""Reports on stdout, in the order of the inputs and in the form that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import typer

from . import report as reports
from .planning import printable
from .progress import Screen, abandon
from .report import Report


class Form(StrEnum):
    """What reports are written as; the values are the options that ask for them."""

    TABLE = ""
    JSON = "--json"
    JSONL = "--jsonl"
    CSV = "--csv"
    RTTM = "--rttm"
    LABELS = "--labels"
    TEXTGRID = "--textgrid"
    F0_CSV = "--f0-csv"

    @property
    def single(self) -> bool:
        """Whether it has room for one input only."""
        return self in (Form.LABELS, Form.TEXTGRID, Form.F0_CSV)


_TEXT: dict[Form, Callable[[Report], str]] = {
    Form.TABLE: reports.to_table,
    Form.LABELS: reports.to_labels,
    Form.TEXTGRID: reports.to_textgrid,
    Form.F0_CSV: reports.to_f0_csv,
}
"""Forms that say nothing of a failed input: stderr and the exit code do."""


def choose_form(frames: bool, **wanted: bool) -> Form:
    """The one form that was asked for, by its name in small letters.

    Raises
    ------
    typer.BadParameter
        Two were, or `--frames` without JSON.
    """
    asked = [Form[name.upper()] for name, wants in wanted.items() if wants]
    if len(asked) > 1:
        raise typer.BadParameter("choose one form of output", param_hint=" ".join(asked))
    form = asked[0] if asked else Form.TABLE
    if frames and form not in (Form.JSON, Form.JSONL):
        raise typer.BadParameter("goes with --json or --jsonl", param_hint="--frames")
    return form


class Output:
    """Writes reports as they come, each as soon as all before it are out.

    Parameters
    ----------
    form : how.
    single : JSON is one object, not an array.
    own_columns : of CSV, of the probes in use.
    optional : reports are a by-product: that they cannot be written stops nothing.

    Attributes
    ----------
    error : why optional reports could not be written, other than that their reader has gone.
    """

    def __init__(
        self, form: Form, single: bool, own_columns: Sequence[str] = (), *, optional: bool = False
    ) -> None:
        self._form, self._single, self._optional = form, single, optional
        self._own_columns = own_columns
        self.error: OSError | None = None
        self._lost = False
        self._waiting: dict[int, Report | None] = {}
        self._next = 0
        self._kept: list[Report] = []
        self._begun = False

    def put(self, screen: Screen, i: int, report: Report | None) -> None:
        """Take the report of input `i`; None if there is none."""
        self._waiting[i] = report
        while self._next in self._waiting:
            self._write(screen, self._waiting.pop(self._next))
            self._next += 1

    def close(self, screen: Screen) -> None:
        """Write what is left, also after inputs that never ended."""
        for i in sorted(self._waiting):
            self._write(screen, self._waiting[i])
        self._waiting.clear()
        if self._form is Form.JSON and (self._kept or not self._single):
            found: Any = self._kept[0] if self._single else self._kept
            self._say(screen, reports.to_json(found))

    def _write(self, screen: Screen, report: Report | None) -> None:
        if report is None:
            return
        if self._form is Form.JSON:
            self._kept.append(report)
        elif self._form is Form.JSONL:
            self._say(screen, reports.to_json(report, None))
        elif self._form is Form.CSV:
            row = reports.to_csv(report, not self._begun, self._own_columns)
            self._say(screen, row)
        elif self._form is Form.RTTM:
            self._say(screen, reports.to_rttm(report))
        elif report["status"] == "ok":
            text = _TEXT[self._form](report)
            if self._form is Form.TEXTGRID and not text:
                path = printable(report["path"])
                screen.line(f"{path}: it holds no samples, and a TextGrid has to: none written")
            self._say(screen, text)
        self._begun = True

    def _say(self, screen: Screen, text: str) -> None:
        if not text or self._lost:
            return
        try:
            screen.data(text.encode() + b"\n")
        except OSError as error:
            if not self._optional:
                raise
            self._lost = True
            self.error = None if isinstance(error, BrokenPipeError) else error
            abandon(sys.__stdout__, 1)
