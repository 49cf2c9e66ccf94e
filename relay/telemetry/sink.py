"""Where log lines go: through a bounded queue to a thread of its own, so that a sink that blocks holds nobody up.

What does not fit is dropped and counted, and the log says so once the sink takes lines again.
"""

import errno
import os
import queue
import threading
from collections.abc import Callable
from typing import Final, TextIO

LINES_MAX: Final = 8192  # waiting for the sink; more are dropped
FLUSH_S: Final = 2.0


class LogSink:
    """Writes lines in a thread. `write` never blocks and never raises."""

    def __init__(
        self, stream: TextIO, *, notice: Callable[[int], str] | None = None, on_drop: Callable[[], None] | None = None
    ) -> None:
        self.dropped = 0
        self._told = 0
        self._notice = notice
        self._on_drop = on_drop
        self._put = _writer(stream)
        self._stopped = False
        # Unlike Queue, its `put` may be called from a finaliser that interrupts a `put`.
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-sink", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Lines that have not reached the sink."""
        return self._lines.qsize()

    def write(self, line: str) -> None:
        if self._stopped or self.waiting >= LINES_MAX:
            self._drop()
        else:
            self._lines.put(line)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Whether all that was written before has reached the stream, within that time."""
        reached = threading.Event()
        self._lines.put(reached)
        return self._thread.is_alive() and reached.wait(timeout_s)

    def stop(self, timeout_s: float = FLUSH_S) -> bool:
        """As `flush`, and ends the thread; a blocked one is left behind. Later lines are dropped."""
        self._stopped = True
        self._lines.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _drop(self) -> None:
        self.dropped += 1
        if self._on_drop is not None:
            self._on_drop()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                if self._notice is not None and self.dropped > self._told:
                    dropped = self.dropped
                    self._put(self._notice(dropped - self._told) + "\n")
                    self._told = dropped
                self._put(line + "\n")
            except (OSError, ValueError):  # the reader is gone, or somebody closed the stream
                self._drop()


def _writer(stream: TextIO) -> Callable[[str], None]:
    """Straight to the descriptor where there is one.

    A thread stuck in a write of Python's buffered file holds that file's lock; the interpreter wants it at its end, and
    aborts.
    """
    try:
        fd = stream.fileno()
        stream.flush()
    except (AttributeError, OSError, ValueError):

        def put(text: str) -> None:
            stream.write(text)
            stream.flush()

        return put

    def put_raw(text: str) -> None:
        rest = memoryview(text.encode())
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:  # somebody made the pipe non-blocking
                _wait_writable(fd)

    return put_raw


def _wait_writable(fd: int) -> None:
    import select  # noqa: PLC0415 - hardly ever needed

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll()):
        raise OSError(errno.EPIPE, "the reader is gone")
