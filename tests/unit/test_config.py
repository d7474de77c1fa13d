"""The settings: what is read, and what is said about what cannot be."""

import importlib.util
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from switchboard_server.config import (
    RESERVED,
    Problem,
    Settings,
    SettingsError,
    load_settings,
    setting_rows,
)
from switchboard_server.config_values import MAX_SECONDS
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.security.tokens import TokenVerifier
from tests.support.pem import write_key_pair

SECRET = "0123456789abcdef0123456789abcdef"
CLUSTER = {
    "SWITCHBOARD_BACKEND": "cluster",
    "RABBITMQ_URL": "amqp://guest:guest@localhost:5672/",
    "REDIS_URL": "redis://localhost:6379/0",
}


def load(env: Mapping[str, str], env_file: Path | None = None) -> Settings:
    return load_settings(dict(env), env_file)


def problems(env: Mapping[str, str], env_file: Path | None = None) -> dict[str, Problem]:
    with pytest.raises(SettingsError) as caught:
        load(env, env_file)
    found = {problem.key: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def told(env: Mapping[str, str]) -> str:
    """What is said about settings; nothing where they are taken."""
    try:
        load(env)
    except SettingsError as error:
        return str(error)
    return ""


def write_keys(folder: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, str]:
    private, public = write_key_pair(folder, key)
    return {"JWT_PUBLIC_KEY_FILE": str(public), "JWT_PRIVATE_KEY_FILE": str(private)}


def test_nothing_set_gives_a_hub_on_loopback_that_asks_for_no_token() -> None:
    settings = load({})
    server = settings.server
    assert (server.host, server.port, server.grpc_port) == ("127.0.0.1", 8008, 50051)
    assert settings.auth.load_keys() is None
    assert settings.tls.load() is None
    assert (settings.storage.backend, settings.storage.log) == ("embedded", "sqlite")
    assert settings.storage.data_dir == Path("data")
    assert settings.logging.level == "info"


def test_every_setting_can_be_set_to_its_default_in_the_environment() -> None:
    given = {row.name: row.default for row in setting_rows() if row.default != "not set"}
    settings = load(given)
    assert set(settings.ignored) == {each for each in given if each.startswith("MESSAGE_")}
    assert settings.model_copy(update={"ignored": ()}) == load({})


def test_the_environment_goes_before_the_file_and_empty_values_count_as_none(
    tmp_path: Path,
) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "\ufeff# ours\nexport PORT=1\nGRPC_PORT=2 # two\n\nDEBUG=\nHOST='::1'\n", "utf-8"
    )
    settings = load({"PORT": "3", "GRPC_PORT": ""}, file)
    assert (settings.server.port, settings.server.grpc_port) == (3, 2)
    assert (settings.server.host, settings.logging.debug) == ("::1", False)


def test_without_an_environment_given_that_of_the_process_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PORT", "4711")
    monkeypatch.chdir(tmp_path)
    assert load_settings().server.port == 4711


def test_all_problems_are_reported_at_once_with_key_value_and_what_is_allowed() -> None:
    found = problems(
        {
            "PORT": "99999",
            "GRPC_PORT": "x",
            "HOST": "256.1.1.1",
            "DEBUG": "perhaps",
            "SWITCHBOARD_LOG": "sqlight",
            "SWITCHBOARD_BACKEND": "clutter",
            "SWITCHBOARD_SHUTDOWN_SECONDS": "nan",
            "SWITCHBOARD_RETENTION_SECONDS": "-1",
            "JWT_SECRET_KEY": "your-secret-key-here",
            "SWITCHBOARD_DATADIR": "/x",
        }
    )
    assert {key: str(problem) for key, problem in found.items()} == {
        "PORT": "PORT='99999': must be a whole number from 0 to 65535",
        "GRPC_PORT": "GRPC_PORT='x': must be a whole number from 0 to 65535",
        "HOST": "HOST='256.1.1.1': must be an IP address or a host name",
        "DEBUG": "DEBUG='perhaps': must be true or false",
        "SWITCHBOARD_LOG": "SWITCHBOARD_LOG='sqlight': must be sqlite or memory",
        "SWITCHBOARD_BACKEND": "SWITCHBOARD_BACKEND='clutter': must be embedded or cluster",
        "SWITCHBOARD_SHUTDOWN_SECONDS": (
            "SWITCHBOARD_SHUTDOWN_SECONDS='nan': must be a number from 0 to 3162240000"
        ),
        "SWITCHBOARD_RETENTION_SECONDS": (
            "SWITCHBOARD_RETENTION_SECONDS='-1': must be a whole number from 0 to 3162240000"
        ),
        "JWT_SECRET_KEY": (
            "JWT_SECRET_KEY: is 20 bytes long, and HS256 needs at least 32 random bytes; "
            "'openssl rand -base64 32' makes some"
        ),
        "SWITCHBOARD_DATADIR": (
            "SWITCHBOARD_DATADIR: in the environment is no setting; "
            "did you mean SWITCHBOARD_DATA_DIR?"
        ),
    }


