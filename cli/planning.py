"""From what a user names to what is to be done: inputs and outputs, settled before any work.

Must not import numpy: a plan, and a refusal of one, should take no time.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ..audio.errors import UnusableError
from ..audio.suffixes import READABLE, WRITABLE

HEADERLESS = (".raw", ".pcm")
"""Suffixes of outputs without a header, which only `--raw` writes."""

_FOLDS_CASE = sys.platform in ("darwin", "win32")
"""Whether a.wav and A.wav are one file, as they are with the usual settings of these systems."""


class RefusedError(UnusableError):
    """Nothing can be done in the way that was asked for."""


@dataclass(frozen=True)
class Job:
    """One input and the place of its output; "-" is stdin or stdout, "" nowhere."""

    source: str
    target: str


@dataclass(frozen=True)
class _Input:
    path: str
    inner: str  # where it goes below an output folder
    below: str | None = None  # the folder in which it was found; None: named by hand


@dataclass(frozen=True)
class Named:
    """What a user named.

    Attributes
    ----------
    inputs : files, folders, quoted globs, "-".
    listed : more files and folders, of `--files-from`; relative ones keep their folders.
    """

    inputs: list[str]
    listed: list[str]

    @property
    def single(self) -> bool:
        """Whether it is one file or stream, not a folder, glob or list of perhaps one."""
        return len(self.inputs) == 1 and not self.listed and not _is_several(self.inputs[0])


def read_named(inputs: list[str] | None, files_from: str | None) -> Named:
    """Take the arguments and the list of a command.

    Raises
    ------
    typer.BadParameter
        There is nothing, an empty name, stdin twice, or no such list.
    """
    inputs = inputs or []
    if files_from == "-" and "-" in inputs:
        raise typer.BadParameter("stdin cannot be both sound and list", param_hint="--files-from")
    if not inputs and files_from is None:
        raise typer.BadParameter("name files, folders or -", param_hint="IN...")
    if "" in inputs:
        raise typer.BadParameter("an input without a name", param_hint="IN...")
    return Named(inputs, [] if files_from is None else read_list(files_from))


def find(named: Named, recursive: bool) -> list[_Input]:
    """The inputs that names stand for, each file once.

    Raises
    ------
    typer.BadParameter
        There are none.
    """
    found = [entry for name in named.inputs for entry in expand(name, recursive, magic=True)]
    for name in named.listed:
        inner = None if os.path.isabs(name) or ".." in Path(name).parts else name
        found += expand(name, recursive, inner=inner)
    if not found:
        raise _nothing(named, recursive)
    return list({os.path.abspath(entry.path): entry for entry in found}.values())


def _nothing(named: Named, recursive: bool) -> typer.BadParameter:
    names = [*named.inputs, *named.listed]
    shown = ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
    hint = "" if recursive else "; -r descends into folders"
    where = f"in {shown}{hint}" if names else "in an empty list"
    return typer.BadParameter(f"no audio files {where}", param_hint="IN...")


def printable(name: str) -> str:
    """A file name that stays on one line and cannot steer a terminal."""
    return name if name.isprintable() else repr(name)[1:-1]


def plan(
    named: Named, output: str | None, recursive: bool, suffix: str, *, headerless: bool = False
) -> list[Job]:
    """Map inputs to outputs.

    Parameters
    ----------
    named : what the user named.
    output : a file (one input), a folder, "-", or None for `NAME<suffix>.EXT` beside the input.
    recursive : descend into folders.
    suffix : put behind the name where the output goes beside the input.
    headerless : outputs may be .raw and .pcm.

    Raises
    ------
    typer.BadParameter
        No inputs, two inputs with one output, an output that is an input or cannot be written.
    """
    found = find(named, recursive)
    as_folder = (
        output is not None
        and output != "-"
        and (bool(named.listed) or _is_folder(output, named.inputs))  # a list of one is a list
    )
    if output is not None and not as_folder:
        _check_file(output, len(found), headerless)
    elif as_folder and output is not None and _is_file(output):
        raise typer.BadParameter(f"{output} is a file, a folder is needed", param_hint="-o")
    elif as_folder and output is not None and _is_file_name(output):
        raise typer.BadParameter(
            f"several inputs need a folder; to have one named so, write {output}/",
            param_hint="-o",
        )

    def target(entry: _Input) -> str:
        if output == "-" or (output is None and entry.path == "-"):
            return "-"
        if output is None:
            path = Path(entry.path)
            return str(path.with_name(path.stem + suffix + _writable(path.suffix)))
        if not as_folder:
            return output
        inner = Path("stdin.wav" if entry.path == "-" else entry.inner)
        return str(Path(output) / inner.with_suffix(_writable(inner.suffix)))

    jobs = [Job(entry.path, target(entry)) for entry in _without_old_outputs(found, output, target)]
    if not jobs:
        raise _nothing(named, recursive)
    _refuse_collisions(jobs)
    return jobs


def read_list(name: str) -> list[str]:
    """Names from a file or, for "-", stdin: one a line, or between NUL bytes (find -print0).

    Raises
    ------
    typer.BadParameter
        The list cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise typer.BadParameter(
            f"{name}: {error.strerror or error}", param_hint="--files-from"
        ) from error
    lines = data.split(b"\0") if b"\0" in data else data.removeprefix(b"\xef\xbb\xbf").splitlines()
    # A file may be named "-": in a list that is not stdin.
    return ["./-" if line == b"-" else os.fsdecode(line) for line in lines if line.strip()]


