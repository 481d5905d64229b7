"""The crew: this process and others beside it, which take jobs from one list until none is left.

    python -m compress.stages.pack.workers FD MODEL_FOLDER

is one of the others: it solves the jobs that come through the socket FD, and ends when the socket does, so none is left
behind when this process dies, however it dies. Interpreters are started like any program, not by multiprocessing, which
runs the caller's script once more in each.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from compress.errors import CompressError, MemoryLimitError, MethodError
from compress.models.folder.tensor_files import TensorFiles
from compress.models.folder.tensor_list import list_tensors
from compress.models.stored import WeightReader
from compress.stages.pack import jobs
from compress.stages.pack.jobs import Job

Answer = tuple[Job, dict[str, Any]]
"""A job, and the manifest entries of its linears by name."""


class Crew:
    """Processes that are waiting for jobs. Make one with `gather`."""

    def __init__(self, reader: WeightReader, others: list[_Other]) -> None:
        self._reader, self._others = reader, others

    @property
    def process_ids(self) -> list[int]:
        """The processes beside this one."""
        return [other.process.pid for other in self._others]

    def solve(self, work: Sequence[Job]) -> Iterator[Answer]:
        """Yields the answer of every job as it comes, in any order.

        Raises what a job raised, wherever it ran; a process that died is a MemoryLimitError that names the layer.
        """
        waiting = deque(work)
        heard: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        for other in self._others:
            threading.Thread(target=other.serve, args=(waiting, heard), daemon=True).start()
        left = len(work)
        try:
            while left:
                if heard.empty() and (job := _take(waiting)):
                    answer: Answer | BaseException = (job, jobs.solve(job, self._reader))
                else:
                    answer = heard.get()
                if isinstance(answer, BaseException):
                    raise answer
                left -= 1
                yield answer
        finally:
            waiting.clear()


@contextmanager
def gather(workers: int, reader: WeightReader, folder: Path) -> Iterator[Crew]:
    """Yields a crew of this process and `workers` - 1 others; they are gone when it is left, finished or not.

    `folder` is that of the model; `reader` reads it for this process.
    """
    others: list[_Other] = []
    try:
        for _ in range(workers - 1):
            others.append(_Other(folder))
        yield Crew(reader, others)
    finally:
        for other in others:
            other.end()


class _Other:
    """A process of the crew, seen from this one."""

    def __init__(self, folder: Path) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "compress.stages.pack.workers", str(theirs.fileno()), str(folder)]
        # what this process can import, a method of the caller's own for instance, that one can too
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        # a group of its own: Ctrl-C reaches this process alone, which then ends the other
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), process_group=0
        )
        theirs.close()

    def serve(self, waiting: deque[Job], heard: queue.SimpleQueue[Answer | BaseException]) -> None:
        """Hands jobs over until none waits or one fails."""
        while job := _take(waiting):
            try:
                self._connection.send(job)
                answer = self._connection.recv()
            except (EOFError, OSError):
                heard.put(self._died(job))
                return
            except Exception as error:  # a job that cannot be sent: who waits for the answer must hear of it
                heard.put(error)
                return
            heard.put(answer if isinstance(answer, BaseException) else (job, answer))
            if isinstance(answer, BaseException):
                return

    def end(self) -> None:
        """Ends the process at once; what it was working on is lost."""
        self.process.kill()
        self.process.wait()
        self._connection.close()

    def _died(self, job: Job) -> CompressError:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return MemoryLimitError(
                "the process that was solving it was killed; most often the machine ran out of memory",
                do="Lower --workers and run the same command again: finished blocks are kept",
                layer=job.linears[0].ref.name,
            )
        return MethodError(
            f"the process that was solving it ended {f'by signal {-code}' if code < 0 else f'with code {code}'}",
            do="Look for its own message above; finished blocks are kept",
            layer=job.linears[0].ref.name,
        )


def _take(waiting: deque[Job]) -> Job | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def main(descriptor: int, folder: Path) -> None:
    """Solves jobs until the socket `descriptor` is closed."""
    connection: Connection[Any, Any] = Connection(descriptor)
    work: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, work), daemon=True).start()
    # transformers stays out of this process unless the checkpoint has to be converted
    reader = WeightReader(TensorFiles(folder, folder.name, list_tensors(folder)), lambda: _walker(folder))
    while True:
        try:
            answer: Any = jobs.solve(work.get(), reader)
        except CompressError as error:
            answer = error
        except Exception:  # the caller gets it with the place where it arose, which no pickle of it would keep
            answer = RuntimeError(f"in a process of --workers:\n{traceback.format_exc()}")
        connection.send(answer)


def _listen(connection: Connection[Any, Any], work: queue.SimpleQueue[Job]) -> None:
    """Passes jobs on; the end of the socket is the end of the process that sends them, and of this one, mid-job."""
    while True:
        try:
            work.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)
        except Exception:
            traceback.print_exc()
            os._exit(1)


def _walker(folder: Path) -> Any:
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource

    return BlockWalker(ModelSource.open(folder))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
