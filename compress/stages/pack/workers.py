"""Worker processes: they and this process take jobs from one list until it is empty.

    python -m compress.stages.pack.workers FD MODEL_FOLDER

is a worker: it reads jobs from the socket FD, one line of JSON each, and answers each with a line of JSON; tensors
travel in safetensors files. It ends when the socket is closed, so none is left when this process dies, however it
dies. Workers are started like any program and not by multiprocessing, which would run the caller's script again in
each and send pickles.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from compress import errors
from compress.errors import CompressError, MemoryLimitError, MethodError
from compress.models.folder import model_config
from compress.models.folder.tensor_files import TensorFiles
from compress.models.folder.tensor_list import list_tensors
from compress.models.foreign import formats
from compress.models.stored import WeightReader
from compress.stages.pack import jobs
from compress.stages.pack.jobs import Job

if TYPE_CHECKING:
    from compress.models.blocks import BlockWalker

Answer = tuple[Job, dict[str, Any]]
"""A job and what a worker answered: `entries`, the manifest entries by name; or `error`; or `traceback`."""


class Workers:
    """Worker processes that wait for jobs. Make them with `start_workers`."""

    def __init__(self, reader: WeightReader, processes: list[_Worker], device: torch.device) -> None:
        self._reader, self._processes, self._device = reader, processes, device

    @property
    def process_ids(self) -> list[int]:
        """Ids of the worker processes; this process is none of them."""
        return [worker.process.pid for worker in self._processes]

    def solve(self, work: Sequence[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Yields every job with the manifest entries of its linears, in any order. This process takes jobs too.

        Raises:
            CompressError: what the solve of a job raised, in whichever process; a worker that was killed is a
                MemoryLimitError that names the layer.
            RuntimeError: another exception in a worker, with its traceback.
        """
        waiting = deque(work)
        answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        for worker in self._processes:
            threading.Thread(target=worker.serve, args=(waiting, answers.put), daemon=True).start()
        unanswered, threads = len(work), len(self._processes)
        try:
            while unanswered:
                if answers.empty() and (job := _take(waiting)):
                    yield job, jobs.solve(job, self._reader, self._device)
                    unanswered -= 1
                elif (answer := answers.get()) is not None:
                    job, content = answer
                    yield job, _entries(content)
                    unanswered -= 1
                else:
                    threads -= 1
                    if not threads and not waiting and answers.empty():
                        raise RuntimeError("a job was lost; the traceback of the thread that had it is above")
        finally:
            waiting.clear()


@contextmanager
def start_workers(count: int, reader: WeightReader, folder: Path, device: torch.device) -> Iterator[Workers]:
    """Starts `count` - 1 worker processes and yields them; they are ended when the context is left, in any way.

    Args:
        count: processes that solve, this one among them.
        reader: reads the weights for this process.
        folder: the model's folder, from which workers read weights.
        device: where this process solves; workers solve on the CPU, so there are none beside another device.
    """
    assert count == 1 or device.type == "cpu"
    processes: list[_Worker] = []
    try:
        for _ in range(count - 1):
            processes.append(_Worker(folder))
        yield Workers(reader, processes, device)
    finally:
        for worker in processes:
            worker.end()


class _Worker:
    """This process's end of one worker."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "compress.stages.pack.workers", str(theirs.fileno()), str(folder)]
        # a worker can import what this process can, a user's own method for instance
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        # in a process group of its own, Ctrl-C does not reach the worker: this process is told, and ends it
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), process_group=0
        )
        theirs.close()
        self._channel = ours.makefile("rwb")
        ours.close()  # the channel keeps the connection open

    def serve(self, waiting: deque[Job], put: Callable[[Answer | None], None]) -> None:
        """Sends jobs to the worker until none is left, and puts the answers; None at the end."""
        try:
            while job := _take(waiting):
                put((job, self._ask(job)))
        finally:
            put(None)  # also when this thread fails, so that nobody waits for it in vain

    def _ask(self, job: Job) -> dict[str, Any]:
        try:
            self._channel.write(job.to_json().encode() + b"\n")
            self._channel.flush()
            line = self._channel.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):  # the worker died, perhaps in the middle of a line
            return {"error": _error(self._died(job))}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Kills the worker; the job that it was solving is lost."""
        self.process.kill()
        self.process.wait()
        with suppress(OSError):  # a job that the worker never read
            self._channel.close()

    def _died(self, job: Job) -> CompressError:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return MemoryLimitError(
                "the worker that was solving this linear was killed; most often the machine ran out of memory",
                do="Lower --workers and run the same command again: finished blocks are kept",
                layer=job.linears[0].ref.name,
            )
        return MethodError(
            f"the worker that was solving this linear ended "
            f"{f'by signal {-code}' if code < 0 else f'with code {code}'}",
            do="See the worker's own message above; finished blocks are kept",
            layer=job.linears[0].ref.name,
        )


def _take(waiting: deque[Job]) -> Job | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _entries(answer: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest entries in a worker's answer; raises the error in it."""
    if "traceback" in answer:
        raise RuntimeError(f"in a worker process:\n{answer['traceback']}")
    if "error" in answer:
        error = answer["error"]
        kind: type[CompressError] = getattr(errors, error.pop("kind"))
        raise kind(**error)
    entries: dict[str, Any] = answer["entries"]
    return entries


def _error(error: CompressError) -> dict[str, Any]:
    """Returns the JSON form of an error: the nearest of its kinds that this package has, and its texts."""
    kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return {"kind": kind.__name__, "given": error.given, "allowed": error.allowed, "do": error.do, "layer": error.layer}


def main(descriptor: int, folder: Path) -> None:
    """Solves jobs until the socket `descriptor` is closed; an unexpected exception is sent and ends the worker."""
    channel = socket.socket(fileno=descriptor).makefile("rwb")

    def send(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer).encode() + b"\n")
        channel.flush()

    def send_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        send({"traceback": "".join(traceback.format_exception(kind, error, trace))})
        os._exit(1)  # an ordinary exit would wait for the thread that listens

    sys.excepthook = send_traceback
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, lines), daemon=True).start()
    reader = WeightReader(_tensors(folder), _read_converted(folder))
    cpu = torch.device("cpu")
    while True:
        job = Job.from_json(lines.get())
        try:
            answer = {"entries": jobs.solve(job, reader, cpu)}
        except CompressError as error:
            answer = {"error": _error(error)}
        send(answer)


def _listen(channel: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    """Passes lines on. The end of the socket means that the other process is gone, and ends this one in mid-job."""
    try:
        for line in channel:
            lines.put(line)
    finally:
        os._exit(1)


def _tensors(folder: Path) -> TensorFiles:
    """Returns what reads the model's weights; those that another program quantised are decoded."""
    if formats.of_folder(folder, model_config.read_raw(folder)) is None:
        return TensorFiles(folder, folder.name, list_tensors(folder))
    from compress.models.source import ModelSource

    return ModelSource.open(folder)


def _read_converted(folder: Path) -> Callable[[str], torch.Tensor]:
    """Returns a function that reads a parameter through the model's loader, which is made at the first call."""

    @functools.cache
    def walker() -> BlockWalker:
        from compress.models import blocks
        from compress.models.source import ModelSource

        return blocks.BlockWalker(ModelSource.open(folder))

    return lambda name: walker().read_dense(name)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
