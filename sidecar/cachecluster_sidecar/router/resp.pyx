"""The RESP scanner: finds where a request or a reply ends without building objects for what is inside.

It knows bytes and limits only: no sockets, no commands. Scans can be continued, so that a frame which arrives in many
pieces is looked at once. Protocol errors have the texts of Redis' own parser (networking.c).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

cdef enum:
    MAX_INLINE_BYTES_C = 65536
    MAX_ARGS_C = 1048576

cdef long long MAX_BULK_BYTES_C = 536870912
cdef long long MAX_REPLY_ELEMENTS_C = 2147483648

MAX_INLINE_BYTES = MAX_INLINE_BYTES_C
"""Longest inline request, and longest header line of a request, in bytes."""
MAX_ARGS = MAX_ARGS_C
"""Most arguments of one request."""
MAX_BULK_BYTES = MAX_BULK_BYTES_C
"""Longest argument of a request, in bytes (Redis' proto-max-bulk-len)."""
MAX_REPLY_ELEMENTS = MAX_REPLY_ELEMENTS_C
"""Most elements of one reply, nested ones included."""

cdef enum:
    TOO_BIG_INLINE = 1
    TOO_BIG_COUNT = 2
    BAD_COUNT = 3
    TOO_BIG_LENGTH = 4
    NO_DOLLAR = 5
    BAD_LENGTH = 6
    BAD_LINE_END = 7

cdef dict ERRORS = {
    TOO_BIG_INLINE: b"too big inline request",
    TOO_BIG_COUNT: b"too big mbulk count string",
    BAD_COUNT: b"invalid multibulk length",
    TOO_BIG_LENGTH: b"too big bulk count string",
    BAD_LENGTH: b"invalid bulk length",
    BAD_LINE_END: b"invalid CRLF in request",
}


cdef int buf_reserve(Buf* b, Py_ssize_t n) except -1:
    """Make room for n more bytes."""
    cdef Py_ssize_t cap
    cdef char* p
    if b.len + n <= b.cap:
        return 0
    cap = b.cap * 2 if b.cap else 512
    while cap < b.len + n:
        cap *= 2
    p = <char*>realloc(b.p, cap)
    if p == NULL:
        raise MemoryError()
    b.p = p
    b.cap = cap
    return 0


cdef int buf_add(Buf* b, const char* p, Py_ssize_t n) except -1:
    if b.len + n > b.cap:
        buf_reserve(b, n)
    memcpy(b.p + b.len, p, n)
    b.len += n
    return 0


cdef int buf_add_bytes(Buf* b, bytes data) except -1:
    return buf_add(b, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef void buf_consume(Buf* b, Py_ssize_t n) noexcept nogil:
    """Drop the first n bytes."""
    if n >= b.len:
        b.len = 0
    elif n > 0:
        memmove(b.p, b.p + n, b.len - n)
        b.len -= n


cdef void buf_free(Buf* b) noexcept nogil:
    free(b.p)
    b.p = NULL
    b.len = 0
    b.cap = 0


cdef inline int header(const char* p, Py_ssize_t i, Py_ssize_t n, long long* value, Py_ssize_t* end) noexcept nogil:
    """Read `<integer>\\r\\n` at i: 1 when it is there, 0 when bytes are missing, -1 when it is not an integer, and -2
    when something else stands where the line feed should.

    Strict as Redis' string2ll: no plus sign, no spaces, no leading zeros.
    """
    cdef long long v = 0
    cdef Py_ssize_t j = i
    cdef bint negative = False
    if j < n and p[j] == c"-":
        negative = True
        j += 1
    cdef Py_ssize_t first = j
    while j < n and c"0" <= p[j] <= c"9":
        if j - first >= 18:
            return -1
        v = v * 10 + (p[j] - c"0")
        j += 1
    if j >= n:
        return 0
    if p[j] != c"\r" or j == first or (p[first] == c"0" and (j > first + 1 or negative)):
        return -1
    if j + 1 >= n:
        return 0
    if p[j + 1] != c"\n":
        return -2
    value[0] = -v if negative else v
    end[0] = j + 2
    return 1


cdef void request_scan_reset(RequestScan* s) noexcept nogil:
    s.pos = 0
    s.argc = -1
    s.index = 0
    s.want = 0
    s.left = 0
    s.error = 0


cdef inline int failed(RequestScan* s, int error) noexcept nogil:
    s.error = error
    return SCAN_ERROR


cdef int scan_inline(RequestScan* s, const char* p, Py_ssize_t n) noexcept nogil:
    cdef const char* newline = <const char*>memchr(p + s.pos, c"\n", n - s.pos)
    if newline == NULL:
        s.pos = n
        return failed(s, TOO_BIG_INLINE) if n > MAX_INLINE_BYTES_C else SCAN_INCOMPLETE
    s.pos = newline - p + 1
    return failed(s, TOO_BIG_INLINE) if s.pos > MAX_INLINE_BYTES_C + 2 else SCAN_INLINE


cdef int scan_request(RequestScan* s, const char* p, Py_ssize_t n) noexcept nogil:
    """Go on scanning the request whose frame begins at p, of which n bytes are there.

    SCAN_COMPLETE: the frame is p[0:pos], with argc arguments (0 and below: an empty request, to be ignored), the first
    of them in `head`. SCAN_INLINE: p[0:pos] is one line of an inline request. SCAN_ERROR: see request_error.

    As strict as Valkey, which ends a connection where a line feed is missing: Redis takes any byte in its place. What one
    of them refuses must not reach it, on a connection that all clients share.
    """
    cdef long long v
    cdef Py_ssize_t end
    cdef int r
    if n == 0:
        return SCAN_INCOMPLETE
    if s.argc < 0:
        if p[0] != c"*":
            return scan_inline(s, p, n)
        r = header(p, 1, n, &v, &end)
        if r < 0:
            return failed(s, BAD_COUNT if r == -1 else BAD_LINE_END)
        if r == 0:
            return failed(s, TOO_BIG_COUNT) if n > MAX_INLINE_BYTES_C else SCAN_INCOMPLETE
        if v > MAX_ARGS_C:
            return failed(s, BAD_COUNT)
        s.pos = end
        s.argc = v if v > 0 else 0
    while s.index < s.argc:
        if s.pos >= n:
            return SCAN_INCOMPLETE
        if p[s.pos] != c"$":
            s.got = <uint8_t>p[s.pos]
            return failed(s, NO_DOLLAR)
        r = header(p, s.pos + 1, n, &v, &end)
        if r == 0:
            return failed(s, TOO_BIG_LENGTH) if n - s.pos > MAX_INLINE_BYTES_C else SCAN_INCOMPLETE
        if r == -2:
            return failed(s, BAD_LINE_END)
        if r < 0 or v < 0 or v > MAX_BULK_BYTES_C:
            return failed(s, BAD_LENGTH)
        if s.index < HEAD_ARGS:
            s.head[s.index].at = end
            s.head[s.index].len = v
        if end + v + 2 > n:
            s.want = end + v + 2
            return SCAN_INCOMPLETE
        if p[end + v] != c"\r" or p[end + v + 1] != c"\n":
            return failed(s, BAD_LINE_END)
        s.pos = end + v + 2
        s.index += 1
    return SCAN_COMPLETE


cdef Py_ssize_t pass_request(RequestScan* s, const char* p, Py_ssize_t n) noexcept nogil:
    """Go on with a request (no inline one) that is passed on in pieces; p is its first byte that was not passed yet, after
    request_scan_reset that of the frame.

    Returns how many bytes may be passed now. The last line end is never one of them: without it nothing is executed. When
    it is there, behind what may be passed, `index` is `argc`. -1: see request_error.
    """
    cdef Py_ssize_t at = 0, passed
    cdef int r
    if s.left > 0:
        if n < s.left:
            at = min(n, s.left - 2)
            s.left -= at
            return at
        at = s.left
        if p[at - 2] != c"\r" or p[at - 1] != c"\n":
            return failed(s, BAD_LINE_END)
        s.left = 0
        s.index += 1
        if s.index == s.argc:
            return at - 2
    s.pos = s.want = 0
    r = scan_request(s, p + at, n - at)
    if r == SCAN_ERROR:
        return -1
    if r == SCAN_COMPLETE:
        return at + s.pos - 2
    if s.want > 0:
        passed = min(n - at, s.want - 2)
        s.left = s.want - passed
        return at + passed
    return at + s.pos


cdef bytes request_error(RequestScan* s):
    """The error reply for a scan that failed, in the words of Redis."""
    if s.error == NO_DOLLAR:
        return b"-ERR Protocol error: expected '$', got '" + printable(s.got) + b"'\r\n"
    return b"-ERR Protocol error: " + <bytes>ERRORS[s.error] + b"\r\n"


cdef bytes printable(uint8_t c):
    """One byte inside an error line: line ends become spaces, as in Redis."""
    return b" " if c == c"\r" or c == c"\n" else bytes([c])


cdef Py_ssize_t next_arg(const char* p, Py_ssize_t at, Arg* arg) noexcept nogil:
    """Read the argument whose `$` stands at `at` in a frame known to be complete; returns where the next one begins."""
    cdef Py_ssize_t v = 0
    at += 1
    while p[at] != c"\r":
        v = v * 10 + (p[at] - c"0")
        at += 1
    arg.at = at + 2
    arg.len = v
    return at + v + 4


cdef void reply_scan_reset(ReplyScan* s) noexcept nogil:
    s.pos = 0
    s.pending = 0
    s.want = 0
    s.left = 0


cdef inline Py_ssize_t line_end(const char* p, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """Where the line that contains p[at] ends, its carriage return and line feed included; 0 when it does not yet."""
    cdef const char* newline
    while True:
        newline = <const char*>memchr(p + at, c"\n", n - at)
        if newline == NULL:
            return 0
        at = newline - p + 1
        if at > 1 and p[at - 2] == c"\r":
            return at


cdef int scan_reply(ReplyScan* s, const char* p, Py_ssize_t n) noexcept nogil:
    """Go on scanning the reply whose first byte is p[0]; SCAN_COMPLETE when it is p[0:pos].

    Nested elements are counted, not recursed into, so that depth costs nothing. SCAN_ERROR: these bytes are no RESP.
    """
    cdef long long v
    cdef Py_ssize_t end
    cdef char kind
    cdef int r
    if s.pos == 0 and s.pending == 0:
        s.pending = 1
    while s.pending > 0:
        if s.pos >= n:
            return SCAN_INCOMPLETE
        kind = p[s.pos]
        if kind == c"+" or kind == c":" or kind == c"-" or kind == c"_" or kind == c"#" or kind == c"," or kind == c"(":
            end = line_end(p, s.pos, n)
            if end == 0:
                return SCAN_INCOMPLETE
            s.pos = end
            s.pending -= 1
            continue
        r = header(p, s.pos + 1, n, &v, &end)
        if r <= 0:
            return SCAN_INCOMPLETE if r == 0 else SCAN_ERROR
        if kind == c"$" or kind == c"=" or kind == c"!":
            if v >= 0:
                if end + v + 2 > n:
                    s.want = end + v + 2
                    return SCAN_INCOMPLETE
                end += v + 2
                if p[end - 2] != c"\r" or p[end - 1] != c"\n":
                    return SCAN_ERROR
            s.pending -= 1
        elif kind == c"*" or kind == c"~" or kind == c">":
            s.pending += (v if v > 0 else 0) - 1
        elif kind == c"%":
            s.pending += (2 * v if v > 0 else 0) - 1
        elif kind == c"|":
            s.pending += 2 * v if v > 0 else 0
        else:
            return SCAN_ERROR
        if s.pending > MAX_REPLY_ELEMENTS_C:
            return SCAN_ERROR
        s.pos = end
    return SCAN_COMPLETE


cdef Py_ssize_t pass_reply(ReplyScan* s, const char* p, Py_ssize_t n) noexcept nogil:
    """Go on with a reply that is passed on in pieces; p is its first byte that was not passed yet, after
    reply_scan_reset that of the reply.

    Returns how many bytes may be passed now: all of them, but for the end of a reply and for a line that is not
    complete. `pending` is 0 then when the reply ends there. -1: these bytes are no RESP.
    """
    cdef Py_ssize_t at = 0
    cdef int r
    if s.left > 0:
        at = min(s.left, n)
        s.left -= at
        if s.left > 0:
            return at
        s.pending -= 1
        if s.pending == 0:
            return at
    s.pos = s.want = 0
    r = scan_reply(s, p + at, n - at)
    if r == SCAN_ERROR:
        return -1
    if r == SCAN_INCOMPLETE and s.want > n - at:
        s.left = s.want - (n - at)
        return n
    return at + s.pos


cdef bytes inline_to_request(bytes line):
    """The multibulk frame of an inline request; empty for an empty line, None when its quotes do not match."""
    arguments = split_inline(line)
    if arguments is None:
        return None
    return encode_request(arguments) if arguments else b""


def encode_request(arguments):
    """A request frame of these arguments (bytes)."""
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments])


ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
HEX = b"0123456789abcdefABCDEF"


def split_inline(line):
    """Split one line into arguments as Redis' sdssplitargs does; None when quotes do not match.

    Quotes may begin inside a word, and a closing quote must be followed by a space or the end of the line.
    """
    arguments = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at : at + 1].isspace():
            at += 1
        if at >= end:
            return arguments
        word, at = split_word(line, at, end)
        if word is None:
            return None
        arguments.append(word)


