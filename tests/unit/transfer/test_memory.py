# SPDX-License-Identifier: Apache-2.0
"""A file that arrives in memory of the caller."""

from __future__ import annotations

import array
import mmap

import pytest
from blake3 import blake3

from modelexpress.domain.chunks import CHUNK_BYTES, ChunkSpan
from modelexpress.domain.errors import Invalid
from modelexpress.transfer.memory import MemorySink, allocate

SIZE = CHUNK_BYTES + 10


def test_a_view_is_a_place_in_the_buffer_and_is_not_copied() -> None:
    memory = bytearray(SIZE)
    sink = MemorySink(SIZE, memory)
    assert sink.take_missing(16) == ChunkSpan(0, 2)
    view = sink.view(1, CHUNK_BYTES)
    view[:] = b"0123456789"
    sink.put(1, view)
    assert memory[CHUNK_BYTES:] == b"0123456789" and sink.arrived_bytes == 10
    assert sink.digests == bytes(32) + blake3(b"0123456789").digest()


def test_bytes_from_elsewhere_are_copied_even_when_a_view_was_given() -> None:
    memory = bytearray(SIZE)
    sink = MemorySink(SIZE, memory)
    sink.view(1, CHUNK_BYTES)
    sink.put(1, memoryview(b"0123456789"))
    assert memory[CHUNK_BYTES:] == b"0123456789"


def test_a_chunk_may_come_in_pieces_and_is_gone_on_from() -> None:
    heard: list[int] = []
    content = bytes(range(256)) * (CHUNK_BYTES // 256) + b"0123456789"
    memory = bytearray(SIZE)
    sink = MemorySink(SIZE, memory, heard.append)
    span = sink.take_missing(16)
    assert span is not None
    view = sink.view(0, 1000)
    view[:] = content[:1000]
    sink.put(0, view)
    sink.put(0, memoryview(content)[1000:5000])
    assert (sink.prefix_bytes, sink.arrived_bytes, sink.begun_bytes(0)) == (5000, 5000, 5000)
    assert sink.arrived_until(0) == 5000
    sink.give_back(span)
    assert sink.take_missing(16) == ChunkSpan(0, 2) and sink.begun_bytes(0) == 5000
    view = sink.view(0, CHUNK_BYTES)
    assert len(view) == CHUNK_BYTES - 5000
    view[:] = content[5000:CHUNK_BYTES]
    sink.put(0, view)
    sink.put(1, memoryview(content)[CHUNK_BYTES:])
    assert memory == content and sink.is_complete and heard == [1000, 4000, CHUNK_BYTES - 5000, 10]
    assert sink.digests == blake3(content[:CHUNK_BYTES]).digest() + blake3(b"0123456789").digest()


def test_a_chunk_that_has_begun_is_the_first_of_its_span() -> None:
    sink = MemorySink(3 * CHUNK_BYTES, bytearray(3 * CHUNK_BYTES))
    assert sink.take_missing(1) == ChunkSpan(0, 1)
    assert sink.take_missing(1) == ChunkSpan(1, 2)
    sink.put(1, memoryview(b"begun"))
    for index in (0, 1):
        sink.give_back(ChunkSpan(index, index + 1))
    assert [sink.take_missing(16) for _ in range(3)] == [ChunkSpan(0, 1), ChunkSpan(1, 3), None]
    sink.forget(1)
    assert sink.begun_bytes(1) == 0 and sink.prefix_bytes == 0


def test_more_than_a_chunk_has_is_refused_and_changes_nothing() -> None:
    sink = MemorySink(10, bytearray(10))
    sink.put(0, memoryview(b"01234"))
    with pytest.raises(ValueError, match="5 are here, 6 more came"):
        sink.put(0, memoryview(b"567890"))
    sink.put(0, memoryview(b"56789"))
    assert sink.digests == blake3(b"0123456789").digest()


def test_what_is_given_back_or_forgotten_is_missing_again() -> None:
    arrived: list[int] = []
    sink = MemorySink(SIZE, bytearray(SIZE), arrived.append)
    span = sink.take_missing(16)
    assert span is not None and sink.take_missing(16) is None
    sink.put(0, sink.view(0, CHUNK_BYTES))
    sink.view(1, CHUNK_BYTES)
    sink.give_back(span)
    assert sink.take_missing(16) == ChunkSpan(1, 2)
    sink.put(1, sink.view(1, CHUNK_BYTES))
    assert sink.is_complete and arrived == [CHUNK_BYTES, 10]
    sink.forget(0)
    assert not sink.is_complete and sink.digests[:32] == bytes(32)
    assert sink.take_missing(16) == ChunkSpan(0, 1)


@pytest.mark.parametrize(
    "buffer", [bytes(SIZE), bytearray(SIZE - 1), bytearray(SIZE + 1), memoryview(bytearray(2 * SIZE))[::2]]
)
def test_a_buffer_that_does_not_fit_is_refused(buffer: bytearray) -> None:
    with pytest.raises(Invalid):
        MemorySink(SIZE, buffer)


def test_any_contiguous_memory_is_good() -> None:
    numbers = array.array("d", [0.0] * 16)
    sink = MemorySink(128, numbers)
    sink.put(0, memoryview(b"\x01" * 128))
    assert numbers.tobytes() == b"\x01" * 128
    with mmap.mmap(-1, 5) as pages:
        MemorySink(5, pages).put(0, memoryview(b"12345"))
        assert pages[:] == b"12345"


@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_allocated_memory_has_its_size_and_is_empty(size: int) -> None:
    memory = allocate(size)
    assert memory == bytes(size)
    sink = MemorySink(size, memory)
    assert sink.is_complete == (size == 0)
