"""What server/deploy holds fits the hub, and each file fits the others."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from switchboard_server.config import setting_rows

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "server" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DEFAULTS = {row.name: row.default for row in setting_rows()}
GRPC_PORT, PORT = int(DEFAULTS["GRPC_PORT"]), int(DEFAULTS["PORT"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
HUBS = [COMPOSE["services"][f"hub-{number}"] for number in (1, 2, 3)]


def manifests() -> dict[tuple[str, str], Any]:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {
        each.name for each in KUBERNETES.iterdir()
    }
    assert kustomization["images"] == [{"name": "switchboard", "newTag": PROJECT["version"]}]
    documents = (
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((KUBERNETES / name).read_text())
    )
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


MANIFESTS = manifests()
POD = MANIFESTS["Deployment", "switchboard"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def settings_of_the_pod() -> Iterator[str]:
    yield from (each["name"] for each in CONTAINER["env"])
    yield from MANIFESTS["ConfigMap", "switchboard"]["data"]


def test_every_setting_is_one_of_the_hub() -> None:
    image = re.findall(r"^ENV (.*?)(?<!\\)\n", DOCKERFILE, re.MULTILINE | re.DOTALL)[0]
    named = {*re.findall(r"(\w+)=", image), *settings_of_the_pod()}
    for hub in HUBS:
        named |= set(hub["environment"])
    # Python's and the shell's, and the passwords that addresses are made of.
    others = {"PATH", "PYTHONUNBUFFERED", "RABBITMQ_PASSWORD", "REDIS_PASSWORD"}
    assert named - others <= set(DEFAULTS)
    assert {"SWITCHBOARD_BACKEND", "RABBITMQ_URL", "REDIS_URL", "JWT_SECRET_KEY"} <= named


def test_the_image_is_built_of_this_version_and_extras_that_there_are() -> None:
    extras = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    named = re.findall(
        r"switchboard:(\d+\.\d+\.\d+)",
        DOCKERFILE + (DEPLOY / "README.md").read_text() + (DEPLOY / "compose.yaml").read_text(),
    )
    assert len(named) >= 3
    assert set(named) == {PROJECT["version"]}


def test_the_ports_are_those_that_the_hub_listens_on() -> None:
    assert f"EXPOSE {PORT} {GRPC_PORT}\n" in DOCKERFILE
    assert f"http://127.0.0.1:{PORT}/readyz" in DOCKERFILE
    for number, hub in enumerate(HUBS):
        assert hub["ports"] == [
            f"127.0.0.1:{GRPC_PORT + number}:{GRPC_PORT}",
            f"127.0.0.1:{PORT + number}:{PORT}",
        ]
    assert [each["containerPort"] for each in CONTAINER["ports"]] == [GRPC_PORT, PORT]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[kind]["grpc"] == {"port": GRPC_PORT, "service": "grpc.health.v1.Health"}


def test_the_hub_has_time_to_shut_down() -> None:
    shutdown = int(MANIFESTS["ConfigMap", "switchboard"]["data"]["SWITCHBOARD_SHUTDOWN_SECONDS"])
    waited = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] >= waited + shutdown + 10
    assert [hub["stop_grace_period"] for hub in HUBS] == ["20s"] * 3
    assert float(DEFAULTS["SWITCHBOARD_SHUTDOWN_SECONDS"]) <= 10


def test_nothing_runs_as_root_and_the_hub_is_the_user_of_its_image() -> None:
    user = POD["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}\n" in DOCKERFILE
    assert f"--uid {user} " in DOCKERFILE
    for (kind, _), manifest in MANIFESTS.items():
        if kind in ("Deployment", "StatefulSet"):
            pod = manifest["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            for container in pod["containers"]:
                assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_what_rabbitmq_has_stored_stays_its_own_when_its_pod_starts_again() -> None:
    pod = MANIFESTS["StatefulSet", "switchboard-rabbitmq"]["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts["data"] == "/var/lib/rabbitmq"  # which is where the image keeps the cookie
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_rabbitmq_raises_an_alarm_before_it_reaches_its_limit_of_memory() -> None:
    pod = MANIFESTS["StatefulSet", "switchboard-rabbitmq"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    told = MANIFESTS["ConfigMap", "switchboard-rabbitmq"]["data"][mounts["limits"]["subPath"]]
    alarm = int(
        re.findall(r"^vm_memory_high_watermark\.absolute = (\d+)GB$", told, re.MULTILINE)[0]
    )
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert alarm * 10**9 <= 0.6 * limit * 2**30


def test_every_selector_finds_its_pods_and_every_secret_is_told_of() -> None:
    pods = [
        each["spec"]["template"]["metadata"]["labels"]
        for (kind, _), each in MANIFESTS.items()
        if kind in ("Deployment", "StatefulSet")
    ]
    for (kind, name), manifest in MANIFESTS.items():
        selector = manifest.get("spec", {}).get("selector")
        if selector:
            assert selector.get("matchLabels", selector) in pods, (kind, name)
    told = re.findall(r"--from-literal=([\w-]+)=", (DEPLOY / "README.md").read_text())
    asked = re.findall(r"secretKeyRef: {name: switchboard, key: ([\w-]+)}", text_of_manifests())
    assert set(asked) == set(told)


def test_every_address_is_a_service() -> None:
    services = {name for kind, name in MANIFESTS if kind == "Service"}
    addresses = re.findall(r"@([\w-]+):\d+/", text_of_manifests())
    assert len(addresses) == 2
    assert set(addresses) <= services
    hosts = re.findall(r"@([\w-]+):\d+/", "".join(HUBS[0]["environment"].values()))
    assert len(hosts) == 2
    envoy = re.findall(r"address: ([\w-]+), port_value", (DEPLOY / "envoy.yaml").read_text())
    assert {*hosts, *envoy} <= set(COMPOSE["services"])


def test_the_example_names_every_variable_of_the_compose_file() -> None:
    wanted = re.findall(r"\${(\w+)", (DEPLOY / "compose.yaml").read_text())
    example = (DEPLOY / ".env.example").read_text()
    assert set(wanted) == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def text_of_manifests() -> str:
    return "".join(each.read_text() for each in sorted(KUBERNETES.iterdir()))
