"""Training in a process of its own: the node stays small, answers heartbeats, and survives what training may do.

The process imports PyTorch once, ahead of the first message, and is kept. When it dies, or is stopped because a
round is over, the node goes on and starts another.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from flwr.app import Message

    from fl.data.dataset import Site

_POLL_SECONDS = 0.25


class WorkerFailed(FlopsError):  # noqa: N818 - the process did, the node is well
    """The training process died, or took too long."""


@dataclass(frozen=True)
class WorkerSettings:
    """What the training process needs to know.

    Attributes:
        task: the task's name.
        schema: the schema file of a table.
        data: the hospital's examples.
        name: what the node calls itself; it seeds the order of examples.
    """

    task: str
    schema: Path | None
    data: Path
    name: str


class Worker:
    """The training process, seen from the node."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Start the process if there is none; does not wait for it."""
        if self._process is not None and self._process.is_alive():
            return
        self.stop()
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(theirs, self._settings), daemon=True, name="flops-training"
        )
        self._process.start()
        theirs.close()

    def call(self, message: Message, seconds: float, unwanted: Callable[[], bool]) -> Message:
        """Have a message answered.

        Args:
            message: with its content.
            seconds: how long it may take.
            unwanted: tells, when asked, that nobody wants the answer any more.

        Raises:
            WorkerFailed: the process died, or was stopped for one of these reasons.
        """
        self.start()
        pipe, deadline = self._pipe, time.monotonic() + seconds
        if pipe is None:
            raise WorkerFailed("the training process could not be started")
        try:
            pipe.send(message)
            while not pipe.poll(_POLL_SECONDS):
                if unwanted():
                    self.stop()
                    raise WorkerFailed("the server has ended; training is stopped")
                if time.monotonic() > deadline:
                    self.stop()
                    raise WorkerFailed(f"training took longer than the {seconds:.0f} s that the server waits")
            reply: Message = pipe.recv()
        except (EOFError, OSError) as error:
            code = self._ended()
            raise WorkerFailed(f"the training process ended: {code}") from error
        return reply

    def stop(self) -> None:
        """End the process at once; it holds nothing that could be lost."""
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _ended(self) -> str:
        process = self._process
        if process is not None:
            process.join(2)
        code = None if process is None else process.exitcode
        self.stop()
        if code == -9:
            return "it was killed, for want of memory perhaps"
        return f"exit code {code}"


def _serve(pipe: Connection, settings: WorkerSettings) -> None:
    """Answer messages until the pipe closes. Runs in the process."""
    import signal

    from flwr.app import Context, RecordDict

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the node decides.
    app = _make_app(settings)
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        metadata = message.metadata
        context = Context(metadata.run_id, metadata.dst_node_id, {}, RecordDict(), {})
        pipe.send(app(message, context))


def _make_app(settings: WorkerSettings) -> Callable[[Message, Any], Message]:
    """Make the client app; what is wrong with the data is said in answer to each message."""
    import torch

    from client.app import create_client_app
    from fl import messages
    from fl.model import initial_state
    from fl.protocol import this_contract
    from fl.tasks import find_task
    from fl.training.sequential import SequentialTrainer
    from fl.training.threads import thread_count

    try:
        task = find_task(settings.task, settings.schema)
        torch.set_num_threads(thread_count(task))
        trainer = SequentialTrainer(task)
        contract = this_contract(task, initial_state(task, 0).signature)
    except Exception as error:
        failure = error
        return lambda message, _: messages.error_reply(message, failure)
    source = _Source(settings)
    return create_client_app(lambda _: source.site(task), lambda: trainer, contract)


class _Source:
    """The hospital's file, read again when it has changed."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._seen: tuple[float, int] | None = None
        self._site: Site | None = None

    def site(self, task: Any) -> Site:
        from fl.data.dataset import split_site
        from fl.data.files import read_examples

        path = self._settings.data
        state = path.stat() if path.exists() else None
        seen = None if state is None else (state.st_mtime, state.st_size)
        if self._site is None or seen != self._seen:
            self._site = split_site(self._settings.name, read_examples(path, task), seed=0)
            self._seen = seen
        return self._site
