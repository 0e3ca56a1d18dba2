"""Types of the compiled hot path; see core.pyx."""

from asyncio import AbstractEventLoop, BufferedProtocol, Transport
from collections.abc import Callable
from typing import Any

from .command_table import CommandTable

CONNECT_TIMEOUT_S: float

class Target:
    name: str
    uid: str | None
    address: Any

class Backend(BufferedProtocol):
    router: Router
    target: Target
    proto: int
    def greet(self, greeting: bytes) -> None: ...
    def failed(self, reason: str) -> None: ...

class Client(BufferedProtocol):
    router: Router
    transport: Transport
    id: int
    cluster: bool
    peer: bool
    proto: int
    info: dict[str, Any] | None
    @property
    def idle(self) -> bool: ...
    def become_peer(self, proto: int) -> None: ...
    def set_proto(self, proto: int) -> None: ...
    def ungate(self, partition: int) -> None: ...
    def close_when_done(self) -> None: ...

class Router:
    loop: AbstractEventLoop
    table: CommandTable
    confirm: Callable[[int, int], None] | None
    routes: dict[str, Any] | None
    partitions: int
    self_uid: str
    clients: dict[int, Client]
    client_count: int
    peer_count: int
    stopping: bool
    def __init__(
        self,
        loop: AbstractEventLoop,
        commands: list[dict[str, Any]],
        connect: Callable[[Backend], None],
        answers: Callable[[Client, str, list[bytes]], bytes | None],
    ) -> None: ...
    def client(self, cluster: bool) -> Client: ...
    def use_pod_table(self, view: memoryview) -> None: ...
    def use_routes(self, routes: dict[str, Any]) -> None: ...
    def use_gate(self, partition: int, generation: int) -> None: ...
    def open_gates(self) -> list[tuple[int, int, int]]: ...
    def start(self) -> None: ...
    def stop_serving(self) -> None: ...
    def engines_idle(self) -> bool: ...
    def give_up_parked(self) -> None: ...
    def metrics(self) -> dict[str, Any]: ...
    def metrics_kept(self) -> dict[str, Any]: ...
    def flush(self) -> None: ...
