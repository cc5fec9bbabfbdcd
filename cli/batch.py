"""A plan carried out by one process or several: failures, interruption, summary."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..audio.parts import remove_stale_parts
from .planning import Job, plan
from .progress import Screen
from .workers import Event, Failed, Moved, Pool, Work, here

__all__ = ["Job", "Tally", "plan", "run"]

INTERRUPTED = 130


@dataclass
class Tally:
    """What became of the jobs."""

    planned: int
    done: int = 0
    copied: int = 0  # of those done, what needed nothing
    skipped: int = 0
    failed: int = 0
    sound_s: float = 0.0
    took_s: float = 0.0
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 130 interrupted."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.failed else 0

    def summary(self, verb: str) -> str:
        """One line on the whole, `verb` being what was done to the inputs."""
        left = self.planned - self.done - self.skipped - self.failed
        counts = [(self.done - self.copied, verb), (self.copied, "copied untouched")]
        counts += [(self.skipped, "skipped"), (self.failed, "failed")]
        counts.append((left, "not started or finished"))
        parts = [f"{count} {what}" for count, what in counts if count]
        text = f"dynse: {self.planned} inputs: {', '.join(parts) or 'nothing done'}"
        if self.sound_s and self.took_s:
            text += f"; {self.sound_s:.0f} s of sound in {self.took_s:.1f} s"
            text += f" ({self.sound_s / self.took_s:.0f} x real time)"
        return text


class _FailedFast(Exception):  # noqa: N818 - not an error of the program
    """The first failure, and the others shall not be tried."""


def run(
    jobs: Sequence[Job],
    work: Work,
    on_done: Callable[[Screen, int, Any], None],
    *,
    workers: int = 1,
    ray: bool = False,
    fail_fast: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    skipped: int = 0,
    on_failure: Callable[[Screen, int, Failed], None] | None = None,
) -> Tally:
    """Do all jobs and tell about it on stderr.

    Parameters
    ----------
    on_done : called with a job's index and what `work` returned, as each ends; results have
        `sound_s`.
    workers : processes; jobs with "-" are done in this one.
    ray : spread the jobs over a Ray cluster instead, with at most `workers` actors if not 0.
    fail_fast : stop at the first failure.
    skipped : how many inputs were left out of `jobs`, for the summary.
    on_failure : called with a job's index and its failure, after its line on stderr.

    Raises
    ------
    DynseError
        If no job can be done at all: a model is missing, no worker starts.
    """
    for folder in {os.path.dirname(job.target) for job in jobs if job.target not in ("", "-")}:
        remove_stale_parts(folder)
    tally = Tally(len(jobs) + skipped, skipped=skipped)
    started = time.monotonic()
    screen = Screen([_size(job.source) for job in jobs], quiet)

    def tell(i: int, event: Event) -> None:
        if isinstance(event, Moved):
            screen.moved(i, event.done, event.total, event.rate)
            return
        screen.ended(i)
        if isinstance(event, Failed):
            tally.failed += 1
            screen.line(f"{event.trace}{event.line}" if verbose else event.line, error=True)
            if on_failure is not None:
                on_failure(screen, i, event)
            if fail_fast:
                raise _FailedFast
        elif event.result is None:
            tally.skipped += 1
        else:
            tally.done += 1
            tally.copied += bool(getattr(event.result, "untouched", ""))
            tally.sound_s += event.result.sound_s
            on_done(screen, i, event.result)

    pool: list[Pool] = []
    with screen, _interruptible(pool):
        try:
            _do(jobs, work, tell, workers, pool, ray)
        except _FailedFast:
            pass
        except KeyboardInterrupt:
            tally.interrupted = True
        finally:
            for each in pool:
                each.close()
    tally.took_s = time.monotonic() - started
    return tally


def _do(
    jobs: Sequence[Job],
    work: Work,
    tell: Callable[[int, Event], None],
    workers: int,
    pool: list[Pool],
    ray: bool,
) -> None:
    others = [i for i, job in enumerate(jobs) if "-" not in (job.source, job.target)]
    if not ray and (workers < 2 or len(others) < 2):
        others = []
    mine = sorted(set(range(len(jobs))) - set(others))
    if mine:
        here([jobs[i] for i in mine], work.start(), lambda k, event: tell(mine[k], event))
    if others and ray:
        from .on_ray import on_ray

        on_ray([jobs[i] for i in others], work, lambda k, e: tell(others[k], e), workers or None)
    elif others:
        pool.append(Pool(work, workers))
        pool[0].do([jobs[i] for i in others], lambda k, event: tell(others[k], event))


@contextmanager
def _interruptible(pool: list[Pool]) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP raise KeyboardInterrupt, the second end all at once.

    SIGHUP is what a closed terminal sends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored, as Ctrl-C is in a shell's background jobs and SIGHUP by nohup, stays so.
    wanted = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    numbers = {
        number for number in wanted if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }

    def first(*_: object) -> None:
        for number in numbers:
            signal.signal(number, second)
        raise KeyboardInterrupt

    def second(*_: object) -> None:
        for each in pool:
            each.kill()
        os._exit(INTERRUPTED)

    before = {number: signal.signal(number, first) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _size(source: str) -> int:
    try:
        return 0 if source == "-" else os.stat(source).st_size
    except (OSError, ValueError):
        return 0
