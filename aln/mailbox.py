"""What carries messages from workers to the process that logs. Imports next to nothing: it has a process of its own."""

from __future__ import annotations

import asyncio


class Mailbox:
    """Hands on messages one after the other, and tells each sender when its own has been dealt with; a Ray actor.

    Messages are pickled already, so that this process need not know what is in them.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Event]] = asyncio.Queue()
        self._in_hand = asyncio.Event()

    async def tell(self, message: bytes) -> None:
        """Returns when the message has been dealt with."""
        done = asyncio.Event()
        await self._waiting.put((message, done))
        await done.wait()

    async def take(self) -> bytes:
        """The next message; the one taken before has been dealt with."""
        self._in_hand.set()
        message, self._in_hand = await self._waiting.get()
        return message
