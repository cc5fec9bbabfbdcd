"""One file or stream read by the probes, as `dynse probe` does it.

Apart from the command so that workers need not import the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .workers import OnProgress, Place

if TYPE_CHECKING:
    from ..models.engine import Engine
    from ..probes.probe_file import Probes

_BLOCK = 1 << 19
"""Samples, over all channels, that are taken from a file at once."""


@dataclass(frozen=True)
class ProbeOptions:
    """What `dynse probe` was told, of all inputs alike; see its help."""

    model: str
    probes: str | None = None
    raw: tuple[str, int, int] | None = None
    frames: bool = False
    plot: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Probed:
    """What is known of one recording."""

    sound_s: float
    report: dict[str, Any]
    warnings: tuple[str, ...] = ()  # of the reader alone; the report has all


@dataclass(frozen=True)
class ProbeWork:
    """Probe each job with the same model and options; a `workers.Work`."""

    options: ProbeOptions

    def start(self) -> Callable[[Place, OnProgress], Probed]:
        """Load model and probes."""
        from .loading import load_model, load_probes_of

        engine = load_model(self.options.model)
        probes = load_probes_of(self.options.model, self.options.probes)

        def do(job: Place, heard: OnProgress) -> Probed:
            return probe_file(engine, probes, job.source, self.options, heard)

        return do


def probe_file(
    engine: Engine,
    probes: Probes,
    path: str,
    options: ProbeOptions,
    on_progress: OnProgress | None = None,
) -> Probed:
    """Read one file or stream to its end and report.

    The recording takes the path of `dynse enhance`, with linked channels; what comes out of it is
    not kept.

    Parameters
    ----------
    engine, probes : as loaded; that `options` name some does not matter here.
    path : a file, or "-".
    on_progress : called as each block is done.

    Raises
    ------
    AudioError
        The input cannot be read, or the picture cannot be written.
    """
    from ..audio.io import RawFormat, open_reader
    from ..models.stream import Enhancer
    from .report import Analyst

    raw = None if options.raw is None else RawFormat(*options.raw)  # type: ignore[arg-type]
    with open_reader(path, raw) as reader:
        analyst = Analyst(engine, probes, options.frames or options.plot is not None)
        picture: Any = None
        listen = analyst.listen
        if options.plot is not None:
            from .probe_plot import Picture

            picture = Picture(reader.sample_rate)

            def listen(gain: Any, gates: Any, heard: Any) -> None:
                analyst.listen(gain, gates, heard)
                picture.gates.push(gates.reshape(len(gates), -1))

        enhancer = Enhancer(engine, reader.sample_rate, reader.channels, listener=listen)
        for block in reader.blocks(min(reader.sample_rate, _BLOCK // reader.channels)):
            analyst.hear(block)
            out = enhancer.feed(block)
            if picture is not None:
                picture.push(block, out)
            if on_progress is not None:
                on_progress(reader.frames_read, reader.frames, reader.sample_rate)
        out = enhancer.flush()
        if picture is not None:
            picture.push(out[:0], out)
        report = analyst.report(path, reader)
        warnings = tuple(warning.message for warning in reader.warnings)
    if picture is not None:
        assert options.plot is not None
        picture.draw(options.plot, report, options.overwrite)
        if not options.frames:
            del report["frames"]
    return Probed(reader.frames_read / reader.sample_rate, report, warnings)
