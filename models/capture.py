"""Functions that run on a GPU as one captured graph."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Captured:
    """Calls `function`: on a GPU three times as it is, from then on as a graph.

    Everything that it reads and writes must stay where it is, and no value may be asked for on the
    host. Elsewhere than on a GPU it is just called.
    """

    def __init__(self, function: Callable[[], object], device: torch.device):
        self._function = function
        self._graph = torch.cuda.CUDAGraph() if device.type == "cuda" else None
        self._stream = torch.cuda.Stream(device) if self._graph is not None else None
        self._calls = 0

    def __call__(self) -> None:
        """Run it on the current stream."""
        if self._graph is None or self._stream is None:
            self._function()
            return
        self._calls += 1
        if self._calls > 4:
            self._graph.replay()
            return
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        if self._calls == 4:
            torch.cuda.synchronize()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._function()
            self._graph.replay()
            return
        with torch.cuda.stream(self._stream):
            self._function()
        current.wait_stream(self._stream)
