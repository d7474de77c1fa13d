"""What ends once, for a reason."""

import asyncio
from collections.abc import Callable


class Ending:
    """Something that ends once, and tells why to those who listen.

    Attributes:
        ended: Set when it has ended, for whatever reason.
        reason: Why it has ended.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.reason = ""
        self._listeners: list[Callable[[], None]] = []

    def on_end(self, listener: Callable[[], None]) -> None:
        """Has somebody called when it ends; at once if it has."""
        if self.ended.is_set():
            listener()
        else:
            self._listeners.append(listener)

    def end(self, reason: str) -> None:
        """Ends it, if it has not."""
        if self.ended.is_set():
            return
        self.reason = reason
        self.ended.set()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()