@pytest.mark.parametrize("host", ["[::1]", "a b", "-a", "1", "http://localhost", "127.0.0.1:80"])
def test_what_is_no_address_is_refused(host: str) -> None:
    assert "an IP address or a host name" in problems({"HOST": host})["HOST"].text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    assert load({"HOST": host}).server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "hub.example.org", "127.example"])  # noqa: S104
def test_any_other_address_needs_a_key_and_the_problem_says_what_to_set(host: str) -> None:
    text = str(problems({"HOST": host})["HOST"])
    assert host in text
    assert "JWT_SECRET_KEY" in text
    assert "127.0.0.1" in text
    assert load({"HOST": host, "JWT_SECRET_KEY": SECRET}).server.host == host


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_its_hash(algorithm: str, least: int) -> None:
    env = {"JWT_ALGORITHM": algorithm, "JWT_SECRET_KEY": "k" * (least - 1)}
    assert f"at least {least}" in problems(env)["JWT_SECRET_KEY"].text
    assert load(env | {"JWT_SECRET_KEY": "k" * least}).auth.load_keys() is not None


def test_a_secret_of_any_bytes_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytes(range(128, 168))
    monkeypatch.setitem(os.environb, b"JWT_SECRET_KEY", raw)
    keys = load({"JWT_SECRET_KEY": os.environ["JWT_SECRET_KEY"]}).auth.load_keys()
    signed = jwt.encode({"sub": "a", "exp": time.time() + 60}, raw)
    assert keys is not None
    assert TokenVerifier(keys).verify(signed).subject == "a"


@pytest.mark.parametrize("name", [row.name for row in setting_rows()])
def test_whatever_stands_in_the_environment_is_taken_or_told(name: str) -> None:
    for value in ("\udcff", "9" * 30, "1e400", "\x00", "[::1", "//", "x" * 10_000):
        said = told({name: value})
        assert not said or name in said


def test_times_reach_back_no_further_than_64_bits_of_nanoseconds() -> None:
    ages = [row for row in setting_rows() if row.allowed.endswith(" 3162240000")]
    assert len(ages) == 5
    for row in ages:
        assert f"to {MAX_SECONDS}" in problems({row.name: str(MAX_SECONDS + 1)})[row.name].text
    together = {row.name: str(MAX_SECONDS) for row in ages}
    assert load(together).limits.idempotency_seconds == MAX_SECONDS


