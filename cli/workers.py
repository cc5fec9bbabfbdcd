"""Jobs done one after the other, here or by processes of one thread each.

A worker is a fresh interpreter that gets jobs on its stdin and answers on its stdout. That is
quicker than `multiprocessing`, which would import the whole command line into each, and when the
parent dies, however it dies, stdin ends and the worker tidies up and ends too.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import IO, Any, BinaryIO, Protocol

from ..audio.errors import AudioError, DynseError
from .planning import printable

OnProgress = Callable[[int, int | None, int], None]
"""Called with frames done, frames in all (None: unknown) and the sample rate."""


class Place(Protocol):
    """What a job has at least."""

    @property
    def source(self) -> str:
        """The input."""

    @property
    def target(self) -> str:
        """The output."""


class Work(Protocol):
    """What is done to each job. It is pickled for the workers: settings, no loaded models."""

    def start(self) -> Callable[[Any, OnProgress], Any]:
        """Load what all jobs need, once a process; what is returned does a job."""


@dataclass(frozen=True)
class Finished:
    """A job's result; None if it turned out that there was nothing to do."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """Why a job failed.

    Attributes
    ----------
    code : stable, for reports.
    line : `path: reason`, the path being that of the input or of what could not be written.
    message : the same for who knows the input already.
    trace : the traceback, for -v.
    """

    code: str
    line: str
    message: str
    trace: str = ""


@dataclass(frozen=True)
class Moved:
    """How far a job is; see `OnProgress`."""

    done: int
    total: int | None
    rate: int


Event = Finished | Failed | Moved
Tell = Callable[[int, Event], None]


class WorkersError(DynseError):
    """Worker processes cannot be started."""


class WorkerDiedError(DynseError):
    """What a job gets whose worker died, and the next one as well."""

    code = "worker"


class _DiedError(Exception):
    """A worker ended; the text says how."""


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def attempt(do: Callable[[Any, OnProgress], Any], job: Place, heard: OnProgress) -> Event:
    """Do a job; whatever is wrong with it becomes a `Failed`."""
    try:
        return Finished(do(job, heard))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and job.target == "-":
            raise  # nobody listens any more: no failure
        return failed(job, error, traceback.format_exc())


def failed(job: Place, error: Exception, trace: str = "") -> Failed:
    """What is told of an error: its path once, and all on one line."""
    code = getattr(error, "code", None) or "error"
    place, reason = job.source, " ".join(str(error).split())
    if isinstance(error, AudioError):
        reason = error.reason
        place = place if error.path in (None, "stdin") or _same(error.path, place) else error.path
    elif isinstance(error, OSError):
        code, reason = "system", error.strerror or reason
        place = os.fsdecode(error.filename) if _is_name(error.filename) else place
    elif isinstance(error, MemoryError):
        code, reason = "system", "out of memory"
    elif not isinstance(error, DynseError):
        reason = f"internal error, {type(error).__name__}: {reason} (-v shows where)"
    line = f"{'stdin' if place == '-' else printable(place)}: {reason}"
    return Failed(str(code), line, reason if place == job.source else line, trace)


def _same(path: Any, place: str) -> bool:
    return os.path.normpath(path) == os.path.normpath(place)


def _is_name(filename: object) -> bool:
    return isinstance(filename, str | bytes) and bool(filename)


def here(jobs: Sequence[Any], do: Callable[[Any, OnProgress], Any], tell: Tell) -> None:
    """Do all jobs in this process."""
    for i, job in enumerate(jobs):
        tell(i, attempt(do, job, lambda *moved, i=i: tell(i, Moved(*moved))))


# ------------------------------------------------------------------------------ the parent's side


class Pool:
    """Workers, each watched by a thread that hands it jobs and passes its answers on.

    Parameters
    ----------
    work : what is done.
    workers : how many processes.
    """

    def __init__(self, work: Work, workers: int) -> None:
        self._work, self._workers = work, workers
        self._threads: list[threading.Thread] = []
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._events: queue.Queue[tuple[int, Event | WorkersError]] = queue.Queue()
        self._lock = threading.Lock()
        self._closing = self._proven = False

    def do(self, jobs: Sequence[Any], tell: Tell) -> None:
        """Do all jobs; `tell` is called in this thread.

        Raises
        ------
        WorkersError
            If no worker starts.
        """
        waiting = iter(list(enumerate(jobs)))
        for _ in range(min(self._workers, len(jobs))):
            thread = threading.Thread(target=self._watch, args=(waiting,), daemon=True)
            self._threads.append(thread)
            thread.start()
        left = len(jobs)
        while left:
            i, event = self._events.get()
            if isinstance(event, WorkersError):
                raise event
            left -= not isinstance(event, Moved)
            tell(i, event)

    def close(self, patience_s: float = 5.0) -> None:
        """End the workers; those in the middle of a file remove what they have of it."""
        with self._lock:
            self._closing = True
            processes = list(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(1)
        for process in processes:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    assert pipe is not None
                    pipe.close()

    def kill(self) -> None:
        """End the workers at once. Takes no lock: it is for signal handlers."""
        self._closing = True
        for process in list(self._processes):
            process.kill()

    def _watch(self, waiting: Iterator[tuple[int, Any]]) -> None:
        # What this thread starts inherits the mask: Ctrl-C is for the parent to pass on.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process: subprocess.Popen[bytes] | None = None
        while not self._closing:
            with self._lock:
                i, job = next(waiting, (-1, None))
            if i < 0:
                return
            event, process = self._try_twice(i, job, process)
            if event is not None:
                self._events.put((i, event))

    def _try_twice(
        self, i: int, job: Any, process: subprocess.Popen[bytes] | None
    ) -> tuple[Event | WorkersError | None, subprocess.Popen[bytes] | None]:
        said = ""
        for _ in range(2):
            try:
                process = process or self._start()
                return self._ask(process, i, job), process
            except WorkersError as error:
                return error, None
            except _DiedError as error:
                process, said = None, str(error)
                if self._closing:
                    return None, None
                if not self._proven:
                    return WorkersError(f"no worker could be started: it {said}"), None
        return failed(job, WorkerDiedError(f"its worker {said}, twice")), None

    def _ask(self, process: subprocess.Popen[bytes], i: int, job: Any) -> Event:
        assert process.stdin is not None
        try:
            _send(process.stdin, job)
            while isinstance(event := _receive(process.stdout), Moved):
                self._events.put((i, event))
        except (OSError, EOFError) as error:
            raise _DiedError(_ending(process)) from error
        assert isinstance(event, Finished | Failed)
        return event

    def _start(self) -> subprocess.Popen[bytes]:
        code = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
        code += f"; from {__name__} import serve; serve()"
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        with self._lock:
            if self._closing:
                raise _DiedError("was not started")
            process = subprocess.Popen(
                # -P: else a json.py in the current folder would be run in place of Python's.
                [sys.executable, "-P", "-c", code, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **dict.fromkeys(threads, "1")},
            )
            self._processes.add(process)
        assert process.stdin is not None
        try:
            _send(process.stdin, self._work)
            answer = _receive(process.stdout)
        except (OSError, EOFError) as error:
            raise _DiedError(_ending(process)) from error
        if isinstance(answer, Failed):
            raise WorkersError(answer.line)
        self._proven = True
        return process


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How a worker ended."""
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code == -getattr(signal, "SIGKILL", 9):
        return "was killed (out of memory?)"
    return f"died of signal {-code}" if code < 0 else f"ended with status {code}"


