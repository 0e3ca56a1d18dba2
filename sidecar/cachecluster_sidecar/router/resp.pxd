"""Growing byte buffers and the RESP scanners: where a request or a reply ends."""

from libc.stdint cimport uint8_t


cdef struct Buf:
    char* p
    Py_ssize_t len
    Py_ssize_t cap

cdef int buf_reserve(Buf* b, Py_ssize_t n) except -1
cdef int buf_add(Buf* b, const char* p, Py_ssize_t n) except -1
cdef int buf_add_bytes(Buf* b, bytes data) except -1
cdef void buf_consume(Buf* b, Py_ssize_t n) noexcept nogil
cdef void buf_free(Buf* b) noexcept nogil

# An argument of a request: where its bytes begin, counted from the first byte of the frame, and how many they are.
cdef struct Arg:
    Py_ssize_t at
    Py_ssize_t len

cdef enum:
    HEAD_ARGS = 4

cdef enum ScanResult:
    SCAN_INCOMPLETE = 0
    SCAN_COMPLETE = 1
    SCAN_INLINE = 2
    SCAN_ERROR = -1

# The state of one request that is being scanned; it may be continued when more bytes have come.
cdef struct RequestScan:
    Py_ssize_t pos          # the first byte not yet scanned, counted from the first byte of the frame
    Py_ssize_t argc         # -1 until the header is read
    Py_ssize_t index        # arguments already seen
    Arg head[HEAD_ARGS]     # the first arguments
    Py_ssize_t want         # the frame has at least so many bytes, as far as the argument under way tells
    Py_ssize_t left         # of the argument that is passed on in pieces, with its line end
    int error               # index into the table of protocol errors
    uint8_t got             # the byte found in place of `$`

cdef struct ReplyScan:
    Py_ssize_t pos
    long long pending       # elements still to come; 0 before the first byte
    Py_ssize_t want         # the frame has at least so many bytes, as far as the bulk under way tells
    Py_ssize_t left         # of the bulk that is passed on in pieces

cdef void request_scan_reset(RequestScan* s) noexcept nogil
cdef int scan_request(RequestScan* s, const char* p, Py_ssize_t n) noexcept nogil
cdef Py_ssize_t pass_request(RequestScan* s, const char* p, Py_ssize_t n) noexcept nogil
cdef bytes request_error(RequestScan* s)
cdef Py_ssize_t next_arg(const char* p, Py_ssize_t at, Arg* arg) noexcept nogil

cdef void reply_scan_reset(ReplyScan* s) noexcept nogil
cdef int scan_reply(ReplyScan* s, const char* p, Py_ssize_t n) noexcept nogil
cdef Py_ssize_t pass_reply(ReplyScan* s, const char* p, Py_ssize_t n) noexcept nogil

cdef bytes inline_to_request(bytes line)