def test_no_secret_shows_in_a_problem_or_in_the_printed_settings(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("JWT_SECRET_KEX=hush-hush\nhush-hush\nJWT_SECRET_KEY=hush-hush\n")
    with pytest.raises(SettingsError) as caught:
        load({"SWITCHBOARD_TOKEN": "hush-hush"}, file)
    assert len(caught.value.problems) == 4
    assert "hush" not in str(caught.value) + repr(caught.value.problems)
    assert SECRET not in repr(load({"JWT_SECRET_KEY": SECRET}))


def test_a_bad_value_hides_no_other_problem_and_makes_up_none() -> None:
    found = problems({"JWT_ALGORITHM": "none", "JWT_SECRET_KEY": "short", "PORT": "x"})
    assert sorted(found) == ["JWT_ALGORITHM", "PORT"]
    found = problems(
        {"SWITCHBOARD_MAX_MESSAGE_BYTES": "1", "SWITCHBOARD_MAX_EVENT_BYTES": "9999999"}
    )
    assert sorted(found) == ["SWITCHBOARD_MAX_MESSAGE_BYTES"]


def test_names_of_the_seed_that_later_versions_serve_are_taken_and_told(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}=whatever\n" for name in RESERVED))
    assert load({}, file).ignored == RESERVED


def test_settings_of_the_other_backend_are_taken_and_told() -> None:
    assert load({"REDIS_URL": "redis://localhost"}).ignored == ("REDIS_URL",)
    assert load(CLUSTER | {"SWITCHBOARD_LOG": "memory"}).ignored == ("SWITCHBOARD_LOG",)


def test_a_cluster_needs_to_know_where_its_servers_are() -> None:
    found = problems({"SWITCHBOARD_BACKEND": "cluster"})
    assert found["RABBITMQ_URL"].text == (
        "is needed with SWITCHBOARD_BACKEND=cluster, such as amqp://guest:guest@localhost:5672/"
    )
    assert "redis://localhost:6379/0" in found["REDIS_URL"].text


def test_a_cluster_without_its_drivers_is_told_what_else_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = problems({"SWITCHBOARD_BACKEND": "cluster"})
    assert set(found) == {"SWITCHBOARD_BACKEND", "RABBITMQ_URL", "REDIS_URL"}
    assert "switchboard-mesh[server,rabbitmq,redis]" in found["SWITCHBOARD_BACKEND"].text


def test_a_cluster_takes_several_addresses_of_each_server() -> None:
    cluster = load(
        CLUSTER
        | {"RABBITMQ_URL": "amqps://a:b@one/, amqp://[::1]:5673/hub", "MESSAGE_TIMEOUT": "3"}
    ).cluster
    assert cluster.rabbitmq_urls == ["amqps://a:b@one/", "amqp://[::1]:5673/hub"]
    assert cluster.redis_urls == ["redis://localhost:6379/0"]
    assert cluster.timeout == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RABBITMQ_URL", "http://localhost/"),
        ("RABBITMQ_URL", "amqp://:secret@/"),
        ("RABBITMQ_URL", "amqp://secret@localhost:x/"),
        ("RABBITMQ_URL", " , "),
        ("REDIS_URL", "amqp://localhost"),
        ("REDIS_URL", "redis://:secret@localhost:0"),
    ],
)
def test_an_address_that_is_none_is_told_without_the_secrets_it_may_hold(
    name: str, value: str
) -> None:
    found = problems(CLUSTER | {name: value})
    assert list(found) == [name]
    assert found[name].text.startswith("must be addresses such as")
    assert "secret@" not in str(found[name])


@pytest.mark.parametrize("name", ["amq.topic", "a b", "-a", "a" * 129])
def test_an_exchange_that_rabbitmq_would_refuse_is_told(name: str) -> None:
    assert list(problems({"MESSAGE_QUEUE_EXCHANGE": name})) == ["MESSAGE_QUEUE_EXCHANGE"]


def test_the_example_file_of_the_seed_starts_once_its_secret_is_a_real_one(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    text = (
        "DEBUG=false\nHOST=0.0.0.0\nPORT=8008\nREDIS_URL=redis://localhost:6379/0\n"
        "RABBITMQ_URL=amqp://guest:guest@localhost:5672/\nWEBSOCKET_MAX_CONNECTIONS=1000\n"
        "WEBSOCKET_PING_INTERVAL=30\nJWT_SECRET_KEY=your-secret-key-here\nJWT_ALGORITHM=HS256\n"
        "JWT_EXPIRE_MINUTES=1440\nGATEWAY_URL=http://localhost:8080\n"
    )
    file.write_text(text)
    assert list(problems({}, file)) == ["JWT_SECRET_KEY"]
    file.write_text(text.replace("your-secret-key-here", SECRET))
    assert load({}, file).server.host == "0.0.0.0"  # noqa: S104 - compared, not bound


def test_an_unknown_name_in_the_file_is_a_problem_and_in_the_environment_only_with_our_prefix(
    tmp_path: Path,
) -> None:
    file = tmp_path / ".env"
    file.write_text("GRPC_PROT=1\nzebra=1\n")
    found = problems({"switchboard_log": "memory", "PATH": "/bin", "GRPC_PROT": "1"}, file)
    assert "did you mean GRPC_PORT?" in found["GRPC_PROT"].text
    assert "--help" in found["zebra"].text
    assert "did you mean SWITCHBOARD_LOG?" in found["switchboard_log"].text
    assert len(found) == 3


def test_addresses_that_kubernetes_puts_into_the_environment_are_no_settings() -> None:
    env = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "SWITCHBOARD_SERVICE_HOST": "10.0.0.2",
        "SWITCHBOARD_SERVICE_PORT_GRPC": "50051",
        "SWITCHBOARD_PORT": "tcp://10.0.0.2:50051",
        "SWITCHBOARD_GRPC_PORT_50051_TCP_ADDR": "10.0.0.2",
    }
    assert load(env) == load({})
    assert "SWITCHBOARD_LOGS" in problems(env | {"SWITCHBOARD_LOGS": "x"})
    del env["KUBERNETES_SERVICE_HOST"]
    assert len(problems(env)) == 4


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in problems({}, tmp_path)[str(tmp_path)].text
    file = tmp_path / ".env"
    file.write_bytes(b"PORT=\xff\n")
    assert "UTF-8" in problems({}, file)[str(file)].text
    file.write_text("PORT=1\nGRPC_PORT\n")
    assert "line 2" in problems({}, file)[str(file)].text
    assert load({}, tmp_path / "missing").server.port == 8008


