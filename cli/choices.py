"""What options of `enhance` and `probe` mean together, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import typer

from .conditions import CUSTOM, Condition, ConditionError
from .options import Executor, RawSubtype
from .planning import Job
from .workers import available_cores

if TYPE_CHECKING:
    from ..probes.probe_file import Probes

PICTURES = ("png", "svg", "pdf")
"""Formats of --plot."""


class Who(TypedDict):
    """How `batch.run` is told who does the work."""

    workers: int
    ray: bool


def executors(executor: Executor, jobs: int) -> Who:
    """Who does the work, by --executor and -j."""
    ray = executor is Executor.RAY
    return {"workers": 0 if ray and jobs < 2 else jobs or available_cores(), "ray": ray}


def headerless(
    raw: RawSubtype | None, rate: int | None, channels: int | None
) -> tuple[str, int, int] | None:
    """Format of inputs without a header.

    Raises
    ------
    typer.BadParameter
        One of --raw, --rate and --channels is missing.
    """
    for option, value in (("--rate", rate), ("--channels", channels)):
        if (value is None) != (raw is None):
            missing = "--raw is missing" if raw is None else "needed with --raw"
            raise typer.BadParameter(missing, param_hint=option)
    if raw is None or rate is None or channels is None:
        return None
    return raw.value, rate, channels


def parse_conditions(option: str, texts: Sequence[str]) -> list[Condition]:
    """Understand what was given to `option`.

    Raises
    ------
    typer.BadParameter
        With what can be understood.
    """
    try:
        return [Condition(text) for text in texts]
    except ConditionError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


_PROBE_OF = {
    "speech_ratio": "vad", "segments": "vad", "noise": "category",
    "f0_median_hz": "f0_hz", "f0_p10_hz": "f0_hz", "f0_p90_hz": "f0_hz",
}  # fmt: skip
"""Field of a condition -> the probe that it is read by, where that has another name."""


def check_fields(option: str, conditions: Sequence[Condition], probes: Probes) -> None:
    """Refuse a comparison with a word that the probes never say, or of what they do not tell.

    Raises
    ------
    typer.BadParameter
    """
    from ..probes.probe_file import BUILT_IN
    from .report import own_probes

    there = {probe.name for probe in probes.probes}
    own = {CUSTOM + probe.name: probe for probe in own_probes(probes)}

    def refuse(condition: Condition, why: str) -> typer.BadParameter:
        return typer.BadParameter(f"{condition.text!r}: {why}", param_hint=option)

    for condition in conditions:
        for field in condition.fields:
            if _PROBE_OF.get(field, field) in BUILT_IN - there:
                raise refuse(condition, f"the probes given do not tell {field}")
            if field.startswith(CUSTOM) and field not in own:
                rest = f"; known are {', '.join(own)}" if own else ", which have none of one's own"
                raise refuse(condition, f"{field} is no field of the probes{rest}")
        for field in condition.numbers:
            if field in own and own[field].kind == "class":
                raise refuse(condition, f"{field} is a word; one of digits is put in quotes")
        for field, word in condition.words:
            if field in own and own[field].kind != "class":
                raise refuse(condition, f"{field} is a number, {word!r} is not")
            name = _PROBE_OF.get(field, field)
            fitted = [p for p in probes.probes if p.name == name]
            fitted += [own[field]] if field in own else []
            known = {x for probe in fitted for x in probe.classes if x not in probe.unnamed}
            if known and word not in known:
                raise refuse(
                    condition,
                    f"{word!r} is no {field} of the probes; known are {', '.join(sorted(known))}",
                )


def check_extra(option: str, path: str, jobs: Sequence[Job]) -> None:
    """Refuse a second file of output with several inputs, or in place of another file.

    Raises
    ------
    typer.BadParameter
    """
    if len(jobs) > 1:
        raise typer.BadParameter("takes one input", param_hint=option)
    if path == "-":
        raise typer.BadParameter("needs a file", param_hint=option)
    places = [place for place in (jobs[0].source, jobs[0].target) if place not in ("", "-")]
    if any(same_place(path, place) for place in places):
        raise typer.BadParameter("is the input or the output", param_hint=option)


def same_place(path: str, other: str) -> bool:
    """Whether two names lead to one file."""
    return os.path.realpath(path) == os.path.realpath(other)


def check_picture(path: str | None, jobs: Sequence[Job], overwrite: bool) -> None:
    """Refuse a --plot that cannot be drawn.

    Raises
    ------
    typer.BadParameter
    """
    if path is None:
        return
    check_extra("--plot", path, jobs)
    found = picture_format(path)
    if found not in PICTURES:
        raise typer.BadParameter(
            f"pictures are {', '.join(PICTURES)}, not {found}", param_hint="--plot"
        )
    if os.path.lexists(path) and not overwrite:
        raise typer.BadParameter(f"{path} exists; --overwrite replaces it", param_hint="--plot")
    if os.path.lexists(path):
        return
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)  # made when there is a picture
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise typer.BadParameter(
            f"{path} cannot be written: {folder} is no folder to write to", param_hint="--plot"
        )


def picture_format(path: str) -> str:
    """Format that a picture's suffix names; PNG without a suffix."""
    return os.path.splitext(path)[1].lower().lstrip(".") or "png"
