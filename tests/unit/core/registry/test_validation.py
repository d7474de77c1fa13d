"""What a registration must be like, and what it means where it says nothing."""

from typing import Any

import pytest

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import InvalidArgumentError
from switchboard_server.core.registry.model import HealthCheck, Probe, ProbeKind, Registration
from switchboard_server.core.registry.targets import Target, target_of
from switchboard_server.core.registry.validation import normalise
from tests.support.registries import a_registration

HTTP, GRPC, TCP = ProbeKind.HTTP, ProbeKind.GRPC, ProbeKind.TCP


def normal(**fields: Any) -> Registration:
    return normalise(a_registration(**fields), 10 * SECOND_NS)


def test_defaults_are_filled_in() -> None:
    spec = normalise(Registration("users", url="https://Users.internal/api"), 10 * SECOND_NS)
    assert (spec.id, spec.host, spec.port) == ("users.internal:443", "users.internal", 443)
    assert (spec.weight, spec.lease_ns) == (1, 30 * SECOND_NS)
    assert spec.check == HealthCheck(None, 10 * SECOND_NS, 2 * SECOND_NS, 1, 3)
    assert normal(url="", host="::1", port=80, id="").id == "[::1]:80"
    assert normal(check=HealthCheck(interval_ns=SECOND_NS)).check.timeout_ns == SECOND_NS


def test_a_url_and_an_address_may_agree() -> None:
    spec = normal(url="grpc://USERS:50051", host="users", port=50051)
    assert (spec.host, spec.port) == ("users", 50051)
    assert normal(url="grpc://users", host="users", port=50051).port == 50051


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"service": ""}, "service_name"),
        ({"service": "a*"}, "service_name"),
        ({"service": "a/b"}, "service_name"),
        ({"service": "a\n"}, "service_name"),
        ({"service": "a" * 256}, "service_name"),
        ({"id": "a/b"}, "instance_id"),
        ({"zone": "a\0"}, "zone"),
        ({"host": ""}, "host"),
        ({"host": "a b"}, "host"),
        ({"host": "256.0.0.1"}, "host"),
        ({"host": "[::1]"}, "host"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"url": "users:80"}, "service_url"),
        ({"url": "http://"}, "service_url"),
        ({"url": "http://a b/"}, "service_url"),
        ({"url": "http://u:p@users/", "host": "", "port": 0}, "service_url"),
        ({"url": "http://users:99999/"}, "service_url"),
        ({"url": "http://users/" + "a" * 2048}, "service_url"),
        ({"url": "http://256.1.1.1/"}, "service_url"),
        ({"url": "http://others:1/"}, "host"),
        ({"url": "http://10.0.0.1:2/"}, "port"),
        ({"url": "grpc://users", "host": "", "port": 0}, "service_url"),
        ({"version": "1.x"}, "version"),
        ({"weight": 10_001}, "weight"),
        ({"metadata": {str(n): "" for n in range(65)}}, "metadata"),
        ({"metadata": {"": ""}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"lease_ns": 1}, "lease_ttl"),
        ({"check": HealthCheck(interval_ns=1)}, "health_check.interval"),
        ({"check": HealthCheck(timeout_ns=11 * SECOND_NS)}, "health_check.timeout"),
        ({"check": HealthCheck(healthy_threshold=101)}, "health_check.healthy_threshold"),
        ({"check": HealthCheck(Probe(HTTP, "ftp://a/"))}, "health_check.http.url"),
        ({"check": HealthCheck(Probe(HTTP, "/a b"))}, "health_check.http.url"),
        ({"check": HealthCheck(Probe(HTTP, "/a\r\nX: y"))}, "health_check.http.url"),
        ({"check": HealthCheck(Probe(GRPC, "a"))}, "health_check.grpc.address"),
        ({"check": HealthCheck(Probe(GRPC, service="a\0"))}, "health_check.grpc.service"),
        ({"check": HealthCheck(Probe(TCP, "a:0"))}, "health_check.tcp.address"),
        ({"check": HealthCheck(Probe(TCP, "::1:80"))}, "health_check.tcp.address"),
        ({"check": HealthCheck(Probe(TCP, "[a]:80"))}, "health_check.tcp.address"),
        ({"check": HealthCheck(Probe(TCP, "a b:80"))}, "health_check.tcp.address"),
    ],
)
def test_what_is_not_allowed_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        normal(**fields)
    assert [each.field for each in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ({"check": HealthCheck()}, None),
        (
            {"check": HealthCheck(Probe(HTTP))},
            Target(HTTP, "10.0.0.1", 1001, tls=False, path="/health"),
        ),
        (
            {"url": "https://10.0.0.1:1001/", "check": HealthCheck(Probe(HTTP, "/up?x=1#y"))},
            Target(HTTP, "10.0.0.1", 1001, tls=True, path="/up?x=1"),
        ),
        (
            {"check": HealthCheck(Probe(HTTP, "http://other?q"))},
            Target(HTTP, "other", 80, tls=False, path="/?q"),
        ),
        (
            {"check": HealthCheck(Probe(HTTP, "https://[::1]:9/x"))},
            Target(HTTP, "::1", 9, tls=True, path="/x"),
        ),
        (
            {"check": HealthCheck(Probe(GRPC, "", "users.v1", tls=True))},
            Target(GRPC, "10.0.0.1", 1001, tls=True, service="users.v1"),
        ),
        ({"check": HealthCheck(Probe(TCP, "[::1]:80"))}, Target(TCP, "::1", 80)),
    ],
)
def test_a_check_goes_where_its_probe_says(fields: dict[str, Any], target: Target | None) -> None:
    assert target_of(normal(**fields)) == target


def test_a_target_tells_its_address() -> None:
    assert Target(TCP, "::1", 80).address == "[::1]:80"
