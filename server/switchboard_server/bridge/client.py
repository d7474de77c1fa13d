"""What a command may ask of the client that sent it."""

from typing import Protocol

from switchboard_server.bridge.subscriptions import Subscriptions
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.use_cases import UseCases


class Client(Protocol):
    """A WebSocket client."""

    @property
    def hub(self) -> UseCases:
        """What the hub does."""

    @property
    def principal(self) -> Principal:
        """With whose permissions it acts."""

    @property
    def publisher(self) -> str:
        """Whose token says so; empty where the hub asks for none, whatever name the client gave."""

    @property
    def member(self) -> Connection:
        """Its connection as the hub knows it."""

    @property
    def subscriptions(self) -> Subscriptions:
        """Its event subscriptions."""

    def renew(self, token: str) -> Principal:
        """Takes a new token for the rest of the connection.

        Raises:
            SwitchboardError: It is not valid, or does not fit the connection.
        """

    def write(self, frame: bytes) -> None:
        """Writes a frame; never waits."""
