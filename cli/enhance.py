"""`dynse enhance`: clean speech out of noisy speech."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..audio.errors import AudioError, DynseError
from .batch import Job, plan
from .progress import FileProgress

if TYPE_CHECKING:
    from ..models.engine import Engine
    from ..models.stream import Settings


class ChannelMode(StrEnum):
    """What the channels of a recording have to do with each other."""

    LINKED = "linked"
    INDEPENDENT = "independent"
    MONO = "mono"


class Band(StrEnum):
    """What becomes of the band above 8 kHz."""

    MODEL = "model"
    KEEP = "keep"
    DROP = "drop"


def enhance(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IN...", help="Files, folders, quoted globs; - is stdin."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="File (one input), folder, or - for stdout. "
            "Default: NAME_enhanced.wav beside the input.",
        ),
    ] = None,
    atten_lim: Annotated[
        float,
        typer.Option(
            "-a",
            "--atten-lim",
            min=0,
            max=100,
            metavar="DB",
            help="Attenuate nothing by more than this: 0 untouched, 100 full.",
        ),
    ] = 100.0,
    mix: Annotated[
        float, typer.Option(min=0, max=1, help="0 is the input, 1 the enhanced signal.")
    ] = 1.0,
    residual: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also write what was removed (one input)."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also draw spectrograms and active channels (one input)."
        ),
    ] = None,
    channel_mode: Annotated[
        ChannelMode,
        typer.Option(help="One gain for all channels, one for each, or mix down to one."),
    ] = ChannelMode.LINKED,
    band: Annotated[
        Band,
        typer.Option(help="Above 8 kHz: attenuate with the model's broadband gain, keep, or drop."),
    ] = Band.MODEL,
    subtype: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Sample format (PCM_16, PCM_24, FLOAT, ...)."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="A shipped model or a checkpoint.")
    ] = None,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Descend into folders.")] = (
        False
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace outputs that exist.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tracebacks of failures.")
    ] = False,
) -> None:
    """Clean noisy speech.

    Keeps sample rate, channels, sample format and length; the output is sample-aligned with the
    input. Exit code 1 if any input failed; the others are done all the same.
    """
    jobs = plan(inputs, output, recursive, "_enhanced")
    for option, value in (("--residual", residual), ("--plot", plot)):
        if value is not None and len(jobs) > 1:
            raise typer.BadParameter("takes one input", param_hint=option)
    if plot is not None and "-" in (jobs[0].source, jobs[0].target):
        raise typer.BadParameter("needs files, not pipes", param_hint="--plot")
    if residual is not None and any(
        os.path.realpath(residual) == os.path.realpath(place)
        for job in jobs
        for place in (job.source, job.target)
        if place != "-"
    ):
        raise typer.BadParameter("is the input or the output", param_hint="--residual")

    from ..models.checkpoint import DEFAULT
    from ..models.engine import load
    from ..models.stream import Settings

    engine = load(model or DEFAULT)
    settings = Settings(
        atten_lim_db=atten_lim, mix=mix, channel_mode=channel_mode.value, band=band.value
    )
    failed = 0
    for number, job in enumerate(jobs, 1):
        label = f"[{number}/{len(jobs)}] {job.source}" if len(jobs) > 1 else job.source
        try:
            with FileProgress(label, quiet) as progress:
                done = enhance_file(
                    engine,
                    job,
                    settings,
                    residual=residual,
                    subtype=subtype,
                    plot=plot,
                    overwrite=overwrite,
                    on_progress=progress.update,
                )
        except (DynseError, OSError, MemoryError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if verbose:
                import traceback

                traceback.print_exc()
            print(failure_line(job, error), file=sys.stderr)
            failed += 1
            continue
        if not quiet:
            for line in done.lines():
                print(line, file=sys.stderr)
    if failed and len(jobs) > 1:
        print(f"dynse: {failed} of {len(jobs)} inputs failed", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Done:
    """What is told of one enhanced file."""

    job: Job
    sound_s: float
    took_s: float
    utilisation: float | None
    clipped: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """Lines for stderr: warnings first."""
        parts = [f"{self.sound_s:.2f} s in {self.took_s:.2f} s"]
        if self.sound_s > 0 and self.took_s > 0:
            parts[0] += f" ({self.sound_s / self.took_s:.0f} x real time)"
        if self.utilisation is not None:
            parts.append(f"utilisation {self.utilisation:.2f}")
        if self.clipped:
            parts.append(f"{self.clipped} samples clipped")
        told = f"{self.job.source} -> {self.job.target}: {', '.join(parts)}"
        return [*(f"{self.job.source}: warning: {text}" for text in self.warnings), told]


def failure_line(job: Job, error: Exception) -> str:
    """`path: reason` on one line, with the path once."""
    if isinstance(error, AudioError):
        return str(error) if error.path else f"{job.source}: {error}"
    if isinstance(error, OSError):
        return f"{error.filename or job.source}: {error.strerror or error}"
    return f"{job.source}: {' '.join(str(error).split()) or type(error).__name__}"


def enhance_file(
    engine: Engine,
    job: Job,
    settings: Settings,
    *,
    residual: str | None = None,
    subtype: str | None = None,
    plot: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int | None, int], None] | None = None,
) -> Done:
    """Enhance one file or stream, block by block.

    Parameters
    ----------
    on_progress : called with frames done, frames in all (None: unknown) and the sample rate.

    Raises
    ------
    AudioError
        The input cannot be read or the output cannot be written. No output is left behind.
    """
    from contextlib import ExitStack

    import numpy as np

    from ..audio.io import container_of, open_reader, open_writer, output_subtype
    from ..models.stream import Enhancer

    started = time.perf_counter()
    opened = frames = 0
    track: Any = None
    if plot is not None:
        from .plot import Decimator, plot_enhancement

        track = Decimator()

    def listen(_: Any, gates: Any) -> None:
        nonlocal opened, frames
        opened += int(np.count_nonzero(gates))
        frames += len(gates)
        if track is not None:
            track.push(gates.reshape(len(gates), -1))

    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(job.source))
        enhancer = Enhancer(engine, reader.sample_rate, reader.channels, settings, listen)
        warnings = []

        def open_target(target: str) -> Any:
            folder = os.path.dirname(target)
            if target != "-" and folder:
                os.makedirs(folder, exist_ok=True)
            chosen, warning = output_subtype(reader, container_of(target), subtype)
            if warning is not None:
                warnings.append(warning.message)
            return open_writer(
                target,
                reader.sample_rate,
                enhancer.channels,
                chosen,
                overwrite=overwrite,
                frames=reader.frames if target != "-" else None,
                channel_mask=reader.channel_mask if enhancer.channels > 1 else None,
            )

        # Both opened before either commits: a refusal leaves neither.
        writer = open_target(job.target)
        left = open_target(residual) if residual is not None else None
        targets = [writer] if left is None else [writer, left]
        waiting: list[Any] = []

        def write(out: Any) -> None:
            writer.write(out)
            if left is not None:
                heard = np.concatenate(waiting) if waiting else out[:0]
                left.write(heard[: len(out)] - out)
                waiting[:] = [heard[len(out) :]]

        try:
            # Pipes get short blocks, so that the first samples leave before the last arrive.
            size = reader.sample_rate // 10 if reader.frames is None else reader.sample_rate
            for block in reader.blocks(size):
                if left is not None:
                    waiting.append(enhancer.input_of(block))
                write(enhancer.feed(block))
                if on_progress is not None:
                    on_progress(reader.frames_read, reader.frames, reader.sample_rate)
            write(enhancer.flush())
            for target in targets:
                target.commit()
        except BaseException:
            for target in targets:
                target.discard()
            raise
        warnings += [warning.message for warning in reader.warnings]
    took = time.perf_counter() - started
    if plot is not None:
        plot_enhancement(plot, job.source, job.target, track)
    gates = engine.gate_shape[0] * engine.gate_shape[1]
    return Done(
        job=job,
        sound_s=reader.frames_read / reader.sample_rate,
        took_s=took,
        utilisation=opened / (frames * gates) if frames and gates else None,
        clipped=writer.clipped,
        warnings=tuple(dict.fromkeys(warnings)),
    )