# ------------------------------------------------------------------------------ the worker's side


def serve() -> None:
    """Be a worker: do jobs from stdin until it ends."""
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Whatever a library reads or prints, it must not be in between.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def listen() -> None:
        try:
            while True:
                waiting.put(_receive(jobs))
        except (OSError, EOFError):
            # The parent is gone, or has no more to do.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            threading.Event().wait(3)
            os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = _receive(jobs)
        try:
            do = work.start()
        except DynseError as error:
            _send(answers, Failed(error.code, str(error), str(error)))
            os._exit(1)
        _send(answers, Moved(0, None, 1))
        threading.Thread(target=listen, daemon=True).start()
        while True:
            job = waiting.get()
            _send(answers, attempt(do, job, _Throttle(answers)))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        os._exit(0)  # without the complaints of a shutdown that nobody waits for


class _Throttle:
    """Tells of progress, but not more often than somebody can see."""

    def __init__(self, answers: BinaryIO, every_s: float = 0.2) -> None:
        self._answers, self._every_s, self._last = answers, every_s, 0.0

    def __call__(self, done: int, total: int | None, rate: int) -> None:
        now = monotonic()
        if now - self._last >= self._every_s:
            self._last = now
            _send(self._answers, Moved(done, total, rate))


def _send(stream: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _receive(stream: Any) -> Any:
    size = int.from_bytes(_exactly(stream, 8), "little")
    return pickle.loads(_exactly(stream, size))


def _exactly(stream: BinaryIO, n: int) -> bytes:
    data = stream.read(n)
    if len(data) < n:
        raise EOFError
    return data