def split_word(line, at, end):
    """One argument of an inline request that begins at `at`, and where it ended."""
    word = bytearray()
    quote = b""
    while at < end:
        c = line[at : at + 1]
        if quote == b'"' and c == b"\\" and at + 1 < end:
            step, value = escape(line, at)
            word += value
            at += step
        elif quote == b"'" and line[at : at + 2] == b"\\'":
            word += b"'"
            at += 2
        elif quote and c == quote:
            at += 1
            if at < end and not line[at : at + 1].isspace():
                return None, at
            return bytes(word), at
        elif not quote and c in (b'"', b"'"):
            quote = c
            at += 1
        elif not quote and (c.isspace() or c == b"\0"):
            return bytes(word), at + 1
        else:
            word += c
            at += 1
    return (None if quote else bytes(word)), at


def escape(line, at):
    """A backslash escape inside double quotes: how many bytes it takes, and what it stands for."""
    digits = line[at + 2 : at + 4]
    if line[at + 1 : at + 2] == b"x" and len(digits) == 2 and digits[0] in HEX and digits[1] in HEX:
        return 4, bytes([int(digits, 16)])
    c = line[at + 1 : at + 2]
    return 2, ESCAPES.get(c, c)


class ProtocolError(ValueError):
    """The bytes are no RESP; the message is Redis' own."""


