"""The command lines and configuration files of every component of a development cluster, as plain values.

Wherever a setting departs from the component's default it says why: mostly heartbeats (a dead node shall show within
seconds), or what a machine without systemd and without all capabilities cannot do.
"""

import json
from pathlib import Path

from cachecluster_devcluster import network

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "localhost/pause:1"
ETCD_URL = "http://127.0.0.1:2379"
ETCD_PEER_URL = "http://127.0.0.1:2380"
HUB_API_URL = f"https://{network.HUB_ADDRESS}:{network.API_PORT}"
# The node controller calls a node unreachable when this long without a heartbeat; kubelets beat every 4 s.
NODE_GRACE_SECONDS = 16
EVICTION_SECONDS = 30


def etcd(kube: Path, data: Path) -> list[str]:
    """A single member. It does not sync its disk: the cluster's life is shorter than the machine's."""
    return [
        str(kube),
        "etcd",
        f"--data-dir={data}",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        f"--listen-peer-urls={ETCD_PEER_URL}",
        f"--initial-advertise-peer-urls={ETCD_PEER_URL}",
        f"--initial-cluster=default={ETCD_PEER_URL}",
        "--unsafe-no-fsync",
    ]


def api_server(kube: Path, pki: Path) -> list[str]:
    """The API server, with the admission and authorization of a real cluster."""
    return [
        str(kube),
        "kube-apiserver",
        f"--etcd-servers={ETCD_URL}",
        f"--advertise-address={network.HUB_ADDRESS}",
        "--bind-address=0.0.0.0",
        f"--secure-port={network.API_PORT}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={network.SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-account.pub",
        f"--service-account-signing-key-file={pki}/service-account.key",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--enable-aggregator-routing=true",
        f"--default-not-ready-toleration-seconds={EVICTION_SECONDS}",
        f"--default-unreachable-toleration-seconds={EVICTION_SECONDS}",
        "--profiling=false",
    ]


def _controller(kube: Path, pki: Path, name: str) -> list[str]:
    kubeconfig = pki / f"{name}.kubeconfig"
    return [
        str(kube),
        name,
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]


def controller_manager(kube: Path, pki: Path) -> list[str]:
    """The controller manager. With its default request rate the default ServiceAccount takes 7 s to appear."""
    return [
        *_controller(kube, pki, "kube-controller-manager"),
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-account.key",
        "--use-service-account-credentials=true",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--allocate-node-cidrs=false",
        f"--cluster-cidr={network.POD_NETWORK}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--node-monitor-period=2s",
        f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
    ]


def scheduler(kube: Path, pki: Path) -> list[str]:
    """The scheduler."""
    return _controller(kube, pki, "kube-scheduler")


def corefile(pki: Path) -> str:
    """The configuration of CoreDNS: the cluster's names only, short lifetimes, so that a fault shows soon."""
    return f""".:53 {{
    bind {network.HUB_ADDRESS}
    errors
    ready 127.0.0.1:8181
    kubernetes {network.CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {pki}/coredns.kubeconfig devcluster
        pods insecure
        ttl 2
        fallthrough in-addr.arpa ip6.arpa
    }}
    cache 2
}}
"""


def coredns_access() -> str:
    """The RBAC objects that let CoreDNS read, as a JSON list for `kubectl apply`."""
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    name = "devcluster:coredns"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "system:coredns"}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [role, binding]})


def containerd_config(cni_folder: Path) -> str:
    """containerd without what needs AppArmor, huge pages or CAP_SYS_RESOURCE, and without unused snapshotters."""
    unused = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "native", "zfs")]
    unused += ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
    unused += ["io.containerd.tracing.processor.v1.otlp"]
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = {json.dumps(unused)}
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
  stats_collect_period = 10
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni_folder}"
"""


def kubelet(kube: Path, pki: Path, node: str, config: Path) -> list[str]:
    """The kubelet of a node."""
    return [
        str(kube),
        "kubelet",
        f"--config={config}",
        f"--kubeconfig={pki}/kubelet-{node}.kubeconfig",
        f"--hostname-override={node}",
        f"--node-ip={network.node_address(node)}",
        f"--node-labels=topology.kubernetes.io/zone={network.zone(node)}",
    ]


def kubelet_config(pki: Path, node: str, cgroup: str, resolv_conf: Path) -> str:
    """Evicts nothing for want of disk or memory: all nodes share the disk and memory of one machine."""
    signals = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node_address(node),
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet-{node}.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet-{node}.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [network.HUB_ADDRESS],
        "clusterDomain": network.CLUSTER_DOMAIN,
        "resolvConf": str(resolv_conf),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": dict.fromkeys(signals, "0%"),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 60,
        "oomScoreAdj": 0,  # a negative one takes CAP_SYS_RESOURCE
        "podLogsDir": "/var/log/pods",
        "rotateCertificates": False,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
        "volumeStatsAggPeriod": "-1s",
        "enableProfilingHandler": False,
    }
    return json.dumps(config, indent=1)


def kube_proxy(kube: Path, config: Path) -> list[str]:
    """kube-proxy of a node or of the hub."""
    return [str(kube), "kube-proxy", f"--config={config}"]


def kube_proxy_config(pki: Path, node: str) -> str:
    """nftables mode; leaves the connection tracker's limits, which are the whole host's, alone."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "oomScoreAdj": 0,
        "clusterCIDR": network.POD_NETWORK,
        "detectLocalMode": "ClusterCIDR",
        "clientConnection": {"kubeconfig": f"{pki}/kube-proxy.kubeconfig"},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nftables": {"minSyncPeriod": "200ms"},
    }
    return json.dumps(config, indent=1)
