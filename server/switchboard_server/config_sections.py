"""The settings, one section a concern; `switchboard_server.config` reads them.

A field's alias is its name in the environment, and the docstring under it is what `--help` and the
README say.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from switchboard_server.config_values import (
    MAX_EXPIRE_MINUTES,
    MAX_SECONDS,
    MIB,
    Age,
    Algorithm,
    ExchangeName,
    FrameBytes,
    Host,
    LogLevel,
    MessageBytes,
    Networks,
    Origins,
    PingSeconds,
    Port,
    RabbitUrls,
    RedisUrls,
    RoomHistory,
    Seconds,
    split,
    split_origins,
)
from switchboard_server.core.registry.networks import DEFAULT_NETWORKS

if TYPE_CHECKING:
    from switchboard_server.security.jwks import KeySet
    from switchboard_server.security.keys import Keys
    from switchboard_server.security.tls import Tls


class Section(BaseModel):
    """Base of the sections."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # A secret that fails a check must not show up in the error.
        hide_input_in_errors=True,
    )

    title: ClassVar[str]


class ServerSettings(Section):
    """Where the hub listens, and what it offers there."""

    title = "Server"

    host: Host = Field(default="127.0.0.1", alias="HOST")
    """Address that both ports listen on. Without a key for tokens only loopback is allowed."""

    port: Port = Field(default=8008, alias="PORT")
    """Port of the bridge: the console, WebSockets, /health, /livez, /readyz, /metrics. 0: any
    free port."""

    grpc_port: Port = Field(default=50051, alias="GRPC_PORT")
    """Port of gRPC. 0: any free port."""

    reflection: bool = Field(default=True, alias="SWITCHBOARD_REFLECTION")
    """Whether gRPC answers server reflection, by which grpcurl learns the services."""

    channelz: bool = Field(default=False, alias="SWITCHBOARD_CHANNELZ")
    """Whether gRPC serves channelz, which shows every connection to whoever asks."""

    xds: bool = Field(default=False, alias="SWITCHBOARD_XDS")
    """Whether gRPC serves xDS (ADS), by which any gRPC client dials xds:///service. It needs the
    extra `xds`: pip install 'switchboard-mesh[server,xds]'."""

    shutdown_seconds: Seconds = Field(default=10, alias="SWITCHBOARD_SHUTDOWN_SECONDS")
    """Seconds that open calls get to end after SIGTERM or SIGINT. A second signal ends them at
    once."""


class TlsSettings(Section):
    """Encryption of both ports."""

    title = "TLS"

    cert_file: Path | None = Field(default=None, alias="SWITCHBOARD_TLS_CERT_FILE")
    """PEM file with the server's certificate and those of its issuers. Not set: no encryption. The
    hub notices within 10 seconds when this file or one of its companions is replaced."""

    key_file: Path | None = Field(default=None, alias="SWITCHBOARD_TLS_KEY_FILE")
    """PEM file with the unencrypted private key of the certificate."""

    client_ca_file: Path | None = Field(default=None, alias="SWITCHBOARD_TLS_CLIENT_CA_FILE")
    """PEM file with the authorities whose client certificates are let in (mutual TLS). Not set:
    clients need no certificate."""

    def load(self) -> "Tls | None":
        """Reads the files.

        Returns:
            What both ports need to encrypt, or None if that is not wanted.

        Raises:
            CredentialsError: A file cannot be used.
        """
        if self.cert_file is None or self.key_file is None:
            return None
        # Imported where it is needed: gRPC takes a while to load, and --help has no use for it.
        from switchboard_server.security.tls import Tls, TlsFiles  # noqa: PLC0415

        return Tls(TlsFiles(self.cert_file, self.key_file, self.client_ca_file))


