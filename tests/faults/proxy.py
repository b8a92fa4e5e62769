"""A TCP proxy that breaks the network on command: toxiproxy, small, and made for tests on one machine.

=========  ==========================================================================================
command    what connections see
=========  ==========================================================================================
drop       bytes are swallowed in both directions, connections stay open, as behind a firewall that
           lost its state; new connections are taken and hear nothing
stall      bytes are held back until healed, as on a link that comes back and TCP sends again
delay MS   every byte comes so much later, in order; MS of 0 ends it
cut        all connections end with RST now; new ones work
refuse     new connections are refused (nobody listens); those that are open go on
heal       all is well again; connections that had bytes swallowed are cut, since TCP never skips bytes
=========  ==========================================================================================

In a test: ``with Proxy("127.0.0.1", 1883) as proxy: …; proxy.drop(); …; proxy.heal()``. As a process,
``python -m tests.faults.proxy 127.0.0.1:1883 [--listen PORT]``: it prints ``listening PORT``, then takes a command a
line from standard input and answers ``ok`` or ``error …``; ``stop`` or the end of input ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Self

_CHUNK = 65536
_HELD = 64
"""Chunks on the way in one direction; a sender that is faster waits, as at a full window."""


@dataclass(eq=False)
class _Link:
    """One connection through the proxy: two streams, and whether bytes of it were swallowed."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    swallowed: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        """End both sides with RST."""
        for writer in (self.near, self.far):
            if writer is not None:
                with contextlib.suppress(OSError):  # it may be closed already
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                writer.transport.abort()
        for task in self.tasks:
            task.cancel()


class Proxy:
    """Forwards connections to a target until told otherwise. Use as a context, or ``start`` and ``stop``.

    Commands may be given from any thread and hold when they return.

    Args:
        host: of the target.
        port: of the target.
        listen: port to listen on at 127.0.0.1; 0 takes a free one. Kafka's clients go where the broker tells them, so
            a broker behind a proxy must advertise this port.

    Attributes:
        port: that it listens on, once started.
        forwarded: bytes that went through, both directions.
        swallowed: bytes that did not.
    """

    def __init__(self, host: str, port: int, listen: int = 0) -> None:
        self._target = host, port
        self.port = listen
        self.forwarded = self.swallowed = 0
        self._links: set[_Link] = set()
        self._dropping = False
        self._delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        """End everything."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    # ---------------------------------------------------------------------------------------------------- commands

    def drop(self) -> None:
        """Swallow all bytes."""
        self._do(lambda: setattr(self, "_dropping", True))

    def stall(self) -> None:
        """Hold all bytes back."""
        self._do(self._flowing.clear)

    def delay(self, ms: float) -> None:
        """Let every byte come so much later."""
        self._do(lambda: setattr(self, "_delay_s", ms / 1000))

    def cut(self) -> None:
        """End all connections with RST."""
        self._do(self._cut)

    def refuse(self) -> None:
        """Listen no more."""
        self._call(self._deafen())

    def heal(self) -> None:
        """Take back everything."""
        self._call(self._heal())

    # ------------------------------------------------------------------------------------------------ in the thread

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def _do(self, what: Callable[[], object]) -> None:
        async def run() -> None:
            what()

        self._call(run())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()  # not wait_closed: open connections go on
            self._server = None

    async def _heal(self) -> None:
        self._dropping, self._delay_s = False, 0.0
        for link in [link for link in self._links if link.swallowed]:
            link.reset()
        self._flowing.set()
        await self._listen()

    def _cut(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _end(self) -> None:
        await self._deafen()
        tasks = [task for link in self._links for task in link.tasks]
        self._cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        me = asyncio.current_task()
        assert me is not None
        link.tasks.append(me)
        self._links.add(link)
        try:
            await self._connect(link, reader)
            far_reader, far = await asyncio.open_connection(*self._target)
            link.far = far
            ways = [asyncio.ensure_future(self._way(link, reader, far)),
                    asyncio.ensure_future(self._way(link, far_reader, writer))]  # fmt: skip
            link.tasks.extend(ways)
            await asyncio.wait(ways)
        except OSError:
            link.reset()  # nobody listens there: the caller sees an end too
        except asyncio.CancelledError:
            pass  # the link was reset
        finally:
            self._links.discard(link)
            for end in (link.near, link.far):
                if end is not None:
                    end.close()

    async def _connect(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """Wait until the target may be asked; while bytes are swallowed it hears nothing of the caller."""
        while self._dropping:
            link.swallowed = True
            data = await reader.read(_CHUNK)
            if not data:
                raise ConnectionResetError("the caller left")
            self.swallowed += len(data)

    async def _way(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction until its end, then pass the end on."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD)
        sender = asyncio.ensure_future(self._send(link, held, writer))
        link.tasks.append(sender)
        try:
            while True:
                data = await reader.read(_CHUNK)
                await held.put((self._loop.time() + self._delay_s, data))
                if not data:
                    break
            await sender
        except OSError:
            link.reset()

    async def _send(self, link: _Link, held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await held.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._flowing.wait()
            if self._dropping:
                link.swallowed = True
                self.swallowed += len(data)
                if not data:
                    return  # the other side never hears that this one left
                continue
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            self.forwarded += len(data)
            await writer.drain()


def main() -> None:
    """Run as a process; see the module's first lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", help="HOST:PORT")
    parser.add_argument("--listen", type=int, default=0)
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    with Proxy(host, int(port), options.listen) as proxy:
        commands: dict[str, Callable[..., None]] = {
            name: getattr(proxy, name) for name in ("drop", "stall", "cut", "refuse", "heal")
        }
        print(f"listening {proxy.port}", flush=True)
        for line in sys.stdin:
            word, *rest = line.split() or [""]
            if word == "stop":
                break
            try:
                if word == "delay":
                    proxy.delay(float(rest[0]))
                else:
                    commands[word]()
                print("ok", flush=True)
            except (KeyError, IndexError, ValueError) as error:
                print(f"error {line.strip()!r}: {error!r}", flush=True)


if __name__ == "__main__":
    main()
