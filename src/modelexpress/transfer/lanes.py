# SPDX-License-Identifier: Apache-2.0
"""The receiver of the data plane: blocking threads, each with one connection, bring files into sinks."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkSpan, chunk_span, count_chunks
from modelexpress.domain.clock import SYSTEM_RANDOM
from modelexpress.domain.errors import Cancelled, Invalid, Unreachable
from modelexpress.domain.tasks import finish
from modelexpress.transfer.addresses import Address, Endpoint, resolve
from modelexpress.transfer.answers import Broken
from modelexpress.transfer.board import Board, Errand, Job
from modelexpress.transfer.connection import Connection
from modelexpress.transfer.port import Sink

_TARGET = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a data plane, and how often to try before giving up.

    Waits between tries double from `first_wait_seconds`; one that the server names is kept to up to
    `longest_wait_seconds`. The defaults give up after five tries in about five seconds.
    """

    connect_seconds: float = 5.0
    stall_seconds: float = 30.0
    tries: int = 5
    first_wait_seconds: float = 0.4
    longest_wait_seconds: float = 30.0

    def wait_seconds(self, tries: int, named: float = 0.0) -> float | None:
        """How long to wait after `tries` that failed; None: give up."""
        if tries >= self.tries:
            return None
        grown: float = max(self.first_wait_seconds * 2 ** (tries - 1), named)
        # Jitter, so that many clients that failed together do not come back together.
        return min(grown, self.longest_wait_seconds) * SYSTEM_RANDOM.uniform(0.75, 1.0)


PATIENCE = Patience()


