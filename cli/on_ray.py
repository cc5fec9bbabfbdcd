"""The jobs of a plan spread over a Ray cluster; needs the extra `dynse[ray]`.

All machines must see inputs and outputs under the same paths, and have the same dynse installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..audio.errors import DynseError
from .planning import RefusedError
from .workers import Event, Tell, Work, WorkerDiedError, WorkersError, attempt, failed


class _Worker:
    """A process of one thread somewhere in the cluster."""

    def __init__(self, work: Work, folder: str) -> None:
        os.chdir(folder)  # actors start in a folder of Ray's
        self._do: Callable[[Any, Any], Any] = work.start()

    def attempt(self, job: Any) -> Event:
        return attempt(self._do, job, lambda *_: None)


def on_ray(jobs: Sequence[Any], work: Work, tell: Tell, workers: int | None = None) -> None:
    """Do all jobs on the cluster that `RAY_ADDRESS` names, else on a Ray of this machine.

    Parameters
    ----------
    jobs, work, tell : as in `workers.Pool`; relative paths are taken from this working directory.
    workers : actors of one CPU each; None: as many as the cluster has CPUs.

    Raises
    ------
    RefusedError
        Ray is not installed.
    WorkersError
        The work cannot start.
    """
    try:
        import ray
    except ImportError as error:
        raise RefusedError("ray is not installed: pip install 'dynse[ray]'") from error

    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(
        address=address,
        configure_logging=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        **local,
    )
    try:
        _Cluster(ray, work, tell).do(jobs, workers)
    finally:
        ray.shutdown()


class _Cluster:
    def __init__(self, ray: Any, work: Work, tell: Tell) -> None:
        self._ray, self._work, self._tell = ray, work, tell
        self._remote = ray.remote(num_cpus=1)(_Worker)
        self._running: dict[Any, tuple[Any, int]] = {}  # reference -> actor, job
        self._deaths: dict[int, int] = {}

    def do(self, jobs: Sequence[Any], workers: int | None) -> None:
        waiting = list(range(len(jobs)))[::-1]
        number = workers or int(self._ray.cluster_resources().get("CPU", 1))
        for _ in range(min(number, len(jobs))):
            self._give(None, waiting.pop(), jobs)
        while self._running:
            (reference,), _ = self._ray.wait(list(self._running))
            actor, i = self._running.pop(reference)
            try:
                self._tell(i, self._ray.get(reference))
            except self._ray.exceptions.RayActorError as error:
                actor = None
                self._after_death(i, jobs, waiting, error)
            if waiting:
                self._give(actor, waiting.pop(), jobs)

    def _give(self, actor: Any, i: int, jobs: Sequence[Any]) -> None:
        actor = actor or self._remote.remote(self._work, os.getcwd())
        self._running[actor.attempt.remote(jobs[i])] = actor, i

    def _after_death(self, i: int, jobs: Sequence[Any], waiting: list[int], error: Any) -> None:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(cause, DynseError):
            raise WorkersError(str(cause)) from None
        self._deaths[i] = self._deaths.get(i, 0) + 1
        if self._deaths[i] < 2:
            waiting.append(i)
        else:
            self._tell(i, failed(jobs[i], WorkerDiedError("its worker died, twice")))
