"""Files that appear under their name only when they are complete.

Until then they are `.NAME.<random>.part` beside the target, locked as long as their process lives,
so that what a killed process left can be told from what another one is writing.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress

from .errors import ExistsError, UnwritableError

try:
    import fcntl
except ImportError:  # not on Windows: what is left there is never removed
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)


class PartFile:
    """A file to be renamed to `target`; made, locked and open as descriptor `handle`.

    Parameters
    ----------
    target : whole path; a link is followed, and what it points to replaced.
    overwrite : whether the target may exist.

    Raises
    ------
    ExistsError, UnwritableError
        The target may not be written.
    OSError
        The file cannot be made.
    """

    def __init__(self, target: str, overwrite: bool) -> None:
        self._name, self._overwrite = target, overwrite
        self._target = os.path.realpath(target)
        self.handle = -1
        self._path = ""
        with suppress(FileNotFoundError):
            os.lstat(self._target)  # a name that is too long fails now, not after the work
        self._refuse_existing()
        try:
            while not self._make():
                pass
        except BaseException:
            self.discard()
            raise

    def _make(self) -> bool:
        folder, base = os.path.split(self._target)
        # A name may have 255 bytes, this one needs 15 of them.
        stem = os.fsdecode(os.fsencode(base)[:200])
        self._path = os.path.join(folder, f".{stem}.{secrets.token_hex(4)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        # Not mkstemp: the file shall get the permissions that the user's umask gives.
        self.handle = os.open(self._path, flags, 0o666)
        if _lock(self.handle) and os.path.exists(self._path):
            return True
        os.close(self.handle)  # somebody who tidies up was here between the two lines
        self.handle = -1
        return False

    def rename(self) -> None:
        """Give the file its name.

        Raises
        ------
        ExistsError, UnwritableError
            The target has come into being meanwhile and may not be replaced.
        """
        self._refuse_existing()
        os.replace(self._path, self._target)
        self._path = ""
        self.discard()

    def discard(self) -> None:
        """Remove the file, unless it was renamed."""
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)
            self._path = ""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _refuse_existing(self) -> None:
        target, name = self._target, self._name
        if os.path.isdir(target):
            raise UnwritableError("it is a folder; name a file in it", name)
        if os.path.exists(target) and not os.path.isfile(target):
            # Renaming would put a file in place of /dev/null.
            raise UnwritableError("it is a device or a pipe; name a file", name)
        if os.path.exists(target) and not self._overwrite:
            raise ExistsError(
                "it exists; choose another name or allow overwriting (--overwrite)", name
            )
        if os.path.exists(target) and not os.access(target, os.W_OK):
            raise UnwritableError("it is write-protected; choose another name", name)


def remove_stale_parts(folder: str) -> int:
    """Remove what killed processes left in a folder; how many files that were."""
    removed = 0
    with suppress(OSError), os.scandir(folder or ".") as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                removed += _remove_if_unlocked(entry.path)
    return removed


def _remove_if_unlocked(path: str) -> bool:
    if fcntl is None:
        return False
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
            return True
        finally:
            os.close(handle)
    return False


def _lock(handle: int) -> bool:
    """Lock; False only if another process holds it. Some file systems know no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True
