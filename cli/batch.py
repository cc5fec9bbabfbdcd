"""From what a user names to what is done: the plan of inputs and outputs, made before any work."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import typer

from ..audio.suffixes import READABLE, WRITABLE


@dataclass(frozen=True)
class Job:
    """One input and the place of its output; "-" is stdin or stdout."""

    source: str
    target: str


@dataclass(frozen=True)
class _Input:
    path: str
    inner: str  # below the folder that was named; the bare name of a file named by hand


def plan(inputs: Iterable[str], output: str | None, recursive: bool, suffix: str) -> list[Job]:
    """Map inputs to outputs.

    Parameters
    ----------
    inputs : files, folders, quoted globs, "-".
    output : a file (one input), a folder, "-", or None for `NAME<suffix>.EXT` beside the input.
    recursive : descend into folders.
    suffix : put behind the name where the output goes beside the input.

    Raises
    ------
    typer.BadParameter
        No inputs, two inputs with one output, or an output that is an input.
    """
    named = list(inputs)
    found = [entry for name in named for entry in _expand(name, recursive)]
    if not found:
        raise typer.BadParameter(f"no audio files in {', '.join(named)}")
    found = list({os.path.abspath(entry.path): entry for entry in found}.values())
    as_folder = output is not None and output != "-" and _is_folder(output, named, found)
    jobs = []
    for entry in found:
        if output == "-" or (output is None and entry.path == "-"):
            target = "-"
        elif output is None:
            path = Path(entry.path)
            target = str(path.with_name(path.stem + suffix + _writable(path.suffix)))
        elif as_folder:
            inner = Path("stdin.wav" if entry.path == "-" else entry.inner)
            target = str(Path(output) / inner.with_suffix(_writable(inner.suffix)))
        else:
            target = output
        jobs.append(Job(entry.path, target))
    _refuse_collisions(jobs)
    return jobs


def _expand(name: str, recursive: bool) -> list[_Input]:
    if name == "-":
        return [_Input("-", "-")]
    path = Path(name)
    if path.is_dir():
        files = sorted(path.rglob("*") if recursive else path.iterdir())
        return [
            _Input(str(file), str(file.relative_to(path)))
            for file in files
            if file.suffix.lower() in READABLE and not file.is_dir()
        ]
    if not os.path.lexists(path) and glob.has_magic(name):
        return [
            entry
            for match in sorted(glob.glob(name, recursive=True))
            for entry in _expand(match, recursive)
        ]
    return [_Input(name, path.name)]  # a file named by hand is always tried


def _is_folder(output: str, named: list[str], found: list[_Input]) -> bool:
    if output.endswith(("/", os.sep)) or os.path.isdir(output):
        return True
    return len(found) > 1 or any(os.path.isdir(name) for name in named)


def _writable(suffix: str) -> str:
    return suffix if suffix.lower() in WRITABLE else ".wav"


def _refuse_collisions(jobs: list[Job]) -> None:
    owners: dict[str, str] = {}
    sources = {os.path.realpath(job.source) for job in jobs if job.source != "-"}
    if sum(job.target == "-" for job in jobs) > 1:
        raise typer.BadParameter("-o - takes one input", param_hint="-o")
    for job in jobs:
        if job.target == "-":
            continue
        place = os.path.realpath(job.target)
        if place in sources:
            raise typer.BadParameter(
                f"{job.target} is an input; inputs are never overwritten", param_hint="-o"
            )
        if place in owners:
            raise typer.BadParameter(
                f"{owners[place]} and {job.source} would both become {job.target}",
                param_hint="-o",
            )
        owners[place] = job.source