class AuthSettings(Section):
    """Who may call: every call brings a JSON Web Token once a key is configured."""

    title = "Tokens"

    secret_key: SecretStr | None = Field(default=None, alias="JWT_SECRET_KEY")
    """Secret that tokens are signed with under HS256 (at least 32 bytes), HS384 (48) or HS512 (64).
    Neither this, JWT_PUBLIC_KEY_FILE nor JWT_JWKS set: no token is asked for, and the hub listens
    on loopback only."""

    algorithm: Algorithm = Field(default="HS256", alias="JWT_ALGORITHM")
    """The one algorithm whose signatures are accepted. HS* take JWT_SECRET_KEY, the others the key
    files."""

    public_key_file: Path | None = Field(default=None, alias="JWT_PUBLIC_KEY_FILE")
    """PEM file with the public key that verifies tokens, for RS256, ES256 and EdDSA."""

    private_key_file: Path | None = Field(default=None, alias="JWT_PRIVATE_KEY_FILE")
    """PEM file with the private key that the command `token` signs with, for RS256, ES256 and
    EdDSA. The hub itself does not need it."""

    jwks: str | None = Field(default=None, alias="JWT_JWKS")
    """URL (https) or file of a JSON Web Key Set with the public keys that verify tokens, instead of
    JWT_PUBLIC_KEY_FILE. It is read again every 5 minutes, and when a token names a key that is not
    known; while it cannot be had, the keys known so far stay in use."""

    audience: str | None = Field(default=None, alias="JWT_AUDIENCE")
    """Audience (`aud`) that a token must be for. Not set: tokens that name an audience are
    refused."""

    issuer: str | None = Field(default=None, alias="JWT_ISSUER")
    """Issuer (`iss`) that a token must come from. Not set: any."""

    expire_minutes: int = Field(
        default=1440, ge=1, le=MAX_EXPIRE_MINUTES, alias="JWT_EXPIRE_MINUTES"
    )
    """Minutes that a token from the command `token` is valid, unless it is told otherwise."""

    @property
    def configured(self) -> bool:
        """Whether there is a key, so that every call needs a token."""
        return any(each is not None for each in (self.secret_key, self.public_key_file, self.jwks))

    def load_keys(self) -> "Keys | KeySet | None":
        """Makes the keys ready for use.

        Returns:
            The keys, or None if none is configured.

        Raises:
            CredentialsError: They cannot be used.
        """
        if (
            not self.configured
            and self.private_key_file is None
            and self.algorithm.startswith("HS")
        ):
            return None
        # Imported where it is needed: a hub that asks for no tokens saves ten megabytes.
        from switchboard_server.security.keys import load_keys  # noqa: PLC0415

        if self.jwks is not None:
            return self._key_set(self.jwks)
        return load_keys(
            self.algorithm,
            secret=None if self.secret_key is None else self.secret_key.get_secret_value(),
            public_key_file=self.public_key_file,
            private_key_file=self.private_key_file,
        )

    def _key_set(self, place: str) -> "KeySet":
        from switchboard_server.security.errors import CredentialsError  # noqa: PLC0415
        from switchboard_server.security.jwks import KeySet  # noqa: PLC0415

        others = {
            "secret": self.secret_key,
            "public_key_file": self.public_key_file,
            "private_key_file": self.private_key_file,
        }
        problems = [
            (name, "is set besides JWT_JWKS, whose issuer makes the tokens; set one of them")
            for name, value in others.items()
            if value is not None
        ]
        if self.algorithm.startswith("HS"):
            problems.append(("jwks", "needs JWT_ALGORITHM to be RS256, ES256 or EdDSA"))
        if problems:
            raise CredentialsError(*problems)
        KeySet.check(place, self.algorithm)
        return KeySet(place, self.algorithm)