def split_requests(bytes data):
    """All complete requests at the start of `data`, as lists of arguments, and what is left over.

    For tests and tools; the router's own path builds no lists.
    """
    cdef RequestScan s
    cdef const char* p = PyBytes_AS_STRING(data)
    cdef Py_ssize_t start = 0, at, n = PyBytes_GET_SIZE(data)
    cdef Arg arg
    cdef int r
    requests = []
    while True:
        request_scan_reset(&s)
        r = scan_request(&s, p + start, n - start)
        if r == SCAN_ERROR:
            raise ProtocolError(request_error(&s)[1:-2].decode("latin-1"))
        if r == SCAN_INCOMPLETE:
            return requests, data[start:]
        if r == SCAN_INLINE:
            requests.append(split_inline(data[start : start + s.pos].rstrip(b"\r\n")))
        else:
            requests.append(request_args(data[start : start + s.pos]))
        start += s.pos


cdef list request_args(bytes frame):
    """The arguments of a complete multibulk frame."""
    cdef Arg arg
    cdef Py_ssize_t at = frame.index(b"\n") + 1, n = PyBytes_GET_SIZE(frame)
    cdef list arguments = []
    while at < n:
        at = next_arg(PyBytes_AS_STRING(frame), at, &arg)
        arguments.append(frame[arg.at : arg.at + arg.len])
    return arguments
