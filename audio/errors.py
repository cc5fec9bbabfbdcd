"""The library's errors: one base, one class a cause, each with a stable `code` for reports.

Texts are one line and say what came, what is allowed and what to do. The library raises; only
`cli/` turns an error into an exit code. Must not import anything of the package.
"""

from __future__ import annotations

import os


def _one_line(text: str) -> str:
    return " ".join(text.split())


class DynseError(Exception):
    """Base of every error that dynse raises on purpose."""

    code = "error"


class UnusableError(DynseError):
    """What a whole run stands on, as a model, a data folder or a package, cannot be used.

    Apart from what is wrong with one input of several: there is nothing left to do.
    """


class MissingPackageError(UnusableError):
    """A package that enhancing does not need, and this does, is not installed.

    Parameters
    ----------
    name : of the package.
    extra : of dynse, that brings it.
    """

    code = "missing_package"

    def __init__(self, name: str, extra: str = "train") -> None:
        super().__init__(name, extra)  # and no more: it is pickled between worker processes
        self.name, self.extra = name, extra

    def __str__(self) -> str:
        compiler = ", which takes a C++ compiler" if self.extra == "train" else ""
        return (
            f"this needs the package {self.name}: pip install 'dynse[{self.extra}]' (from a"
            f" checkout: pip install '.[{self.extra}]'){compiler}"
        )


class SamplesError(DynseError, ValueError):
    """An array that is no sound: its shape, type, rate or values are not those allowed."""

    code = "samples"


class AudioError(DynseError):
    """Something is wrong with a file or a stream of sound.

    Parameters
    ----------
    reason : str
        What came, what is allowed, what to do; folded into one line.
    path : str or os.PathLike, optional
        The file it is about; `str(error)` is then `path: reason`.
    """

    code = "audio"

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None) -> None:
        self.reason = _one_line(reason)
        self.path = None if path is None else os.fspath(path)
        # Both go to args so that the error survives the pickling between worker processes.
        super().__init__(self.reason, self.path)

    def __str__(self) -> str:
        if self.path is None:
            return self.reason
        # A name may hold a line break; the message must stay on one line.
        path = self.path if self.path.isprintable() else repr(self.path)[1:-1]
        return f"{path}: {self.reason}"


class UnreadableError(AudioError):
    """The source is missing, may not be opened, or is damaged beyond reading."""

    code = "unreadable"


class UnsupportedError(AudioError):
    """The source or target is of a format, rate, channel count or subtype not handled here."""

    code = "unsupported"


class NonFiniteError(AudioError):
    """Samples to be written hold NaN or Inf."""

    code = "non_finite"


class ClippedError(AudioError):
    """Samples beyond full scale do not fit the target, and clipping them was not allowed."""

    code = "clipped"


class UnwritableError(AudioError):
    """The target cannot be created, or writing to it failed."""

    code = "unwritable"


class ExistsError(AudioError):
    """The target exists and overwriting was not asked for."""

    code = "exists"
