"""Runs the forward of a function in a thread that waits at chosen places until it is told to go on.

Only one thread runs at any time: the main thread waits while a forward runs, so nothing needs a lock, and results do
not depend on the order in which a machine runs threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch

from compress.calibration.taps import Enough, Read
from compress.models.linears import LinearRef


class PausedForward:
    """A forward that waits at `pause`. It holds what it has computed so far until it ends or is abandoned."""

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self.inputs: Mapping[LinearRef, Read] = {}
        """Where it waits: linears that it is about to apply, with their inputs."""
        self.complete = True
        """Where it waits: whether `inputs` has all linears of the parameter that will be called (see `OnInputs`)."""
        self.output: torch.Tensor | None = None
        """What the forward returned; None until it has ended."""
        self._forward = forward
        self._error: BaseException | None = None
        self._abandoned = False
        self._go_on, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def proceed(self) -> None:
        """Runs the forward on to its next pause, or to its end.

        Raises:
            BaseException: what the forward raised.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go_on.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller is inside this forward."""
        return self._thread.ident == threading.get_ident()

    def pause(self, inputs: Mapping[LinearRef, Read], complete: bool) -> None:
        """Waits until `proceed` is called again; called inside the forward."""
        self.inputs, self.complete = inputs, complete
        self._stopped.release()
        self._go_on.acquire()
        self.inputs = {}
        self.check()

    def check(self) -> None:
        """Leaves the forward if it was abandoned; called inside it, also where it does not wait."""
        if self._abandoned:
            raise Enough

    def abandon(self) -> None:
        """Ends the forward and frees what it holds. One that runs, after Ctrl-C, ends at its next linear."""
        self._abandoned = True
        if self._thread.ident is not None:
            self._go_on.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            self.output = self._forward()
        except BaseException as error:  # it is raised again in the main thread; Enough only ends this thread
            self._error = error
        finally:
            self._stopped.release()
