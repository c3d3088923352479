"""The socket that `laptime serve` listens on: answers leave at once."""

from __future__ import annotations

import asyncio
import socket

from service.commands.server import listen


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Header and body are two writes: with Nagle's algorithm the second waits for the first's receipt."""

    async def is_undelayed() -> bool:
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            writer.close()

        with listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(connected, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                try:
                    return await asyncio.wait_for(found, 5.0)
                finally:
                    writer.close()

    assert asyncio.run(is_undelayed())
