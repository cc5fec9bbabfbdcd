"""Sound in and out as blocks: files, pipes and headerless PCM are the same thing here.

WAV is read and written by `wav`, the other formats go through libsndfile, and what that cannot open
through the `ffmpeg` binary, if there is one (`foreign`). `reading` and `writing` hold what the
doors of this module hand out.

Guarantees: memory of a few blocks whatever the length; samples handed on are finite; PCM read and
written in the same subtype is the same to the last bit; a target appears only when complete.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from .errors import AudioError
from .formats import (
    LOSSY,
    MAX_CHANNELS,
    RawFormat,
    Spec,
    Warning_,
    container_of,
    fit_subtype,
)
from .parts import remove_stale_parts
from .reading import Reader, open_source
from .suffixes import LINEAR
from .writing import ClipMode, Writer, make_writer, quantise

__all__ = [
    "MAX_CHANNELS",
    "ClipMode",
    "RawFormat",
    "Reader",
    "Warning_",
    "Writer",
    "container_of",
    "open_reader",
    "open_writer",
    "output_subtype",
    "quantise",
    "remove_stale_parts",
]

Source = str | os.PathLike[str] | BinaryIO


def open_reader(source: Source, raw: RawFormat | None = None) -> Reader:
    """Open a file, a pipe or a binary stream for reading.

    Parameters
    ----------
    source : str, path or binary stream
        "-" is stdin. A stream and any path that is not a regular file hold WAV, or `raw`.
    raw : RawFormat, optional
        The source is headerless PCM of this format.

    Raises
    ------
    UnreadableError
        If it is missing, a folder, not permitted, empty or damaged beyond reading.
    UnsupportedError
        If it is not sound of a known format, or its rate or channel count is not allowed.
    """
    path = None if not isinstance(source, str | os.PathLike) or source == "-" else Path(source)
    try:
        opened = open_source(path, sys.stdin.buffer if source == "-" else source, raw)  # type: ignore[arg-type]
        try:
            return Reader(opened)
        except AudioError:
            opened.close()
            raise
    except AudioError as error:
        name = path or ("stdin" if source == "-" else "stream")
        raise type(error)(error.reason, name) from error.__cause__


def open_writer(
    target: Source,
    sample_rate: int,
    channels: int,
    subtype: str = "PCM_16",
    container: str | None = None,
    *,
    clip: ClipMode = "clamp",
    overwrite: bool = False,
    frames: int | None = None,
    channel_mask: int | None = None,
) -> Writer:
    """Open a file, stdout or a binary stream for writing.

    Parameters
    ----------
    target : str, path or binary stream
        "-" is stdout. It, a stream and any existing path that is not a regular file take WAV of
        unknown length, or headerless PCM, each block flushed.
    sample_rate : int
        Hz.
    channels : int
    subtype : str
        Of the samples; the nearest one that the container holds is taken, with a warning.
    container : str, optional
        By the suffix of the target if not given; "RAW" is headerless PCM.
    clip : {"clamp", "rescale", "none"}
        What becomes of samples beyond full scale. "clamp" saturates them where the format has a
        full scale, floats keep them. "rescale" scales the whole file by one gain so that its peak
        is 1; it needs a file. "none" alters nothing, and refuses what integers cannot hold.
    overwrite : bool
        Whether the target may exist.
    frames : int, optional
        How many are to come. WAV of unknown length keeps 36 bytes of its header free to become
        RF64 beyond 4 GiB.
    channel_mask : int, optional
        Speaker positions, for WAV.

    Raises
    ------
    UnsupportedError
        If suffix, subtype, rate or channel count cannot be written.
    ExistsError
        If the target exists and `overwrite` is false.
    UnwritableError
        If the file cannot be created.
    """
    if container is None:
        container = "WAV"
        if isinstance(target, str | os.PathLike):
            container = container_of(target)
    spec = Spec(sample_rate, channels, subtype, container.upper(), channel_mask)
    return make_writer(target, spec, clip, overwrite, frames)


def output_subtype(
    reader: Reader, container: str, override: str | None = None
) -> tuple[str, Warning_ | None]:
    """Return the subtype to write so that the source's sample format is kept where it can be.

    Parameters
    ----------
    reader : Reader
        The source.
    container : str
        Of the target, as `container_of` gives it.
    override : str, optional
        What the user wants instead.

    Returns
    -------
    The subtype, and a warning where precision or an explicit wish is lost or the coding changes.

    Raises
    ------
    UnsupportedError
        If `override` is no subtype that can be written.
    """
    if override is not None:
        return fit_subtype(override, container)
    if reader.subtype in LINEAR or reader.subtype in LOSSY:
        wish = reader.subtype if reader.subtype in LINEAR else "PCM_16"
        subtype, warning = fit_subtype(wish, container)
        # Who names an .ogg knows that it is lossy.
        return subtype, None if subtype in LOSSY else warning
    subtype, _ = fit_subtype("PCM_16", container)
    return subtype, Warning_("subtype", f"{reader.subtype} in, {subtype} out")
