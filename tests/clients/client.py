"""Applications as their authors would write them with the protocol's own client for Python.

Each case is one application: it is given the address of a server and asserts what it was told. Nothing here knows
anything of everlog; who starts it does.
"""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from durable_streams import (
    AsyncDurableStream,
    DurableStream,
    SeqConflictError,
    StreamExistsError,
    StreamNotFoundError,
    astream,
    stream,
)

JSON_TYPE = "application/json"


def read_json(url, **options):
    """Everything there is. With live=False the client would stop behind the first page."""
    with stream(url, **options) as response:
        return response.read_json()


def refused(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"{error.__name__} was expected")


def basics(base):
    """Creations, appends of all kinds, reads, the end of a stream."""
    url = f"{base}/basics/python"
    handle = DurableStream.create(url, content_type=JSON_TYPE)
    assert read_json(url) == []
    handle.append({"n": 0})
    start = handle.head().offset
    # Those that come while one is on its way go together.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: handle.append({"n": n}), range(1, 33)))
    assert sorted(item["n"] for item in read_json(url)) == list(range(33))
    assert sorted(item["n"] for item in read_json(url, offset=start)) == list(range(1, 33))
    result = handle.append([5, 6], seq="b")
    refused(SeqConflictError, lambda: handle.append(7, seq="a"))
    assert read_json(url)[-1] == [5, 6], "an array is one message"
    assert handle.head().offset == result.next_offset

    # More than one page.
    text = "x" * 200_000
    for n in range(12):
        handle.append({"n": n, "text": text})
    assert len(read_json(url)) == 34 + 12

    DurableStream.create(url, content_type=JSON_TYPE)
    refused(StreamExistsError, lambda: DurableStream.create(url, content_type="text/plain"))
    handle.delete()
    refused(StreamNotFoundError, handle.head)
    refused(StreamNotFoundError, lambda: read_json(url))

    url = f"{base}/basics/python-bytes"
    handle = DurableStream.create(url, content_type="application/octet-stream")
    chunks = [os.urandom(1 + n * 70_000) for n in range(8)]
    for chunk in chunks:
        handle.append(chunk)
    with stream(url) as response:
        assert response.read_bytes() == b"".join(chunks)

    asyncio.run(asynchronous(f"{base}/basics/python-text"))


async def asynchronous(url):
    handle = await AsyncDurableStream.create(url, content_type="text/plain")
    for line in ["one\n", "zwei\n", "třetí\n"]:
        await handle.append(line)
    async with astream(url, live=False) as response:
        assert await response.read_text() == "one\nzwei\ntřetí\n"
    await handle.delete()


def tail(base, live, count):
    """Follows a stream until it has so many messages, whatever becomes of its connections; prints each."""
    seen, offset = 0, "-1"
    while seen < int(count):
        try:
            with stream(f"{base}/tail", offset=offset, live=live) as response:
                for event in response.iter_events(mode="json"):
                    # What was taken counts, and the next connection begins behind it.
                    offset = event.next_offset
                    for item in event.data:
                        print(f"item {item['n']}", flush=True)
                    seen += len(event.data)
                    if seen >= int(count):
                        return
        except httpx.TransportError:
            # It is back within a second or so.
            time.sleep(0.02)


name, url, *args = sys.argv[1:]
{"basics": basics, "tail": tail}[name](url, *args)
