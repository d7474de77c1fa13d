"""What the hub's command makes of its settings, good and bad."""

from pathlib import Path

from switchboard_server.config import setting_rows
from tests.integration.client import an_event, texts
from tests.integration.credentials import run_command
from tests.integration.hubs import MEMORY, connect, running


def problems(folder: Path, **settings: str) -> list[str]:
    """Runs the hub, which must not start, and returns what it finds wrong."""
    done = run_command(folder, settings=settings)
    assert done.returncode == 2
    assert not done.stdout
    assert "Traceback" not in done.stderr
    head, *found = done.stderr.splitlines()
    plural = "s" if len(found) > 1 else ""
    assert head == f"{len(found)} problem{plural} with the settings:"
    return [line.strip() for line in found]


def test_everything_that_is_wrong_is_listed_at_once(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    found = problems(
        tmp_path,
        GRPC_PORT="70000",
        HOST="not a host",
        SWITCHBOARD_LOG="postgres",
        SWITCHBOARD_MAX_EVENT_BYTES="1MB",
        SWITCHBOARD_REFLECTION="perhaps",
        SWITCHBOARD_RETENTION_SECONDS="-1",
        SWITCHBOARD_TLS_CERT_FILE=str(missing),
        JWT_SECRET_KEY="short",
        SWITCHBOARD_DATADIR="/data",
    )
    named = {line.replace("=", ":").split(":")[0]: line for line in found}
    assert set(named) == {
        "GRPC_PORT",
        "HOST",
        "SWITCHBOARD_LOG",
        "SWITCHBOARD_MAX_EVENT_BYTES",
        "SWITCHBOARD_REFLECTION",
        "SWITCHBOARD_RETENTION_SECONDS",
        "SWITCHBOARD_TLS_KEY_FILE",
        "JWT_SECRET_KEY",
        "SWITCHBOARD_DATADIR",
    }
    assert named["GRPC_PORT"] == "GRPC_PORT='70000': must be a whole number from 0 to 65535"
    assert named["SWITCHBOARD_LOG"] == "SWITCHBOARD_LOG='postgres': must be sqlite or memory"
    assert named["SWITCHBOARD_REFLECTION"].endswith("'perhaps': must be true or false")
    assert "32" in named["JWT_SECRET_KEY"]
    assert "short" not in named["JWT_SECRET_KEY"].replace("shorter", "")


def test_an_unknown_name_with_the_prefix_is_wrong_and_another_is_not(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SWITCHBOARD_DATA_DRI="/data", ANOTHER_PROGRAMS_SETTING="x")
    assert found.startswith("SWITCHBOARD_DATA_DRI: in the environment is no setting")
    assert "did you mean SWITCHBOARD_DATA_DIR?" in found


def test_a_file_of_settings_is_read_and_every_line_of_it_judged(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GRPC_PORT=x\nUNKNOWN=1\nno setting at all\nPORT=8008\n")
    found = problems(tmp_path)
    assert len(found) == 3
    assert any(line.startswith("GRPC_PORT='x'") for line in found)
    assert any(line.startswith("UNKNOWN: in the file is no setting") for line in found)
    assert any("line 3 is not of the form NAME=value" in line for line in found)


def test_nothing_is_made_in_the_data_folder_when_settings_are_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    problems(tmp_path, SWITCHBOARD_DATA_DIR=str(folder), PORT="x")
    assert not folder.exists()


async def test_a_hub_starts_with_the_settings_of_its_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SWITCHBOARD_MAX_EVENT_BYTES=1024\nREDIS_URL=redis://cache\n")
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            results = await client.publish_batch([an_event(text="." * 2000), an_event(text="a")])
            assert [result.error.message for result in results if result.HasField("error")]
            assert texts((await client.list_events()).events) == ["a"]
    assert "REDIS_URL is set and has no effect with SWITCHBOARD_BACKEND=embedded" in hub.text


def test_a_port_that_is_taken_stops_the_start_with_its_name(tmp_path: Path) -> None:
    with running(tmp_path / "one", MEMORY) as hub:
        for name, port in (("GRPC_PORT", hub.grpc_port), ("PORT", hub.port)):
            settings = {"GRPC_PORT": "0", "PORT": "0", **MEMORY, name: str(port)}
            done = run_command(tmp_path, settings=settings)
            assert done.returncode == 1
            assert name in done.stderr
            assert str(port) in done.stderr
            assert "Traceback" not in done.stderr


def test_help_lists_every_setting(tmp_path: Path) -> None:
    done = run_command(tmp_path, "--help", settings={"SWITCHBOARD_LOG": "wrong"})
    assert done.returncode == 0
    assert {row.name for row in setting_rows()} <= set(done.stdout.split())