@pytest.mark.parametrize(
    ("env", "key", "says"),
    [
        ({"JWT_ALGORITHM": "RS256"}, "JWT_PUBLIC_KEY_FILE", "needs the public key"),
        ({"JWT_ALGORITHM": "RS256", "JWT_SECRET_KEY": SECRET}, "JWT_SECRET_KEY", "takes key files"),
        ({"JWT_PUBLIC_KEY_FILE": "/x"}, "JWT_PUBLIC_KEY_FILE", "signs with a secret"),
        ({"JWT_PRIVATE_KEY_FILE": "/x"}, "JWT_PRIVATE_KEY_FILE", "signs with a secret"),
        (
            {"JWT_ALGORITHM": "EdDSA", "JWT_PUBLIC_KEY_FILE": "/nowhere"},
            "JWT_PUBLIC_KEY_FILE",
            "No such file",
        ),
        (
            {"JWT_ALGORITHM": "ES256", "JWT_PUBLIC_KEY_FILE": __file__},
            "JWT_PUBLIC_KEY_FILE",
            "no public key in PEM form",
        ),
        (
            {"JWT_SECRET_KEY": f"-----BEGIN PUBLIC KEY-----\n{SECRET}\n-----END PUBLIC KEY-----"},
            "JWT_SECRET_KEY",
            "content of a key file",
        ),
        ({"JWT_AUDIENCE": "hub"}, "JWT_AUDIENCE", "needs keys"),
        ({"PORT": "50051"}, "GRPC_PORT", "another port"),
        ({"SWITCHBOARD_MAX_EVENT_BYTES": "5000000"}, "SWITCHBOARD_MAX_EVENT_BYTES", "4194304"),
        ({"SWITCHBOARD_MAX_PENDING_BYTES": "2048"}, "SWITCHBOARD_MAX_PENDING_BYTES", "1048576"),
        ({"SWITCHBOARD_RETENTION_SECONDS": "119"}, "SWITCHBOARD_RETENTION_SECONDS", "which is 120"),
        (
            {"SWITCHBOARD_IDEMPOTENCY_SECONDS": "604801"},
            "SWITCHBOARD_RETENTION_SECONDS",
            "which is 604801",
        ),
        ({"SWITCHBOARD_TLS_CERT_FILE": "/x"}, "SWITCHBOARD_TLS_KEY_FILE", "needs it"),
        ({"SWITCHBOARD_TLS_KEY_FILE": "/x"}, "SWITCHBOARD_TLS_CERT_FILE", "needs it"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    env: dict[str, str], key: str, says: str
) -> None:
    assert says in problems(env)[key].text


def test_a_key_file_must_hold_the_kind_of_key_that_the_algorithm_takes(tmp_path: Path) -> None:
    rsa_files = write_keys(tmp_path, rsa.generate_private_key(65537, 2048))
    found = problems({"JWT_ALGORITHM": "ES256", **rsa_files})
    assert "P-256" in found["JWT_PUBLIC_KEY_FILE"].text
    assert "P-256" in found["JWT_PRIVATE_KEY_FILE"].text
    (other := tmp_path / "other").mkdir()
    weak = write_keys(other, rsa.generate_private_key(65537, 1024))  # noqa: S505
    assert "2048 bits" in problems({"JWT_ALGORITHM": "RS256", **weak})["JWT_PUBLIC_KEY_FILE"].text
    wrong_curve = write_keys(other, ec.generate_private_key(ec.SECP384R1()))
    assert (
        "P-256" in problems({"JWT_ALGORITHM": "ES256", **wrong_curve})["JWT_PUBLIC_KEY_FILE"].text
    )


def test_a_private_key_is_not_taken_for_a_public_one_nor_for_that_of_another(
    tmp_path: Path,
) -> None:
    files = write_keys(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    swapped = {"JWT_ALGORITHM": "ES256", "JWT_PUBLIC_KEY_FILE": files["JWT_PRIVATE_KEY_FILE"]}
    assert "holds a private key" in problems(swapped)["JWT_PUBLIC_KEY_FILE"].text
    (other := tmp_path / "other").mkdir()
    foreign = write_keys(other, ec.generate_private_key(ec.SECP256R1()))["JWT_PRIVATE_KEY_FILE"]
    mixed = {"JWT_ALGORITHM": "ES256", **files, "JWT_PRIVATE_KEY_FILE": foreign}
    assert "does not belong" in problems(mixed)["JWT_PRIVATE_KEY_FILE"].text


def test_an_encrypted_private_key_is_refused_with_the_way_to_decrypt_it(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = write_key_pair(tmp_path, key, b"secret")
    env = {
        "JWT_ALGORITHM": "EdDSA",
        "JWT_PUBLIC_KEY_FILE": str(public),
        "JWT_PRIVATE_KEY_FILE": str(private),
    }
    assert "is encrypted" in problems(env)["JWT_PRIVATE_KEY_FILE"].text


@pytest.mark.parametrize(
    ("env", "level"),
    [
        ({"DEBUG": "true"}, "debug"),
        ({"DEBUG": "true", "SWITCHBOARD_LOG_LEVEL": "error"}, "error"),
        ({"SWITCHBOARD_LOG_LEVEL": "warning"}, "warning"),
    ],
)
def test_debug_lowers_the_log_level_unless_one_is_set(env: dict[str, str], level: str) -> None:
    assert load(env).logging.level == level


def test_rooms_that_remember_are_named_by_patterns() -> None:
    second = 1_000_000_000
    settings = load({"SWITCHBOARD_ROOM_HISTORY": "chat-*=100/5m, lobby=20/1h,*=1/30s,log=9/2d"})
    assert settings.realtime.history == {
        "chat-*": HistoryPolicy(100, 300 * second),
        "lobby": HistoryPolicy(20, 3600 * second),
        "*": HistoryPolicy(1, 30 * second),
        "log": HistoryPolicy(9, 2 * 24 * 3600 * second),
    }
    assert load({}).realtime.history == {}


@pytest.mark.parametrize(
    "value",
    [
        *("chat", "chat=", "=5/1m", "chat=0/1m", "chat=5/0m", "chat=5/1", "chat=5/1w", "a*b=5/1m"),
        *("chat=5/1m,", "chat=5/1m,chat=6/1m", "chat=-5/1m", "a\n=5/1m", f"{'x' * 256}=5/1m"),
    ],
)
def test_a_room_history_that_cannot_be_read_is_told_with_an_example(value: str) -> None:
    found = problems({"SWITCHBOARD_ROOM_HISTORY": value})
    assert list(found) == ["SWITCHBOARD_ROOM_HISTORY"]
    assert "chat-*=100/5m" in found["SWITCHBOARD_ROOM_HISTORY"].text


def test_a_message_has_to_fit_into_an_outbox() -> None:
    values = {"SWITCHBOARD_MAX_BROADCAST_BYTES": "70000", "SWITCHBOARD_OUTBOX_BYTES": "65536"}
    assert list(problems(values)) == ["SWITCHBOARD_MAX_BROADCAST_BYTES"]


def test_every_setting_is_listed_with_a_default_what_is_allowed_and_a_sentence() -> None:
    rows = list(setting_rows())
    assert len({row.name for row in rows}) == len(rows) == 60
    for row in rows:
        assert row.default, row
        assert row.allowed, row
        assert row.help.endswith("."), row
        assert re.fullmatch(r"[A-Z_]+", row.name), row
    assert not {row.name for row in rows}.intersection(RESERVED)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SWITCHBOARD_GRPC_PORT", "did you mean GRPC_PORT?"),
        ("SWITCHBOARD_PORT", "did you mean PORT?"),
        ("SWITCHBOARD_JWT_SECRET", "did you mean JWT_SECRET_KEY?"),
        ("SWITCHBOARD_MAX_SUBSCRIBERS", "did you mean SWITCHBOARD_MAX_SUBSCRIPTIONS?"),
        ("SWITCHBOARD_FOO", "--help lists all settings"),
    ],
)
def test_an_unknown_name_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert problems({name: "1"})[name].text == f"in the environment is no setting; {meant}"
