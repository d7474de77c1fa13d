"""The command line."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jwt
import pytest
from click.testing import CliRunner, Result

from switchboard_server import __version__
from switchboard_server.cli import EXIT_SETTINGS, main
from switchboard_server.config import Settings, setting_rows

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of the developer, and no settings in the environment, reach a test."""
    monkeypatch.chdir(tmp_path)
    for row in setting_rows():
        monkeypatch.delenv(row.name, raising=False)


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


@pytest.mark.parametrize("arguments", [(), ("serve",)])
def test_the_hub_runs_with_the_settings_with_and_without_its_command(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Settings] = []
    app = ModuleType("switchboard_server.app")
    app.run = ran.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "switchboard_server.app", app)
    assert run(*arguments, PORT="4711").exit_code == 0
    assert [settings.server.port for settings in ran] == [4711]


def test_problems_with_the_settings_are_listed_and_nothing_starts() -> None:
    result = run(PORT="x", SWITCHBOARD_LOGG="memory")
    assert result.exit_code == EXIT_SETTINGS
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "2 problems with the settings:",
        "  SWITCHBOARD_LOGG: in the environment is no setting; did you mean SWITCHBOARD_LOG?",
        "  PORT='x': must be a whole number from 0 to 65535",
    ]
    assert run(PORT="x").stderr.startswith("1 problem with")


def test_help_lists_every_setting_and_needs_no_valid_ones() -> None:
    result = run("--help", PORT="x")
    assert result.exit_code == 0
    for row in setting_rows():
        assert row.name in result.stdout.split()
        assert row.section in result.stdout


def test_without_what_the_extra_brings_the_hub_names_the_extra() -> None:
    hidden = "import runpy, sys; sys.modules['click'] = None; "
    run_it = "runpy.run_module('switchboard_server', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", hidden + run_it], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "switchboard: the hub needs click, which its extra brings: "
        "pip install 'switchboard-mesh[server]'\n"
    )


def test_the_version_is_that_of_the_distribution() -> None:
    assert run("--version").stdout == f"switchboard {__version__}\n"


def expires(minutes: str) -> tuple[str, str]:
    return "--expires-minutes", minutes


def test_a_token_is_printed_that_the_hub_would_accept() -> None:
    permissions = ("--permission", "events.publish:order.*", "--permission", "events.view")
    result = run("token", "--subject", "alice", *permissions, JWT_SECRET_KEY=SECRET)
    claims = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["sub"] == "alice"
    assert claims["permissions"] == ["events.publish:order.*", "events.view"]
    assert claims["exp"] - claims["iat"] == 1440 * 60
    result = run("token", "--subject", "a", *permissions, *expires("5"), JWT_SECRET_KEY=SECRET)
    claims = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 300


def test_a_token_that_cannot_be_made_says_why() -> None:
    useful = ("token", "--subject", "a", "--permission", "events.view")
    assert "set JWT_SECRET_KEY" in run(*useful).stderr
    result = run("token", "--subject", "a", JWT_SECRET_KEY=SECRET)
    assert result.exit_code == EXIT_SETTINGS
    assert "Missing option '--permission'" in result.stderr
    for minutes in ("0", "52704001", "9" * 30):
        result = run(*useful, *expires(minutes), JWT_SECRET_KEY=SECRET)
        assert result.exit_code == EXIT_SETTINGS
        assert "is not in the range 1<=x<=52704000" in result.stderr
    assert run(*useful, *expires("52704000"), JWT_SECRET_KEY=SECRET).exit_code == 0
    result = run("token", "--subject", "a", "--permission", "x", JWT_SECRET_KEY=SECRET)
    assert result.exit_code == EXIT_SETTINGS
    assert "--permission: 'x' does not exist; there are events.publish, " in result.stderr
    assert result.stdout == ""
