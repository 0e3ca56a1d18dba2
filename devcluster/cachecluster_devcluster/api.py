"""Small questions to the API server of a development cluster over one client certificate, without kubectl."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

REQUEST_SECONDS = 5.0
POLL_SECONDS = 0.1


class Api:
    """Reads from the API server at 127.0.0.1:port as the cluster's administrator."""

    def __init__(self, port: int, pki: Path) -> None:
        self._port = port
        self._pki = pki

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one GET; status 0 when there is no answer."""
        context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=REQUEST_SECONDS, context=context)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def object(self, path: str) -> dict[str, Any] | None:
        """The object at a path, or None when it is not there or nobody answers."""
        status, body = self.get(path)
        return cast("dict[str, Any]", json.loads(body)) if status == 200 else None

    def ready(self) -> bool:
        """Whether the API server calls itself ready."""
        return self.get("/readyz")[0] == 200

    def node_ready(self, node: str, since: float = 0.0) -> bool:
        """Whether the node's Ready condition is True by a kubelet's word given after `since` (seconds since 1970)."""
        found = self.object(f"/api/v1/nodes/{node}")
        conditions = found["status"].get("conditions", []) if found else []
        ready = next((c for c in conditions if c["type"] == "Ready"), None)
        if ready is None or ready["status"] != "True" or _seconds(ready["lastHeartbeatTime"]) < int(since):
            return False
        lease = self.object(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}")
        return lease is not None and _seconds(lease["spec"]["renewTime"]) >= since

    def has_default_service_account(self) -> bool:
        """Whether pods can be made in the default namespace."""
        return self.object("/api/v1/namespaces/default/serviceaccounts/default") is not None


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def wait(what: str, true: Callable[[], bool], seconds: float) -> None:
    """Waits until `true()`; raises TimeoutError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
