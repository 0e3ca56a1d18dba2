"""The addresses of a development cluster and the shell scripts that lay its network.

The hub holds a bridge with one cable (veth) a node and forwards nothing: a cluster has no way out. Nodes and hub route
pod networks straight to the nodes. All of it lives in the network namespaces, so that any number of clusters on one
machine use the same addresses.
"""

import json
from collections.abc import Sequence

HUB_ADDRESS = "10.200.0.1"
API_PORT = 6443
API_SERVICE_ADDRESS = "10.96.0.1"
SERVICE_NETWORK = "10.96.0.0/16"
POD_NETWORK = "10.244.0.0/16"
CLUSTER_DOMAIN = "cluster.local"
MAX_NODES = 100

HUB_SCRIPT = f"""
ip link add br0 type bridge
ip addr add {HUB_ADDRESS}/24 dev br0
ip link set br0 up
# A route to choose the bridge's address as source; the proxy rewrites the destination before anything leaves.
ip route add {SERVICE_NETWORK} dev br0 src {HUB_ADDRESS}
"""


def node_names(count: int) -> list[str]:
    """n1, n2, ... Raises ValueError beyond what the address plan holds."""
    if not 1 <= count <= MAX_NODES:
        raise ValueError(f"{count} nodes: a development cluster has 1 to {MAX_NODES}")
    return [f"n{number}" for number in range(1, count + 1)]


def number(node: str) -> int:
    """The number in a node's name."""
    return int(node.removeprefix("n"))


def zone(node: str) -> str:
    """The value of the node's label topology.kubernetes.io/zone."""
    return f"z{number(node)}"


def node_address(node: str) -> str:
    """The node's address on the hub's bridge."""
    return f"10.200.0.{10 + number(node)}"


def pod_network(node: str) -> str:
    """The network of the node's pods."""
    return f"10.244.{number(node)}.0/24"


def plug_script(node: str) -> str:
    """For the hub: a new cable with its far end `<node>p` still in the hub; the cable of a killed node goes first."""
    return f"""
    ip link del {node} 2>/dev/null || true
    ip link add {node} type veth peer name {node}p
    ip link set {node} master br0 up
    ip route replace {pod_network(node)} via {node_address(node)}
    """


def node_script(node: str, nodes: Sequence[str]) -> str:
    """For the node, when its end of the cable has arrived."""
    routes = "\n".join(f"ip route replace {pod_network(m)} via {node_address(m)}" for m in nodes if m != node)
    return f"""
    ip link set {node}p name eth0
    ip addr add {node_address(node)}/24 dev eth0
    ip link set eth0 up
    ip route add default via {HUB_ADDRESS}
    sysctl -qw net.ipv4.ip_forward=1
    sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true
    {routes}
    """


def cable_script(node: str, up: bool) -> str:
    """For the hub: pull or plug the cable of a node."""
    return f"ip link set {node} {'up' if up else 'down'}"


def resolv_conf(namespace: str = "default") -> str:
    """What a pod of a namespace has in /etc/resolv.conf."""
    search = f"{namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
    return f"nameserver {HUB_ADDRESS}\nsearch {search}\noptions ndots:5\n"


def cni_config(node: str) -> str:
    """The container network of a node: a bridge with addresses from the node's pod network, kept under /run."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": pod_network(node)}]]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "devcluster", "plugins": [bridge, portmap]}, indent=1)
