"""The hot path of a router: client connections, backend connections, and the gates and lines between them.

Frames are forwarded as the bytes they came in; nothing is built per argument, no task, future or timer per command,
and each socket is written once a turn (wire.pyx). What is not hot stands in plain Python beside this module: the
agent's connection (control.py), the replies that the router makes itself (answers.py), dialling (dial.py).

The parts, each with one job:
    request.pxi     requests, the lines they stand in, merging the parts of a split one
    partition.pxi   gates, parking and release, generations and their confirmation
    backend.pxi     pipelined connections to engines and peers
    client.pxi      connections of clients and peers: reading, replies in order, back-pressure
    account.pxi     as whom a client is known, and what that one may do
    dispatch.pxi    what to do with one command
    spread.pxi      commands of several partitions
    aside.pxi       reads that a replica answers in its primary's place
    transaction.pxi MULTI and EXEC: commands that are kept, and go to an engine in one piece
    large.pxi       large replies, passed on in pieces on connections of one client's own
    upload.pxi      large requests, the same way
    private.pxi     connections of one client's own: commands that wait, WATCH
    passage.pxi     the same to the router of another pod, for what is large
    pubsub.pxi      SUBSCRIBE and PUBLISH: who listens to what, and to whom this router listens for them
    wait.pxi        WAIT: how many copies have what a client has written
    tracking.pxi    CLIENT TRACKING: who has read what, and is told of changes
    scan.pxi        SCAN over all partitions
    members.pxi     HSCAN, SSCAN and ZSCAN: cursors of the process that serves
    slot_scan.pxi   CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT: a scan for the keys of one slot
    commit.pxi      replies that wait until the copies have acknowledged what they tell
    router.pxi      routes, the tick, counters
"""

import fcntl
import logging
import random
import socket
import sys
import termios
import zlib

from cachecluster_core import pod_table

from . import access, blocking, monitoring, tracking
from .acl import Grant
from .checks import CHECKS, NOT_SERVED
from .command_table import FAMILIES
from .resp import encode_request

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t, uint16_t, uint64_t, uintptr_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, strtoll
from libc.string cimport memcmp, memset

from cachecluster_core cimport gate_step

from .command_table cimport (
    KIND_ALL,
    KIND_CONTAINER,
    KIND_KEYS,
    KIND_LATER,
    KIND_LOCAL,
    KIND_MEMBERS,
    KIND_PUBSUB,
    KIND_REFUSED,
    KIND_SCAN,
    KIND_SLOT,
    KIND_SPLIT,
    KIND_TRACKING,
    KIND_TRANSACTION,
    KIND_WAIT,
    KIND_WATCH,
    MAX_SPECS,
    MERGE_ANY,
    MERGE_ARRAY,
    MERGE_FEWEST,
    MERGE_JOINED,
    MERGE_LEAST,
    MERGE_OK,
    MERGE_SAME,
    MERGE_SCAN,
    MERGE_SLOT,
    MERGE_SUM,
    Command,
    CommandTable,
    Merge,
    find_keys,
    key_slot,
)
from .resp cimport (
    SCAN_COMPLETE,
    SCAN_ERROR,
    SCAN_INCOMPLETE,
    SCAN_INLINE,
    Arg,
    Buf,
    ReplyScan,
    RequestScan,
    buf_add,
    buf_add_bytes,
    buf_consume,
    buf_free,
    buf_reserve,
    inline_to_request,
    next_arg,
    pass_reply,
    pass_request,
    reply_scan_reset,
    request_error,
    request_scan_reset,
    scan_reply,
    scan_request,
)

log = logging.getLogger("cachecluster.router")

# The limits that the hot path looks at; their names and units stand below.
cdef enum:
    C_MAX_PIPELINE = 1024
    C_MAX_PEER_PIPELINE = 32768
    C_MAX_REQUEST = 603979776
    C_MAX_EVERYWHERE = 1048576
    C_MAX_EVERYWHERE_ARGS = 1024
    C_QUEUED_OVERHEAD = 64
    C_OUTPUT_PAUSE = 262144
    C_HELD_PAUSE = 16777216
    C_OUTPUT_MAX = 134217728
    C_LISTENER_MAX = 33554432
    C_BACKEND_PAUSE = 1048576
    C_LARGE = 1048576
    C_LARGE_REQUEST = 16777216
    C_LARGE_REST = 16777216
    C_LATENCY_MASK = 15
    LATENCY_BUCKETS = 24
    STACK_ARGS = 64

