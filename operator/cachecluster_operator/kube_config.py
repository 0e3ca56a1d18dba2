"""How this process reaches the API server: in a pod by its ServiceAccount, outside by a kubeconfig.

One configuration serves both clients, kubernetes.aio's and kopf's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kopf
from kubernetes.aio import client
from kubernetes.aio import config as untyped_config

config: Any = untyped_config

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ConfigError(Exception):
    """There is no usable way to the API server; the message says what is missing."""


async def load(kubeconfig: str | None) -> client.Configuration:
    """The configuration. `kubeconfig` None means the pod's ServiceAccount. ConfigError when it does not work out."""
    configuration = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        hint = "outside of a pod pass --kubeconfig" if kubeconfig is None else kubeconfig
        raise ConfigError(f"no way to the API server: {error} ({hint})") from error
    # One pool for all clusters; a request that hangs must not hold up others for want of a connection.
    configuration.connection_pool_maxsize = 100
    return configuration


async def kopf_connection(configuration: client.Configuration) -> kopf.ConnectionInfo:
    """The same way for kopf. Called again by kopf when the server says 401, so the token is read anew."""
    authorization = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (authorization or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        insecure=not configuration.verify_ssl,
        scheme=(scheme.capitalize() or "Bearer") if token else None,
        token=token or None,
    )


def own_namespace() -> str | None:
    """The namespace of the pod this process runs in; None outside of a pod."""
    try:
        return NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None
