"""Types of the compiled RESP scanner; see resp.pyx."""

from collections.abc import Sequence

MAX_INLINE_BYTES: int
MAX_ARGS: int
MAX_BULK_BYTES: int
MAX_REPLY_ELEMENTS: int

class ProtocolError(ValueError): ...

def encode_request(arguments: Sequence[bytes]) -> bytes: ...
def split_inline(line: bytes) -> list[bytes] | None: ...
def split_requests(data: bytes) -> tuple[list[list[bytes]], bytes]: ...