class StorageSettings(Section):
    """The log that keeps the events."""

    title = "Storage"

    backend: Literal["embedded", "cluster"] = Field(default="embedded", alias="SWITCHBOARD_BACKEND")
    """What stores events and carries them between hubs. embedded: this process alone; cluster: any
    number of hubs over RabbitMQ and Redis."""

    log: Literal["sqlite", "memory"] = Field(default="sqlite", alias="SWITCHBOARD_LOG")
    """Where the log is kept. sqlite: in a file, safe when the process or the machine dies; memory:
    gone when the process ends, for tests."""

    data_dir: Path = Field(default=Path("./data"), alias="SWITCHBOARD_DATA_DIR")
    """Folder of the log; it is made if need be. One hub at a time can use it."""

    retention_seconds: Age = Field(default=7 * 24 * 3600, alias="SWITCHBOARD_RETENTION_SECONDS")
    """Age in seconds after which events are removed, at least SWITCHBOARD_IDEMPOTENCY_SECONDS. 0:
    age removes nothing."""

    retention_bytes: int = Field(default=10 * 1024 * MIB, ge=0, alias="SWITCHBOARD_RETENTION_BYTES")
    """Size in bytes of all events together beyond which the oldest are removed; scheduled ones do
    not count. 0: size removes nothing."""

    tail_bytes: int = Field(default=64 * MIB, ge=0, alias="SWITCHBOARD_TAIL_BYTES")
    """Bytes of memory that the newest events may take, from where subscribers are served. One that
    falls further behind reads from the log."""

    max_pending_bytes: int = Field(default=64 * MIB, ge=1024, alias="SWITCHBOARD_MAX_PENDING_BYTES")
    """Bytes of published events that may wait for the log at once. Beyond it publishes are refused
    with RESOURCE_EXHAUSTED."""


class ClusterSettings(Section):
    """What the hubs of a cluster share; all of them need the same settings here."""

    title = "Cluster"

    rabbitmq_url: RabbitUrls = Field(default=None, alias="RABBITMQ_URL")
    """Where RabbitMQ is, which keeps events and groups. Of several addresses, with commas between,
    the first that answers is taken. Needed with SWITCHBOARD_BACKEND=cluster; the extra `rabbitmq`
    brings its driver."""

    redis_url: RedisUrls = Field(default=None, alias="REDIS_URL")
    """Where Redis is, which keeps rooms, presence and the directory of services; of several
    addresses likewise. Needed with SWITCHBOARD_BACKEND=cluster; the extra `redis` brings its
    driver."""

    exchange: ExchangeName = Field(default="switchboard", alias="MESSAGE_QUEUE_EXCHANGE")
    """Topic exchange that carries the events. The names of all queues, and of all keys in Redis,
    begin with it, so that several clusters can share the servers."""

    batch_size: int = Field(default=1024, ge=1, le=4096, alias="MESSAGE_BATCH_SIZE")
    """Events that one message on RabbitMQ holds at most. Fewer go together where fewer wait."""

    timeout: float = Field(default=10, ge=1, le=300, allow_inf_nan=False, alias="MESSAGE_TIMEOUT")
    """Seconds that a call waits for RabbitMQ, or for the hub that does its work, before it fails
    with UNAVAILABLE."""

    @property
    def rabbitmq_urls(self) -> list[str]:
        """Where RabbitMQ is."""
        return [] if self.rabbitmq_url is None else split(self.rabbitmq_url.get_secret_value())

    @property
    def redis_urls(self) -> list[str]:
        """Where Redis is."""
        return [] if self.redis_url is None else split(self.redis_url.get_secret_value())


class RegistrySettings(Section):
    """The directory of services."""

    title = "Registry"

    check_interval: float = Field(default=10, ge=1, le=3600, alias="HEALTH_CHECK_INTERVAL")
    """Seconds between health checks of an instance that names no interval, and the time within
    which evictions are counted for self-preservation."""

    reap_seconds: float = Field(default=30, ge=1, le=86400, alias="SERVICE_REGISTRY_TIMEOUT")
    """Seconds after which an instance that stays unhealthy is removed."""

    allowed_networks: Networks = Field(
        default=",".join(map(str, DEFAULT_NETWORKS)), alias="HEALTH_CHECK_ALLOWED_NETWORKS"
    )
    """Networks that health checks may go to. Link-local addresses and those by which clouds hand
    out credentials never are."""

    max_checks: int = Field(default=256, ge=1, alias="SWITCHBOARD_MAX_HEALTH_CHECKS")
    """Health checks that may run at once; others wait for their turn."""

    max_instances: int = Field(default=100_000, ge=1, alias="SWITCHBOARD_MAX_INSTANCES")
    """Instances that may be registered. Beyond it new ones are refused with RESOURCE_EXHAUSTED."""

    max_watchers: int = Field(default=10_000, ge=1, alias="SWITCHBOARD_MAX_WATCHERS")
    """Watch streams that may be open at once. Beyond it new ones are refused with
    RESOURCE_EXHAUSTED."""


