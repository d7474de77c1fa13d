"""What xDS clients are told of a service: Listener, RouteConfiguration, Cluster, endpoints.

The first three say the same of every service but its name; only the endpoints change. Found by
experiment with gRPC 1.85, and by https://github.com/grpc/proposal/blob/master/A27-xds-global-load-balancing.md:

- An HTTP connection manager needs the router filter, else clients refuse the Listener.
- A locality needs a weight, else it is left out; weights of endpoints within it count for nothing.
  So each instance is a locality of its own, which carries its weight.
- An address that is there twice has the client refuse all of the service's endpoints.
"""

from collections.abc import Iterable

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from google.protobuf import any_pb2
from google.protobuf.message import Message

from switchboard_server.core.registry.model import Instance, Status

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
TYPES = (LISTENER, ROUTE, CLUSTER, ENDPOINTS)
"""The types of resources that are served."""

_HEALTH = {
    Status.STARTING: health_check_pb2.UNHEALTHY,
    Status.SERVING: health_check_pb2.HEALTHY,
    Status.DRAINING: health_check_pb2.DRAINING,
    Status.NOT_SERVING: health_check_pb2.UNHEALTHY,
    Status.UNHEALTHY: health_check_pb2.UNHEALTHY,
}


def listener(name: str) -> bytes:
    """The Listener of a service, as an encoded Any."""
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix=name)
    manager.rds.route_config_name = name
    manager.rds.config_source.ads.SetInParent()
    manager.rds.config_source.resource_api_version = 2  # V3
    router = manager.http_filters.add(name="envoy.filters.http.router")
    router.typed_config.Pack(router_pb2.Router())
    made = listener_pb2.Listener(name=name)
    made.api_listener.api_listener.Pack(manager)
    return _packed(made)


def route(name: str) -> bytes:
    """The RouteConfiguration of a service, as an encoded Any: everything goes to its cluster."""
    made = route_pb2.RouteConfiguration(name=name)
    host = made.virtual_hosts.add(name=name, domains=["*"])
    rule = host.routes.add()
    rule.match.prefix = ""
    rule.route.cluster = name
    return _packed(made)


def cluster(name: str) -> bytes:
    """The Cluster of a service, as an encoded Any: its endpoints come by ADS."""
    made = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.EDS,
        lb_policy=cluster_pb2.Cluster.ROUND_ROBIN,
    )
    made.eds_cluster_config.service_name = name
    made.eds_cluster_config.eds_config.ads.SetInParent()
    made.eds_cluster_config.eds_config.resource_api_version = 2  # V3
    made.connect_timeout.seconds = 5
    return _packed(made)


def endpoints(name: str, instances: Iterable[tuple[Instance, str]]) -> bytes:
    """The ClusterLoadAssignment of a service, as an encoded Any.

    Args:
        name: The service.
        instances: Its instances, each with its IP address.
    """
    made = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    taken: set[tuple[str, int]] = set()
    # Of two at the same address the one that serves is told.
    for instance, address in sorted(instances, key=_serving_first):
        spec = instance.spec
        if (address, spec.port) in taken:
            continue
        taken.add((address, spec.port))
        group = made.endpoints.add()
        group.locality.zone, group.locality.sub_zone = spec.zone, spec.id
        group.load_balancing_weight.value = spec.weight
        told = group.lb_endpoints.add(health_status=_HEALTH[instance.status])
        told.endpoint.address.socket_address.address = address
        told.endpoint.address.socket_address.port_value = spec.port
    return _packed(made)


def _serving_first(each: tuple[Instance, str]) -> tuple[bool, str]:
    instance, _ = each
    return instance.status is not Status.SERVING, instance.spec.id


def _packed(message: Message) -> bytes:
    packed = any_pb2.Any()
    packed.Pack(message)
    encoded: bytes = packed.SerializeToString(deterministic=True)
    return encoded