def shard(jobs: Sequence[Job], part: str) -> list[Job]:
    """The jobs of part "K/N".

    Which part an input belongs to depends on its name alone, not on what else is there: parts
    that start at different times still share the work without gap or overlap.

    Raises
    ------
    typer.BadParameter
        It is not K/N with 1 <= K <= N.
    """
    first, slash, second = part.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise typer.BadParameter(
            f"{part!r}, wanted is K/N with K from 1 to N, such as 3/8", param_hint="--shard"
        )
    return [job for job in jobs if _hash(job.source) % int(second) == int(first) - 1]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(os.path.normpath(name))).digest()[:8], "big")


def expand(
    name: str, recursive: bool, *, magic: bool = False, inner: str | None = None
) -> Iterator[_Input]:
    """Inputs that a name stands for: itself, a folder's recordings, or a glob's (if `magic`)."""
    if name == "-":
        yield _Input("-", "-")
    elif os.path.isdir(name):
        for path in _files_in(name, recursive):
            below = os.path.relpath(path, name)
            yield _Input(path, below if inner is None else os.path.join(inner, below), name)
    elif magic and glob.has_magic(name) and not os.path.lexists(name):
        fixed = _fixed_part(name)
        matches = sorted(_matches(name))
        found: list[_Input] = []
        for match in matches:
            below = os.path.relpath(match, fixed)
            # A pattern such as in/** gives folders besides what is in them.
            if not os.path.isdir(match):
                found.append(_Input(match, below, fixed))
            elif "**" not in name:
                for entry in expand(match, recursive):
                    inside = os.path.join(below, entry.inner)
                    found.append(_Input(entry.path, inside, entry.below))
        yield from _each_once(found, fixed)
        if not matches:
            yield _Input(name, os.path.basename(name))  # fails like any file that is not there
    else:
        yield _Input(name, inner or os.path.basename(name))  # named by hand: always tried


def _matches(pattern: str) -> set[str]:
    """What a glob stands for; unlike Python's, ** follows no links, which may lead in circles."""
    parts = pattern.replace("/", os.sep).split(os.sep)
    if "**" not in parts:
        return set(glob.glob(pattern))
    at = parts.index("**")
    first, rest = os.sep.join(parts[:at]), os.sep.join(parts[at + 1 :]) or "*"
    if at and not first:
        first = os.sep
    found: set[str] = set()
    for root in glob.glob(os.path.join(first, "")) if first else [""]:
        for place, folders, _ in os.walk(root or os.curdir):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            inner = os.path.relpath(place, root or os.curdir)
            below = root if inner == os.curdir else os.path.join(root, inner)
            found |= _matches(os.path.join(glob.escape(below), rest))
    return found