class LimitSettings(Section):
    """What one caller can ask for."""

    title = "Limits"

    max_message_bytes: MessageBytes = Field(default=4 * MIB, alias="SWITCHBOARD_MAX_MESSAGE_BYTES")
    """Largest gRPC message that is taken, in bytes. gRPC refuses a larger one with
    RESOURCE_EXHAUSTED."""

    max_event_bytes: MessageBytes = Field(default=MIB, alias="SWITCHBOARD_MAX_EVENT_BYTES")
    """Largest event that is taken, in bytes of its protobuf form. Beyond 2 MiB clients have to take
    larger messages than the 4 MiB of gRPC's default."""

    max_subscriptions: int = Field(default=20_000, ge=1, alias="SWITCHBOARD_MAX_SUBSCRIPTIONS")
    """Subscriptions that may be open at once. Beyond it new ones are refused with
    RESOURCE_EXHAUSTED."""

    subject_subscriptions: int = Field(
        default=0, ge=0, alias="SWITCHBOARD_MAX_SUBSCRIPTIONS_PER_SUBJECT"
    )
    """Subscriptions that the tokens of one subject may have open at once, likewise. 0: as many as
    there may be; so it is for callers without a token too."""

    subject_events_per_second: int = Field(
        default=0, ge=0, alias="SWITCHBOARD_MAX_EVENTS_PER_SECOND_PER_SUBJECT"
    )
    """Events that the tokens of one subject may publish in a second, also all at once. Beyond it
    PublishStream is read more slowly, and other calls are refused with RESOURCE_EXHAUSTED. 0: any
    number; so it is for callers without a token too."""

    idempotency_seconds: int = Field(
        default=120, ge=1, le=MAX_SECONDS, alias="SWITCHBOARD_IDEMPOTENCY_SECONDS"
    )
    """Seconds within which an event that is published again, by source_service and id, is answered
    with its first result. Over a restart those are remembered that are still retained."""

    idempotency_max_keys: int = Field(
        default=1_000_000, ge=1, alias="SWITCHBOARD_IDEMPOTENCY_MAX_KEYS"
    )
    """Events that are remembered for that at most; beyond it the oldest are forgotten early."""


class GroupSettings(Section):
    """Consumer groups."""

    title = "Consumer groups"

    max_groups: int = Field(default=10_000, ge=1, alias="SWITCHBOARD_MAX_GROUPS")
    """Consumer groups that there may be; in a cluster, in each of the four parts into which their
    names fall. Beyond it a Subscribe that would make one is refused with RESOURCE_EXHAUSTED."""

    idle_seconds: Age = Field(default=0, alias="SWITCHBOARD_GROUP_IDLE_SECONDS")
    """Seconds without a member after which a consumer group is deleted, with its position and its
    dead letters. 0: never."""

    dead_letter_seconds: Age = Field(default=0, alias="SWITCHBOARD_DEAD_LETTER_SECONDS")
    """Seconds after which dead letters are removed. 0: never."""