SHARED_BUFFER_BYTES = 262144
"""Every connection reads into this one buffer; only what is incomplete is copied."""
MAX_PIPELINE = C_MAX_PIPELINE
"""Commands of one client that may be outstanding; then its socket is not read until half of them are answered. As long as
the routes say nothing else, like the other limits of a client."""
MAX_PEER_PIPELINE = C_MAX_PEER_PIPELINE
"""The same for a peer router, which carries the commands of many clients."""
MAX_REQUEST_BYTES = C_MAX_REQUEST
"""One request; then the client is disconnected."""
MAX_EVERYWHERE_BYTES = C_MAX_EVERYWHERE
"""A command that goes to every partition."""
MAX_EVERYWHERE_ARGUMENTS = C_MAX_EVERYWHERE_ARGS
"""Arguments of a command that goes to every partition: its replies are merged while others wait."""
KEEP_ALIVE_S = 300
"""Silence after which a client's connection is probed by TCP (Redis' tcp-keepalive)."""
OUTPUT_PAUSE_BYTES = C_OUTPUT_PAUSE
"""Replies that the socket has not taken yet, per client; then its commands wait."""
HELD_PAUSE_BYTES = C_HELD_PAUSE
"""Replies whose turn has not come, per client; then its commands wait. With less room for them from an eighth of it on."""
OUTPUT_MAX_BYTES = C_OUTPUT_MAX
"""The same bound for replies to commands that were already on their way; then the client is disconnected."""
LARGE_BYTES = C_LARGE
"""A reply above it is not kept until it is complete, but passed on in pieces, on a connection of its client's own."""
LARGE_REQUEST_BYTES = C_LARGE_REQUEST
"""The same for a request with an argument that ends beyond it: more than for replies, for what is kept can wait for a gate."""
LARGE_REST_BYTES = C_LARGE_REST
"""So much of a large reply is still to come where the connection is dropped with it; less is read away."""
PIECE_BYTES = 65536
"""The most of a large reply that is passed on at a time."""
MOST_LARGE = 4096
"""Of so many commands and keys it is remembered that their replies were large."""
DROP_PAUSE_S = 1.0
"""How long a shared connection is not dropped again for a large reply."""
UNREAD_S = 60.0
"""How long a client may take nothing of a large reply, or send nothing of a large request; then it is disconnected."""
LISTENER_MAX_BYTES = C_LISTENER_MAX
"""Messages that a client which has subscribed has not read (Redis' limit for pubsub clients); then it is disconnected."""
BACKEND_PAUSE_BYTES = C_BACKEND_PAUSE
"""Commands that a backend's socket has not taken yet; then clients that send more to it are not read."""
IDLE_LOOK_S = 1.0
"""How often it is looked who is idle; with a short time-out four times as often as that."""
SILENCE_S = 8.0
"""How long a backend may be silent that has something to answer: a peer, and an engine whose gate is not open."""
CONNECT_TIMEOUT_S = 1.0
"""Connecting to a backend and being greeted by it."""
PEER_SILENCE_S = 1.0
"""How long a peer may be silent that holds commands of a partition which has moved away from it."""
PEER_BUSY_S = 3.0
"""The same for a peer that may be busy with a command of a partition that it still has."""
GATE_DRAIN_S = 0.25
"""How long what is in flight at a gate that was shut may take before the engine connection is cut."""
REFUSED_FIRST_S = 0.001
REFUSED_MAX_S = 0.016
"""How long after a peer's refusal a partition's commands wait before they are sent again: the first time, and at most;
doubled in between."""
AWAY_S = 0.5
"""How soon a client is back that was answered MOVED, if the router that it was sent to sent it back."""
AWAY_RECENT_S = 1.0
"""How long after a partition's owner, or where it is announced, has changed."""
AWAY_FIRST_S = 0.005
AWAY_MAX_S = 0.1
"""How long such a client waits for the next MOVED: the first time, and at most; doubled in between."""
MOST_AWAY = 256
"""Slots of one client from which it was sent away that are remembered."""
ASIDE_SILENCE_S = 1.0
"""How long a replica that was asked may be silent; then its primary is."""
WRAPPED_MAX_BYTES = 512 << 20
"""How long a command may be that goes to another pod as an argument of our own: as long as an argument may be."""
NEAR_PAUSE_S = 0.5
"""How long the replicas of other pods are not asked after one of them could not answer."""
SILENT_PAUSE_S = 2.0
"""The same when one of them did not answer."""
RETRY_FIRST_S = 0.01
RETRY_MAX_S = 0.25
"""Wait before dialling a backend again: the first time, and at most; doubled in between."""
TICK_BUSY_S = 0.01
TICK_IDLE_S = 0.1
"""Interval of the router's only timer while commands are parked or a gate drains, and otherwise."""
PEER_CONNECTIONS = 1024
"""Connections of the cluster port beyond the limit of clients, so that peers are not shut out by clients."""
MANY_LEFT = 1000
"""When so many clients, and half of all, have gone since there were the most, memory is given back to the system."""
LATENCY_SAMPLE = C_LATENCY_MASK + 1
"""One of so many commands is timed."""

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    static inline uint64_t cc_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t cc_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void cc_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    static inline int64_t cc_ns(clockid_t clock) {
        struct timespec t;
        clock_gettime(clock, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static inline int64_t cc_boottime_ns(void) { return cc_ns(CLOCK_BOOTTIME); }
    static inline int64_t cc_monotonic_ns(void) { return cc_ns(CLOCK_MONOTONIC); }
    #ifdef __GLIBC__
    #include <malloc.h>
    static inline void cc_give_memory_back(void) { malloc_trim(0); }
    #else
    static inline void cc_give_memory_back(void) {}
    #endif
    """
    uint64_t cc_acquire(const uint64_t* p) noexcept nogil
    uint64_t cc_relaxed(const uint64_t* p) noexcept nogil
    void cc_fence() noexcept nogil
    int64_t cc_boottime_ns() noexcept nogil
    int64_t cc_monotonic_ns() noexcept nogil
    void cc_give_memory_back() noexcept nogil


cdef inline double seconds() noexcept nogil:
    """Monotonic time in seconds."""
    return cc_monotonic_ns() * 1e-9


include "request.pxi"
include "partition.pxi"
include "backend.pxi"
include "client.pxi"
include "account.pxi"
include "dispatch.pxi"
include "spread.pxi"
include "aside.pxi"
include "transaction.pxi"
include "large.pxi"
include "upload.pxi"
include "private.pxi"
include "passage.pxi"
include "wait.pxi"
include "tracking.pxi"
include "pubsub.pxi"
include "scan.pxi"
include "members.pxi"
include "slot_scan.pxi"
include "commit.pxi"
include "router.pxi"
