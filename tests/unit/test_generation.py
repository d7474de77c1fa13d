import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "scripts" / "build_hook.py"
PROTO = """
syntax = "proto3";
package switchboard.v1;
message Ping { string text = 1; }
service PingService { rpc Send(Ping) returns (Ping); }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one proto and the real generator."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / HOOK.name).write_bytes(HOOK.read_bytes())
    protos = tmp_path / "protos" / "switchboard" / "v1"
    protos.mkdir(parents=True)
    (protos / "ping.proto").write_text(PROTO)
    return tmp_path


def generate(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / HOOK.name)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def generated(project: Path) -> dict[str, bytes]:
    folder = project / "clients" / "python" / "switchboard"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


def test_a_proto_becomes_messages_stubs_and_their_types(project: Path) -> None:
    assert generate(project).returncode == 0
    assert set(generated(project)) == {
        "v1/__init__.py",
        "v1/ping_pb2.py",
        "v1/ping_pb2.pyi",
        "v1/ping_pb2_grpc.py",
        "v1/ping_pb2_grpc.pyi",
    }


def test_generating_again_changes_nothing(project: Path) -> None:
    generate(project)
    before = generated(project)
    assert "0 files changed" in generate(project).stdout
    assert generated(project) == before


def test_code_of_a_removed_proto_goes_away(project: Path) -> None:
    generate(project)
    ping = project / "protos" / "switchboard" / "v1" / "ping.proto"
    ping.rename(ping.with_name("pong.proto"))
    assert generate(project).returncode == 0
    assert "v1/pong_pb2.py" in generated(project)
    assert "v1/ping_pb2.py" not in generated(project)


def test_a_proto_that_does_not_compile_is_reported_and_leaves_the_old_code(project: Path) -> None:
    generate(project)
    before = generated(project)
    (project / "protos" / "switchboard" / "v1" / "bad.proto").write_text("message {")
    done = generate(project)
    assert done.returncode == 1
    assert "bad.proto:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert generated(project) == before


def test_a_wheel_carries_the_generated_code_and_asks_for_grpcio_and_protobuf_only(
    tmp_path: Path,
) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        requirements = message_from_string(wheel.read(metadata).decode()).get_all("Requires-Dist")
    assert names >= {
        "switchboard/py.typed",
        "switchboard/v1/__init__.py",
        "switchboard/v1/event_pb2.py",
        "switchboard/v1/event_pb2.pyi",
        "switchboard/v1/event_service_pb2_grpc.py",
        "switchboard/v1/event_service_pb2_grpc.pyi",
        "switchboard_server/__init__.py",
        "switchboard_server/backends/redis/lua/realtime/send.lua",
        "switchboard_server/py.typed",
    }
    assert requirements is not None
    plain = {line.split("<")[0] for line in requirements if "extra ==" not in line}
    assert plain == {"grpcio", "protobuf"}


def test_an_sdist_carries_the_protos_and_what_generates_from_them(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    assert names >= {"protos/switchboard/v1/event.proto", "scripts/build_hook.py", "pyproject.toml"}