class RealtimeSettings(Section):
    """Connections, rooms, and the messages to them."""

    title = "Realtime"

    max_connections: int = Field(default=1000, ge=1, alias="WEBSOCKET_MAX_CONNECTIONS")
    """Realtime clients that may be connected at once, on the WebSocket bridge and by Connect
    together. Beyond it new ones are refused."""

    history: RoomHistory = Field(default={}, alias="SWITCHBOARD_ROOM_HISTORY")
    """Which rooms keep a history, of how many messages and for how long: pattern=messages/time,
    with commas between, such as chat-*=100/5m,lobby=20/1h. A pattern is a name, or a prefix that
    ends in *; the longest that matches counts. Not set: none does."""

    history_bytes: int = Field(default=64 * MIB, ge=MIB, alias="SWITCHBOARD_ROOM_HISTORY_BYTES")
    """Bytes that the histories of all rooms may hold together. Beyond it the rooms to which nothing
    was sent for longest forget first."""

    max_message_bytes: int = Field(
        default=256 * 1024, ge=1024, alias="SWITCHBOARD_MAX_BROADCAST_BYTES"
    )
    """Largest content of a message to connections, in bytes as JSON."""

    outbox_messages: int = Field(default=1000, ge=256, alias="SWITCHBOARD_OUTBOX_MESSAGES")
    """Messages that may wait for one connection that reads slowly. Beyond it the oldest that are in
    no history are dropped; where only such wait as are in one, the connection is ended."""

    outbox_bytes: int = Field(default=MIB, ge=64 * 1024, alias="SWITCHBOARD_OUTBOX_BYTES")
    """Bytes of these messages, with the same consequence."""


class WebSocketSettings(Section):
    """Browsers, on the port of the bridge."""

    title = "WebSockets"

    ping_interval: PingSeconds = Field(default=30, alias="WEBSOCKET_PING_INTERVAL")
    """Seconds from one ping to the next. A frame `heartbeat` goes with each, since pages do not see
    pings."""

    ping_timeout: PingSeconds = Field(default=20, alias="WEBSOCKET_PING_TIMEOUT")
    """Seconds after a ping without a sign of life, after which a connection is given up."""

    origins: Origins | None = Field(default=None, alias="SWITCHBOARD_ALLOWED_ORIGINS")
    """Origins of pages that may connect besides those of the hub's own host, such as
    https://app.example.com, separated by commas; *: any. They may import `/switchboard.js` too. Not
    set: the hub's own host only. Programs, which send no origin, may always connect. A hub that
    asks for no token is the page's own host only as localhost, as an address, or by the name of an
    origin listed here."""

    max_frame_bytes: FrameBytes = Field(default=64 * 1024, alias="SWITCHBOARD_MAX_FRAME_BYTES")
    """Largest frame that is taken from a client, in bytes."""

    frames_per_second: int = Field(default=100, ge=1, alias="SWITCHBOARD_MAX_FRAMES_PER_SECOND")
    """Frames that a client may send in a second, also all at once. Those beyond it are refused, and
    a client that goes on is disconnected."""

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins, in lower case."""
        return frozenset(split_origins(self.origins or ""))


class LoggingSettings(Section):
    """What the hub says on standard error."""

    title = "Logging"

    debug: bool = Field(default=False, alias="DEBUG")
    """Whether to log at level debug and to run asyncio in its debug mode, which is slow."""

    log_level: LogLevel | None = Field(default=None, alias="SWITCHBOARD_LOG_LEVEL")
    """Least level that is logged. Not set: info, or debug with DEBUG."""

    log_format: Literal["text", "json"] = Field(default="text", alias="SWITCHBOARD_LOG_FORMAT")
    """text: a line for people; json: a JSON object a line."""

    @property
    def level(self) -> LogLevel:
        """The level that the two settings make."""
        return self.log_level or ("debug" if self.debug else "info")


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    server: ServerSettings = Field(default_factory=ServerSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    groups: GroupSettings = Field(default_factory=GroupSettings)
    realtime: RealtimeSettings = Field(default_factory=RealtimeSettings)
    websocket: WebSocketSettings = Field(default_factory=WebSocketSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    ignored: tuple[str, ...] = ()
    """Names that are set and have no effect in this version."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leaves reading the environment to `load_settings`.

        Names there are flat and the sections nested; and unknown names are to be reported together
        with bad values, which needs both in one hand.
        """
        return (init_settings,)
