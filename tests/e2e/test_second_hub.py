"""A second hub on the same port or over the same data folder: refused, and told who was first."""

from pathlib import Path

import pytest

from tests.e2e.load import refused_start, running, started


@pytest.mark.parametrize("setting", ["GRPC_PORT", "PORT"])
def test_a_port_that_another_hub_has_is_refused_with_the_process(
    setting: str, tmp_path: Path
) -> None:
    with running(tmp_path / "first") as first:
        port = first.grpc_port if setting == "GRPC_PORT" else first.port
        settings = {"SWITCHBOARD_DATA_DIR": str(tmp_path / "second"), setting: str(port)}
        code, text = refused_start(settings, tmp_path)
        assert code == 1
        assert f"cannot listen on 127.0.0.1 port {port}" in text
        assert f"in use by process {first.process.pid} " in text
        assert f"set {setting} to another port" in text


def test_a_data_folder_that_another_hub_has_is_refused_with_the_process(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        code, text = refused_start({"SWITCHBOARD_DATA_DIR": str(tmp_path)}, tmp_path)
        assert code == 1
        assert f"the data folder {tmp_path} is in use by another hub" in text
        assert f'"pid": {first.process.pid}' in text
        assert "choose another SWITCHBOARD_DATA_DIR" in text


def test_a_killed_hub_leaves_neither_its_ports_nor_its_folder_taken(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        first.kill()
    ports = {"GRPC_PORT": str(first.grpc_port), "PORT": str(first.port)}
    with running(tmp_path, ports) as second:
        assert (second.grpc_port, second.port) == (first.grpc_port, first.port)


def test_a_port_that_is_taken_on_one_of_a_names_addresses_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "first") as first:
        settings = {"HOST": "localhost", "GRPC_PORT": str(first.grpc_port)}
        code, text = refused_start(settings, tmp_path)
        assert code == 1
        assert f"cannot listen on 127.0.0.1 port {first.grpc_port}: it is in use by process" in text
        assert text.startswith("switchboard: "), "gRPC has nothing to say before that"
