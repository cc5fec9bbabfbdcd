"""One file or stream enhanced, as `dynse enhance` does it.

Apart from the command so that workers need not import the command line.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audio.errors import ExistsError, UnsupportedError, UnwritableError
from ..audio.parts import PartFile
from .conditions import Condition
from .planning import printable
from .workers import OnProgress, Place

if TYPE_CHECKING:
    from ..audio.io import ClipMode, Reader, Writer
    from ..audio.resampling import BandMode
    from ..models.engine import Engine
    from ..models.stream import ChannelMode
    from ..probes.probe_file import Probes
    from .report import Analyst

_BLOCK = 1 << 19
"""Samples, over all channels, that are taken from a file at once."""


@dataclass(frozen=True)
class Options:
    """What `dynse enhance` was told, of all inputs alike; see its help."""

    model: str
    atten_lim_db: float = 100.0
    mix: float = 1.0
    channel_mode: ChannelMode = "linked"
    band: BandMode = "model"
    subtype: str | None = None
    clip: ClipMode = "clamp"
    raw: tuple[str, int, int] | None = None
    residual: str | None = None
    plot: str | None = None
    overwrite: bool = False
    skip_existing: bool = False
    analyse: bool = False
    probes: str | None = None
    frames: bool = False
    only_if: str | None = None


@dataclass(frozen=True)
class Done:
    """What is told of one enhanced file."""

    source: str
    target: str
    sound_s: float
    took_s: float
    utilisation: float | None
    clipped: int
    warnings: tuple[str, ...]
    untouched: str = ""  # why, if it is a copy
    report: dict[str, Any] | None = None

    def lines(self) -> list[str]:
        """Lines for stderr: warnings first."""
        source, target = printable(self.source), printable(self.target)
        parts = [f"{self.sound_s:.2f} s in {self.took_s:.2f} s"]
        if self.sound_s > 0 and self.took_s > 0:
            parts[0] += f" ({self.sound_s / self.took_s:.0f} x real time)"
        if self.utilisation is not None:
            parts.append(f"utilisation {self.utilisation:.2f}")
        if self.clipped:
            parts.append(f"{self.clipped} samples clipped")
        if self.untouched:
            parts.insert(0, self.untouched)
        told = f"{source} -> {target}: {', '.join(parts)}"
        return [*(f"{source}: warning: {text}" for text in self.warnings), told]


@dataclass(frozen=True)
class EnhanceWork:
    """Enhance each job with the same model and options; a `workers.Work`."""

    options: Options

    def start(self) -> Callable[[Place, OnProgress], Done | None]:
        """Load the model."""
        from .loading import load_model, load_probes_of

        options = self.options
        engine = load_model(options.model)
        probes = load_probes_of(options.model, options.probes) if options.analyse else None
        condition = None if options.only_if is None else Condition(options.only_if)

        def do(job: Place, heard: OnProgress) -> Done | None:
            try:
                if condition is not None and probes is not None:
                    return _enhance_if(condition, engine, probes, job, options, heard)
                return enhance_file(engine, job.source, job.target, options, heard, probes)
            except ExistsError as error:
                # Somebody else was faster: as good as if it had been there from the start.
                if options.skip_existing and error.path == job.target:
                    return None
                raise

        return do


def enhance_file(
    engine: Engine,
    source: str,
    target: str,
    options: Options,
    on_progress: OnProgress | None = None,
    probes: Probes | None = None,
) -> Done:
    """Enhance one file or stream, block by block.

    Parameters
    ----------
    engine : the loaded model; that `options` name one does not matter here.
    source, target : paths, or "-".
    on_progress : called as each block is done.
    probes : read in the same pass; the condition of `options` needs them.

    Raises
    ------
    AudioError
        The input cannot be read or the output cannot be written. No output is left behind.
    """
    import numpy as np

    from ..audio.io import RawFormat, open_reader
    from ..audio.residual import on_grid, residual_subtype, split_exactly
    from ..models.stream import Enhancer, Settings

    started = time.perf_counter()
    opened = frames = 0
    track: Any = None
    if options.plot is not None:
        from .plot import Decimator, plot_enhancement

        track = Decimator()

    def listen(gain: Any, gates: Any, heard: Any) -> None:
        nonlocal opened, frames
        opened += int(np.count_nonzero(gates))
        frames += len(gates)
        if analyst is not None:
            analyst.listen(gain, gates, heard)
        if track is not None:
            track.push(gates.reshape(len(gates), -1))

    analyst: Analyst | None = None
    if probes is not None:
        from .report import Analyst

        analyst = Analyst(engine, probes, options.frames)
    report: dict[str, Any] | None = None
    raw = None if options.raw is None else RawFormat(*options.raw)  # type: ignore[arg-type]
    settings = Settings(options.atten_lim_db, options.mix, options.channel_mode, options.band)
    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(source, raw))
        enhancer = Enhancer(engine, reader.sample_rate, reader.channels, settings, listen)
        warnings: list[str] = []
        # Both opened before either commits, and discarded unless both do: a refusal leaves none.
        writer = _open_target(target, reader, enhancer.channels, options, warnings)
        stack.callback(writer.discard)
        gridded = on_grid(reader.subtype) and enhancer.channels == reader.channels
        left: Writer | None = None
        if options.residual is not None:
            wide = residual_subtype(reader.subtype, writer.subtype, gridded)
            left = _open_residual(options, reader, enhancer.channels, wide)
            stack.callback(left.discard)
        waiting: list[Any] = []

        def write(out: Any) -> None:
            if left is None:
                writer.write(out)
                return
            heard = np.concatenate(waiting) if waiting else out[:0]
            y, removed = split_exactly(heard[: len(out)], out, writer.subtype, gridded)
            writer.write(y)
            left.write(removed)
            waiting[:] = [heard[len(out) :]]

        # Pipes get short blocks, so that the first samples leave before the last arrive.
        size = reader.sample_rate // 10 if reader.frames is None else reader.sample_rate
        for block in reader.blocks(min(size, _BLOCK // reader.channels)):
            if analyst is not None:
                analyst.hear(block)
            if left is not None:
                waiting.append(enhancer.input_of(block))
            write(enhancer.feed(block))
            if on_progress is not None:
                on_progress(reader.frames_read, reader.frames, reader.sample_rate)
        write(enhancer.flush())
        if analyst is not None:
            first_channel = options.channel_mode == "independent"
            report = analyst.report(source, reader, first_channel)
        writer.commit()
        if left is not None:
            left.commit()
            if left.clipped and left.subtype not in ("FLOAT", "DOUBLE"):
                warnings.append(f"{left.clipped} samples of the residual clipped")
            warnings += [f"residual: {warning.message}" for warning in left.warnings]
        warnings += [warning.message for warning in (*reader.warnings, *writer.warnings)]
    took = time.perf_counter() - started
    if options.plot is not None:
        plot_enhancement(options.plot, source, target, track, options.overwrite)
    gates = engine.gate_shape[0] * engine.gate_shape[1]
    floats = writer.subtype in ("FLOAT", "DOUBLE")
    return Done(
        source=source,
        target=target,
        sound_s=reader.frames_read / reader.sample_rate,
        took_s=took,
        utilisation=opened / (frames * gates) if frames and gates else None,
        clipped=0 if floats or options.clip != "clamp" else writer.clipped,
        warnings=tuple(dict.fromkeys(warnings)),
        report=report,
    )


def _enhance_if(
    condition: Condition,
    engine: Engine,
    probes: Probes,
    job: Place,
    options: Options,
    heard: OnProgress,
) -> Done:
    """Enhance where the condition holds, else copy.

    Only the end of a recording tells, so it is read twice: what is to be copied may be louder
    than its output could hold, or have no place for it while it is undecided.
    """
    from ..audio.formats import is_device
    from .probing import ProbeOptions, probe_file
    from .report import flat

    if is_device(job.source):
        raise UnsupportedError("it can be read only once, --only-if needs a file", job.source)
    started = time.perf_counter()
    asked = ProbeOptions(options.model, raw=options.raw, frames=options.frames)
    probed = probe_file(engine, probes, job.source, asked, heard)
    row = flat(probed.report)
    if condition.holds(row):
        done = enhance_file(engine, job.source, job.target, options, heard)
        return replace(done, report=probed.report, took_s=time.perf_counter() - started)
    why = f"copied untouched: {condition.text} does not hold, {condition.values(row)}"
    probed.report["warnings"].append({"code": "untouched", "message": why})
    if _copies_bytes(job, options):
        _copy(job, options.overwrite)
        utilisation = probed.report["compute"]["utilisation"]
        said = tuple(dict.fromkeys(probed.warnings))
        done = Done(job.source, job.target, probed.sound_s, 0.0, utilisation, 0, said)
    else:
        untouched = replace(options, atten_lim_db=0.0, band="keep")
        done = enhance_file(engine, job.source, job.target, untouched, heard)
    took = time.perf_counter() - started
    return replace(done, report=probed.report, took_s=took, untouched=why)


def _copies_bytes(job: Place, options: Options) -> bool:
    """Whether a copy of the file is what the target asks for."""
    from ..audio.io import container_of, open_reader

    if options.raw is not None or options.residual is not None or options.plot is not None:
        return False
    with open_reader(job.source) as reader:
        source = reader.subtype if reader.subtype == "OPUS" else reader.container
        wav = {"WAV", "RF64"}
        wanted = container_of(job.target)
        return (
            (source == wanted or {source, wanted} <= wav)
            and (options.subtype is None or options.subtype.upper() == reader.subtype)
            and (options.channel_mode != "mono" or reader.channels == 1)
        )


def _copy(job: Place, overwrite: bool) -> None:
    _make_folder(job.target)
    try:
        part = PartFile(job.target, overwrite)
        try:
            with open(job.source, "rb") as file, open(part.handle, "wb", closefd=False) as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
            part.rename()
        finally:
            part.discard()
    except OSError as error:
        raise UnwritableError(f"copying failed: {error.strerror}", job.target) from error


def _open_target(
    target: str, reader: Reader, channels: int, options: Options, warnings: list[str]
) -> Writer:
    from ..audio.io import container_of, open_writer, output_subtype

    raw = options.raw is not None and (
        target == "-" or Path(target).suffix.lower() in (".raw", ".pcm")
    )
    container = "RAW" if raw else container_of(target)
    subtype, warning = output_subtype(reader, container, options.subtype)
    if warning is not None:
        warnings.append(warning.message)
    _make_folder(target)
    return open_writer(
        target,
        reader.sample_rate,
        channels,
        subtype,
        container,
        clip=options.clip,
        overwrite=options.overwrite,
        frames=reader.frames if target != "-" else None,
        channel_mask=reader.channel_mask if channels == reader.channels else None,
    )


def _open_residual(options: Options, reader: Reader, channels: int, subtype: str) -> Writer:
    from ..audio.io import open_writer

    assert options.residual is not None
    _make_folder(options.residual)
    return open_writer(
        options.residual,
        reader.sample_rate,
        channels,
        subtype,
        overwrite=options.overwrite,
        frames=reader.frames,
        channel_mask=reader.channel_mask if channels == reader.channels else None,
    )


def _make_folder(target: str) -> None:
    folder = os.path.dirname(target)
    if target != "-" and folder:
        try:
            os.makedirs(folder, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UnwritableError("it would lie in a file, not in a folder", target) from error