class Lanes:
    """Brings files from one data plane over `connections` connections, which all files share.

    Nothing starts before the first `bring`. Use it with `with`, or `close` it.
    """

    def __init__(self, address: Address, connections: int = 4, patience: Patience = PATIENCE) -> None:
        self._address = address
        self._patience = patience
        self._board = Board(connections)
        self._changed = threading.Condition()  # its lock is the board's
        self._lanes = [_Lane(number, address, patience) for number in range(connections)]
        self._threads: list[threading.Thread] = []
        self._endpoints: Sequence[Endpoint] = ()
        self._is_closed = False

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def bring(self, target: str, sink: Sink) -> None:
        """Bring every missing chunk of the file at `target`, the path of a ranged GET, into `sink`.

        Returns when nothing is missing that nobody else brings: a sink that is shared with other
        bringers is complete when they are done too. Of several files the oldest goes first.
        When it raises, also for a cancellation, no thread works on the sink any more and what was not
        brought is given back. Raises Forbidden or NotFound for a ticket that is no longer good,
        Busy, Unreachable, Corrupt for other bytes than were asked for, and what the sink raises.
        """
        if _TARGET.fullmatch(target) is None:  # it may hold a ticket and is not shown
            raise Invalid("the address of a file at a data plane must be a path in printable characters")
        if sink.size == 0:
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        endpoints = await self._find_endpoints()
        errand = Errand(target, endpoints, sink, lambda: _tell(loop, ended))
        self._begin(errand)
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            with self._changed:
                self._stop(errand)
            await finish(ended)
            raise
        finally:
            self._let_go()
        if errand.error is not None:
            raise errand.error

    def close(self) -> None:
        """End everything; a `bring` that waits raises Cancelled. No thread of ours is left on return."""
        with self._changed:
            self._is_closed = True
            self._board.stop_all(Cancelled(f"the connections to {self._address} were closed meanwhile"))
            for lane in self._lanes:
                lane.connection.abort()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    # -- in the caller's thread

    async def _find_endpoints(self) -> Sequence[Endpoint]:
        """What the address means; asked again after a lane failed to reach it."""
        tries = 0
        while not (endpoints := self._endpoints):
            try:
                self._endpoints = await resolve(self._address)
            except OSError as error:
                tries += 1
                wait = self._patience.wait_seconds(tries)
                if wait is None:
                    raise self._unreachable(tries, error.strerror or str(error)) from error
                await asyncio.sleep(wait)
        return endpoints

    def _begin(self, errand: Errand) -> None:
        with self._changed:
            if self._is_closed:
                raise Cancelled(f"the connections to {self._address} are closed")
            self._board.add(errand)
            if not self._threads:
                self._start()
            self._changed.notify(count_chunks(errand.sink.size))

    def _let_go(self) -> None:
        """Return when no thread has a reference left to a file that ended: its memory may be the caller's.

        Who ends a file holds the lock until it has forgotten it.
        """
        with self._changed:
            pass

    def _start(self) -> None:
        for lane in self._lanes:
            thread = threading.Thread(
                target=self._work, args=(lane,), name=f"mx-lane-{lane.number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    # -- in a lane's thread

    def _work(self, lane: _Lane) -> None:
        while self._work_once(lane):
            pass
        lane.close()

    def _work_once(self, lane: _Lane) -> bool:
        """Wait for one job and do it; False: closed."""
        job = self._wait_job(lane)
        if job is None:
            return False
        self._carry_out(lane, job)
        with self._changed:
            self._board.leave(lane.number, job.errand)
            del job  # see `_let_go`
        return True

    def _wait_job(self, lane: _Lane) -> Job | None:
        """The next span for this lane; None: closed."""
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                job = self._board.take(lane.number, now)
                if job is not None:
                    lane.connection.renew()
                    return job
                wake = self._board.find_wake(lane.number, now)
                self._changed.wait(None if wake is None else wake - now)
        return None

    def _carry_out(self, lane: _Lane, job: Job) -> None:
        done = job.span.first
        try:
            for end in lane.bring(job):
                done = end
                self._note_arrival(job.errand)
        except Exception as error:  # noqa: BLE001 - whatever a file's sink or server does is that file's end
            lane.connection.close()
            self._fail(lane, job, done, error)

    def _fail(self, lane: _Lane, job: Job, done: int, failure: Exception) -> None:
        """Give back what was not brought, and decide what that means."""
        try:
            if done < job.span.end:
                job.errand.sink.give_back(ChunkSpan(done, job.span.end))
        except Exception as error:  # noqa: BLE001 - as above
            failure = error
        with self._changed:
            self._changed.notify_all()  # others may take what was given back
            if not job.errand.is_over:
                self._judge(lane, job.errand, failure, made_progress=done > job.span.first)

    def _note_arrival(self, errand: Errand) -> None:
        with self._changed:
            errand.arrived += 1

    def _judge(self, lane: _Lane, errand: Errand, failure: Exception, made_progress: bool) -> None:
        """Whether the file is over, or when this lane may try again; at once after any progress."""
        if not isinstance(failure, Broken):
            self._stop(errand, failure)
        elif not (made_progress or failure.is_stall):
            self._endpoints = ()  # the name may mean another machine by now
            trouble = errand.note_failure(lane.number)
            wait = self._patience.wait_seconds(trouble.tries, failure.wait_seconds)
            if wait is None:
                self._stop(errand, self._unreachable(trouble.tries, failure.reason))
            else:
                trouble.rests_until = time.monotonic() + wait

    def _stop(self, errand: Errand, error: BaseException | None = None) -> None:
        """End a file and whatever lanes do for it. Holding the lock, so that they do nothing else yet."""
        for number in self._board.stop(errand, error):
            self._lanes[number].connection.abort()

    def _unreachable(self, tries: int, reason: str) -> Unreachable:
        return Unreachable(
            f"the data plane at {self._address} does not serve this machine: {reason} ({tries} tries);"
            " check that its address is right and its port open from here"
        )


class _Lane:
    """One connection and one buffer, for one thread."""

    def __init__(self, number: int, address: Address, patience: Patience) -> None:
        self.number = number
        self.connection = Connection(address, patience.connect_seconds, patience.stall_seconds)
        self._buffer: memoryview | None = None

    def bring(self, job: Job) -> Iterator[int]:
        """Move the chunks of a job; yields the end of what has been brought after each."""
        errand, sink = job.errand, job.errand.sink
        begun = sink.begun_bytes(job.span.first)
        span = job.span.bytes_of(sink.size).after(begun)
        self.connection.ask(errand.endpoints, errand.target, span, sink.size)
        for index in job.span:
            # Whole chunks: pieces of them that stay in the core's cache cost more in Python than they save.
            place = self._place(sink, index, chunk_span(index, sink.size).length - begun)
            begun = 0
            self.connection.receive(place)
            if errand.is_over:
                raise Broken("stopped")
            sink.put(index, place)
            yield index + 1
        self.connection.end_answer()

    def close(self) -> None:
        """Let go of the connection and of the buffer, which nobody may collect for a long time otherwise."""
        self.connection.close()
        self._buffer = None

    def _place(self, sink: Sink, index: int, count: int) -> memoryview:
        place = sink.view(index, count)
        if place is not None:
            return place
        if self._buffer is None:
            self._buffer = memoryview(bytearray(CHUNK_BYTES))
        return self._buffer[:count]


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop was closed, and nobody waits
        loop.call_soon_threadsafe(ended.set_result, None)
