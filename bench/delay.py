"""A TCP proxy that makes a network longer: each byte arrives so much later, in order, at any rate.

    python -m bench.delay PORT DELAY_MS

listens on 127.0.0.1, prints its own port, and passes on to ``PORT`` there.
Half of the delay is spent on each way, so that a round trip takes all of it.
It holds nothing back: what is sent in one go arrives in one go.
"""

import asyncio
import sys
from contextlib import suppress

CHUNK = 1 << 16


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Read at once, write when it is due."""
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            at_s, data = await due.get()
            await asyncio.sleep(at_s - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()

    writing = asyncio.create_task(write())
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            due.put_nowait((loop.time() + delay_s, data))
    due.put_nowait((loop.time() + delay_s, b""))
    with suppress(ConnectionError):
        await writing
    with suppress(ConnectionError, RuntimeError):
        writer.close()


async def serve(port: int, delay_ms: float) -> None:
    """Until cancelled."""
    delay_s = delay_ms / 2000

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pass_on(reader, far_writer, delay_s), _pass_on(far_reader, writer, delay_s))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
