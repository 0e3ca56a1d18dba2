"""The command table in C, and the slots of keys."""

from libc.stdint cimport uint16_t, uint32_t

from .resp cimport Arg

cdef enum Kind:
    KIND_KEYS = 0        # forwarded to the partition of its keys
    KIND_SPLIT = 1       # split by partition
    KIND_LOCAL = 2       # answered by the router
    KIND_LATER = 3       # not served yet
    KIND_REFUSED = 4
    KIND_CONTAINER = 5   # only its subcommands are commands
    KIND_TRANSACTION = 6 # MULTI, EXEC, DISCARD
    KIND_ALL = 7         # sent to every partition
    KIND_SCAN = 8        # sent to one partition after the other
    KIND_WATCH = 9       # WATCH
    KIND_PUBSUB = 10     # PUBLISH, PUBSUB, SUBSCRIBE and its kin
    KIND_TRACKING = 11   # CLIENT TRACKING, CLIENT CACHING
    KIND_WAIT = 12       # WAIT
    KIND_MEMBERS = 13    # as KIND_KEYS, with a cursor of one process: HSCAN, SSCAN, ZSCAN
    KIND_SLOT = 14       # CLUSTER COUNTKEYSINSLOT, GETKEYSINSLOT

cdef enum Merge:
    MERGE_ARRAY = 0      # MGET: elements in the order of the keys
    MERGE_SUM = 1        # DEL, UNLINK, EXISTS, TOUCH: the sum of integers
    MERGE_OK = 2         # MSET, FLUSHALL: OK when all are
    MERGE_JOINED = 3     # KEYS: all elements
    MERGE_ANY = 4        # RANDOMKEY: one that is not null
    MERGE_SAME = 5       # SCRIPT LOAD: all answer the same
    MERGE_SCAN = 7       # SCAN: with the client's cursor
    MERGE_LEAST = 6      # SCRIPT EXISTS: element by element
    MERGE_FEWEST = 8     # WAIT: the least of integers
    MERGE_SLOT = 9       # CLUSTER COUNTKEYSINSLOT, GETKEYSINSLOT: of all steps of a scan

# What commands are told apart by where they are timed.
cdef enum Family:
    FAMILY_OTHER = 0
    FAMILY_STRING = 1
    FAMILY_HASH = 2
    FAMILY_LIST = 3
    FAMILY_SET = 4
    FAMILY_SORTED_SET = 5
    FAMILY_STREAM = 6
    FAMILY_GENERIC = 7
    FAMILY_SCRIPTING = 8
    FAMILY_TRANSACTIONS = 9
    FAMILY_PUBSUB = 10
    FAMILY_SERVER = 11
    FAMILY_COUNT = 12

cdef enum:
    MAX_SPECS = 4
    MAX_NAME_BYTES = 40
    MAX_KEYWORD_BYTES = 12

cdef struct KeySpec:
    bint by_keyword
    bint by_number       # how many keys stands in an argument
    int begin            # argument number, or where the search for the keyword starts
    char keyword[MAX_KEYWORD_BYTES]
    int last             # range: last key from the first, or from the end when negative; keynum: offset of the number
    int first            # keynum: offset of the first key
    int step
    int limit

cdef struct Command:
    char name[MAX_NAME_BYTES]
    int name_len
    int arity
    Kind kind
    Family family
    bint container
    bint write
    bint replica         # a replica may answer it
    bint blocks          # it may wait in the engine
    bint one_key         # its only key is argument 1
    Merge merge
    int specs
    KeySpec spec[MAX_SPECS]
    int index            # in the list that the table was made from

cdef class CommandTable:
    cdef Command* commands
    cdef int count
    cdef uint32_t* buckets
    cdef uint32_t mask
    cdef readonly list entries

    cdef Command* find(self, const char* name, Py_ssize_t n) noexcept nogil
    cdef Command* find_sub(self, Command* container, const char* name, Py_ssize_t n) noexcept nogil

# The keys of a request by argument number: written to `found`, at most `room`; returns how many there are.
cdef Py_ssize_t find_keys(
    Command* command, const char* frame, const Arg* args, Py_ssize_t argc, Py_ssize_t* found, Py_ssize_t room
) noexcept nogil

cdef uint16_t key_slot(const char* key, Py_ssize_t n) noexcept nogil
