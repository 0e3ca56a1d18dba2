"""The certificates and kubeconfigs of one development cluster: one authority, ECDSA P-256, valid for 30 days."""

import base64
import datetime
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=30)
API_NAMES = (
    "localhost",
    *(f"kubernetes{tail}" for tail in ("", ".default", ".default.svc", ".default.svc.cluster.local")),
)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its private key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names, and where it answers (empty for a mere client)."""

    name: str
    groups: Sequence[str] = ()
    dns: Sequence[str] = ()
    addresses: Sequence[str] = ()


CLIENTS = {
    "admin": Subject("admin", ["system:masters"]),
    "apiserver-kubelet-client": Subject("kube-apiserver-kubelet-client", ["system:masters"]),
    "kube-controller-manager": Subject("system:kube-controller-manager"),
    "kube-scheduler": Subject("system:kube-scheduler"),
    "kube-proxy": Subject("system:kube-proxy"),
    "coredns": Subject("system:coredns"),
}


class Certificates:
    """Writes into one folder of files that only the owner can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, nodes: Mapping[str, str], api_addresses: Sequence[str], hub_url: str, host_url: str) -> None:
        """Everything for nodes {name: address}; hub_url and host_url are how components and the host reach the API."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        main, front = self._authority("ca"), self._authority("front-proxy-ca")
        self._leaf("apiserver", main, Subject("kube-apiserver", dns=API_NAMES, addresses=api_addresses))
        self._leaf("front-proxy-client", front, Subject("front-proxy-client"))
        for file, subject in CLIENTS.items():
            self._leaf(file, main, subject)
            self._kubeconfig(file, file, hub_url)
        self._kubeconfig("hub", "admin", hub_url)
        self._kubeconfig("host", "admin", host_url)
        for node, address in nodes.items():  # one certificate for both uses: the kubelet's client and its server
            subject = Subject(f"system:node:{node}", ["system:nodes"], [node], [address, "127.0.0.1"])
            self._leaf(f"kubelet-{node}", main, subject)
            self._kubeconfig(f"kubelet-{node}", f"kubelet-{node}", hub_url)
        self._service_account_key()

    def _authority(self, file: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _distinguished_name(Subject(f"devcluster-{file}"))
        usage = x509.KeyUsage(True, False, True, False, False, True, True, False, False)
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._write_pair(file, key, certificate)
        return Authority(key, certificate)

    def _leaf(self, file: str, authority: Authority, subject: Subject) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        serves = bool(subject.dns or subject.addresses)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        builder = (
            _builder(_distinguished_name(subject), authority.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(issuer, critical=False)
        )
        if serves:
            names = [x509.DNSName(name) for name in subject.dns]
            addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        self._write_pair(file, key, builder.sign(authority.key, hashes.SHA256()))

    def _service_account_key(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._write("service-account.key", _private_pem(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._write("service-account.pub", public)

    def _kubeconfig(self, file: str, pair: str, server: str) -> None:
        def data(name: str) -> str:
            return base64.b64encode((self.folder / name).read_bytes()).decode()

        user = {"client-certificate-data": data(f"{pair}.crt"), "client-key-data": data(f"{pair}.key")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "devcluster",
            "clusters": [
                {"name": "devcluster", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}
            ],
            "users": [{"name": pair, "user": user}],
            "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": pair}}],
        }
        self._write(f"{file}.kubeconfig", json.dumps(document, indent=1).encode())

    def _write_pair(self, file: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._write(f"{file}.key", _private_pem(key))
        self._write(f"{file}.crt", certificate.public_bytes(serialization.Encoding.PEM))

    def _write(self, file: str, data: bytes) -> None:
        handle = os.open(self.folder / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
    )


def _distinguished_name(subject: Subject) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in subject.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # PKCS8 is what both client-go and the signer of service account tokens read.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