def _each_once(found: list[_Input], top: str) -> list[_Input]:
    """Leave out what is reached by a linked folder, where it is found without or before as well."""
    real_top = os.path.realpath(top)
    folders: dict[str, tuple[str, bool]] = {}  # as found -> the real one, whether by a link
    best: dict[str, tuple[bool, int]] = {}
    for i, entry in enumerate(found):
        folder, base = os.path.split(entry.path)
        if folder not in folders:
            real, way = os.path.realpath(folder), os.path.relpath(folder or os.curdir, top)
            folders[folder] = real, real != os.path.normpath(os.path.join(real_top, way))
        real, linked = folders[folder]
        key = os.path.join(real, base)
        best[key] = min(best.get(key, (linked, i)), (linked, i))
    return [found[i] for i in sorted(i for _, i in best.values())]


def _files_in(folder: str, recursive: bool) -> Iterator[str]:
    unreadable: list[str] = []
    for place, folders, files in os.walk(folder, onerror=lambda e: unreadable.append(e.filename)):
        # .git, .Trash and the like; one that is named by hand is the top, and not left out.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            # ._x.wav is no sound but what macOS keeps of x.wav on foreign disks.
            if os.path.splitext(file)[1].lower() in READABLE and not file.startswith("._"):
                yield os.path.join(place, file)
        if not recursive:
            break
    yield from unreadable  # their failure is then reported like that of a file


def _fixed_part(pattern: str) -> str:
    """The folders of a pattern before the first wildcard."""
    fixed = os.path.dirname(pattern)
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    return fixed or "."


def _is_folder(output: str, named: list[str]) -> bool:
    if output.endswith(("/", os.sep)) or os.path.isdir(output):
        return True
    once = {name if name == "-" else os.path.abspath(name) for name in named}
    return len(once) > 1 or any(map(_is_several, named))


def _is_file(output: str) -> bool:
    return os.path.lexists(output.rstrip("/" + os.sep)) and not os.path.isdir(output)


def _is_file_name(output: str) -> bool:
    """Whether it reads like a sound file and is no folder."""
    if output.endswith(("/", os.sep)) or os.path.isdir(output):
        return False
    return os.path.splitext(output)[1].lower() in (*READABLE, *WRITABLE, *HEADERLESS)


def _is_several(name: str) -> bool:
    """Whether a name stands for what is in a folder or matches a pattern."""
    return os.path.isdir(name) or (glob.has_magic(name) and not os.path.lexists(name))


def _check_file(output: str, inputs: int, headerless: bool) -> None:
    if inputs > 1:
        one = "-o - takes one input" if output == "-" else "several inputs need a folder"
        raise typer.BadParameter(one, param_hint="-o")
    suffix = os.path.splitext(output)[1].lower()
    known = (*WRITABLE, *HEADERLESS) if headerless else tuple(WRITABLE)
    device = os.path.exists(output) and not os.path.isfile(output)
    if output != "-" and suffix not in known and not device:
        raise typer.BadParameter(
            f"{suffix or 'no suffix'} is no format to write; use {' '.join(known)},"
            " or end a folder's name with /",
            param_hint="-o",
        )


def _without_old_outputs(
    found: list[_Input], output: str | None, target: Callable[[_Input], str]
) -> Iterator[_Input]:
    """Leave out what an earlier run wrote into the folders that are read."""
    written = {os.path.realpath(target(entry)) for entry in found} if output is None else set()
    folder = None if output in (None, "-") else os.path.realpath(str(output)) + os.sep
    for entry in found:
        path = os.path.realpath(entry.path)
        if entry.below is not None and path in written:
            continue
        if entry.below is not None and folder and path.startswith(folder):
            around = os.path.realpath(entry.below)
            if folder.startswith(around + os.sep) and folder != around + os.sep:
                continue
        yield entry


def _writable(suffix: str) -> str:
    return suffix if suffix.lower() in WRITABLE else ".wav"


def _refuse_collisions(jobs: list[Job]) -> None:
    owners: dict[str, str] = {}
    sources = {os.path.realpath(job.source) for job in jobs if job.source != "-"}
    for job in jobs:
        if job.target == "-":
            continue
        place = os.path.realpath(job.target)
        key = place.casefold() if _FOLDS_CASE else place
        if place in sources:
            raise typer.BadParameter(
                f"{job.target} is an input; inputs are never overwritten", param_hint="-o"
            )
        if key in owners:
            raise typer.BadParameter(
                f"{owners[key]} and {job.source} would both become {job.target}",
                param_hint="-o",
            )
        owners[key] = job.source
