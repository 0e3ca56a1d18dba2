"""The command table: one look-up says how a command is served and which of its arguments are keys.

It is made from commands.json and knows no connections. Keys are found by the key specifications of the Redis command
documents (redis.io, "Command key specifications").
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy

KINDS = {
    "keys": KIND_KEYS,
    "split": KIND_SPLIT,
    "local": KIND_LOCAL,
    "later": KIND_LATER,
    "refused": KIND_REFUSED,
    "container": KIND_CONTAINER,
    "transaction": KIND_TRANSACTION,
    "all": KIND_ALL,
    "scan": KIND_SCAN,
    "watch": KIND_WATCH,
    "pubsub": KIND_PUBSUB,
    "tracking": KIND_TRACKING,
    "wait": KIND_WAIT,
    "members": KIND_MEMBERS,
    "slot": KIND_SLOT,
}
MERGES = {
    "mget": MERGE_ARRAY,
    "mset": MERGE_OK,
    "flushall": MERGE_OK,
    "flushdb": MERGE_OK,
    "script|flush": MERGE_OK,
    "keys": MERGE_JOINED,
    "scan": MERGE_SCAN,
    "randomkey": MERGE_ANY,
    "script|load": MERGE_SAME,
    "function|delete": MERGE_OK,
    "function|dump": MERGE_SAME,
    "function|flush": MERGE_OK,
    "function|list": MERGE_SAME,
    "function|load": MERGE_SAME,
    "function|restore": MERGE_OK,
    "script|exists": MERGE_LEAST,
    "wait": MERGE_FEWEST,
    "cluster|countkeysinslot": MERGE_SLOT,
    "cluster|getkeysinslot": MERGE_SLOT,
}
FAMILIES = {
    "other": FAMILY_OTHER,
    "string": FAMILY_STRING,
    "hash": FAMILY_HASH,
    "list": FAMILY_LIST,
    "set": FAMILY_SET,
    "sorted-set": FAMILY_SORTED_SET,
    "stream": FAMILY_STREAM,
    "generic": FAMILY_GENERIC,
    "scripting": FAMILY_SCRIPTING,
    "transactions": FAMILY_TRANSACTIONS,
    "pubsub": FAMILY_PUBSUB,
    "server": FAMILY_SERVER,
}

cdef uint16_t CRC[256]


cdef void make_crc() noexcept:
    """The table of CRC16/XMODEM, polynomial 0x1021."""
    cdef int i, j
    cdef uint16_t c
    for i in range(256):
        c = <uint16_t>(i << 8)
        for j in range(8):
            c = <uint16_t>((c << 1) ^ 0x1021) if c & 0x8000 else <uint16_t>(c << 1)
        CRC[i] = c


make_crc()


cdef uint16_t key_slot(const char* key, Py_ssize_t n) noexcept nogil:
    """The slot of a key; the C twin of cachecluster_core.slots.slot_of_key."""
    cdef uint16_t c = 0
    cdef Py_ssize_t i
    cdef const char* close
    cdef const char* brace = <const char*>memchr(key, c"{", n)
    if brace != NULL:
        close = <const char*>memchr(brace + 1, c"}", n - (brace + 1 - key))
        if close != NULL and close > brace + 1:
            n = close - brace - 1
            key = brace + 1
    for i in range(n):
        c = <uint16_t>((c << 8) ^ CRC[((c >> 8) ^ <uint8_t>key[i]) & 0xFF])
    return c & 16383


cdef inline char lower(char c) noexcept nogil:
    return c + 32 if c"A" <= c <= c"Z" else c


cdef inline uint32_t hash_name(const char* name, Py_ssize_t n, uint32_t h) noexcept nogil:
    """FNV-1a of a name in lower case."""
    cdef Py_ssize_t i
    for i in range(n):
        h = (h ^ <uint8_t>lower(name[i])) * 16777619
    return h


cdef inline bint same(const char* known, const char* name, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if known[i] != lower(name[i]):
            return False
    return True


cdef enum:
    HASH_START = 0x811C9DC5


cdef class CommandTable:
    """Look-up by name, in any case; the entries are the dicts of commands.json in the same order."""

    def __cinit__(self, list entries):
        cdef uint32_t size = 64
        cdef uint32_t at
        cdef Command* command
        self.entries = entries
        self.count = len(entries)
        while size < 4 * <uint32_t>self.count:
            size *= 2
        self.mask = size - 1
        self.commands = <Command*>calloc(self.count, sizeof(Command))
        self.buckets = <uint32_t*>calloc(size, sizeof(uint32_t))
        if self.commands == NULL or self.buckets == NULL:
            raise MemoryError()
        for index, entry in enumerate(entries):
            command = &self.commands[index]
            fill_command(command, entry, index)
            at = hash_name(command.name, command.name_len, HASH_START) & self.mask
            while self.buckets[at]:
                at = (at + 1) & self.mask
            self.buckets[at] = index + 1

    def __dealloc__(self):
        free(self.commands)
        free(self.buckets)

    cdef Command* find(self, const char* name, Py_ssize_t n) noexcept nogil:
        """The command of this name, or NULL."""
        cdef uint32_t at = hash_name(name, n, HASH_START) & self.mask
        cdef Command* command
        while self.buckets[at]:
            command = &self.commands[self.buckets[at] - 1]
            if command.name_len == n and same(command.name, name, n):
                return command
            at = (at + 1) & self.mask
        return NULL

    cdef Command* find_sub(self, Command* container, const char* name, Py_ssize_t n) noexcept nogil:
        """A subcommand of a container command, or NULL."""
        cdef Py_ssize_t prefix = container.name_len + 1
        cdef uint32_t at = hash_name(container.name, container.name_len, HASH_START)
        cdef Command* command
        at = hash_name(name, n, hash_name(b"|", 1, at)) & self.mask
        while self.buckets[at]:
            command = &self.commands[self.buckets[at] - 1]
            if (
                command.name_len == prefix + n
                and command.name[prefix - 1] == c"|"
                and memcmp(command.name, container.name, container.name_len) == 0
                and same(command.name + prefix, name, n)
            ):
                return command
            at = (at + 1) & self.mask
        return NULL

    def lookup(self, bytes name, bytes subcommand=None):
        """The entry of a command as a dict, or None."""
        cdef Command* command = self.find(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if command != NULL and subcommand is not None:
            command = self.find_sub(command, PyBytes_AS_STRING(subcommand), PyBytes_GET_SIZE(subcommand))
        return None if command == NULL else self.entries[command.index]

    def keys(self, list arguments):
        """The keys of a request, in the order of the key specifications. For tests and tools."""
        cdef Py_ssize_t argc = len(arguments), i, n
        cdef Command* command = self.find(PyBytes_AS_STRING(arguments[0]), PyBytes_GET_SIZE(arguments[0]))
        cdef bytes frame = b"".join(arguments)
        cdef Arg* args = <Arg*>calloc(argc, sizeof(Arg))
        cdef Py_ssize_t* found = <Py_ssize_t*>calloc(argc * MAX_SPECS, sizeof(Py_ssize_t))
        cdef Py_ssize_t at = 0
        try:
            for i in range(argc):
                args[i].at, args[i].len = at, len(arguments[i])
                at += args[i].len
            if command != NULL and command.container and argc > 1:
                command = self.find_sub(command, PyBytes_AS_STRING(arguments[1]), PyBytes_GET_SIZE(arguments[1]))
            if command == NULL:
                return []
            n = find_keys(command, PyBytes_AS_STRING(frame), args, argc, found, argc * MAX_SPECS)
            return [arguments[found[i]] for i in range(n)]
        finally:
            free(args)
            free(found)


cdef int fill_command(Command* command, dict entry, int index) except -1:
    cdef bytes name = entry["name"].encode()
    cdef list keys = entry.get("keys", [])
    if len(name) > MAX_NAME_BYTES or len(keys) > MAX_SPECS:
        raise ValueError(f"commands.json: {entry['name']} does not fit the table")
    memcpy(command.name, PyBytes_AS_STRING(name), len(name))
    command.name_len = len(name)
    command.arity = entry["arity"]
    command.kind = KINDS[entry["kind"]]
    command.family = FAMILIES[entry.get("family", "other")]
    command.container = entry.get("container", False)
    command.write = entry.get("write", False)
    command.replica = entry.get("replica", False)
    command.merge = MERGES.get(entry["name"], MERGE_SUM)
    command.index = index
    command.specs = len(keys)
    for i, key in enumerate(keys):
        fill_spec(&command.spec[i], key)
    command.blocks = entry.get("blocks", False)
    simple = "check" not in entry and entry["kind"] == "keys" and not command.blocks
    command.one_key = simple and keys == [{"index": 1, "last": 0, "step": 1, "limit": 0}]
    return 0


cdef int fill_spec(KeySpec* spec, dict key) except -1:
    cdef bytes keyword
    if "keyword" in key:
        keyword = key["keyword"].lower().encode()
        if len(keyword) >= MAX_KEYWORD_BYTES:
            raise ValueError(f"commands.json: keyword {key['keyword']} is too long")
        spec.by_keyword = True
        memcpy(spec.keyword, PyBytes_AS_STRING(keyword), len(keyword))
        spec.begin = key["from"]
    else:
        spec.begin = key["index"]
    spec.step = key["step"]
    if "keynum" in key:
        spec.by_number = True
        spec.last = key["keynum"]
        spec.first = key["first"]
    else:
        spec.last = key["last"]
        spec.limit = key["limit"]
    return 0


cdef Py_ssize_t find_keyword(
    KeySpec* spec, const char* frame, const Arg* args, Py_ssize_t argc, Py_ssize_t i
) noexcept nogil:
    """The argument after the keyword, which is looked for from i on, or -1; a negative begin searches backwards.

    The engines compare up to a byte 0.
    """
    cdef Py_ssize_t step = 1 if spec.begin > 0 else -1
    cdef Py_ssize_t length = 0
    while spec.keyword[length]:
        length += 1
    while 0 < i < argc:
        if args[i].len >= length and same(spec.keyword, frame + args[i].at, length):
            if args[i].len == length or frame[args[i].at + length] == 0:
                return i + 1
        i += step
    return -1


cdef Py_ssize_t small_int(const char* p, Py_ssize_t n) noexcept nogil:
    """A non-negative integer below ten millions, which no number of arguments reaches, or -1."""
    cdef Py_ssize_t v = 0, i
    if n < 1 or n > 7:
        return -1
    for i in range(n):
        if not c"0" <= p[i] <= c"9":
            return -1
        v = v * 10 + (p[i] - c"0")
    return v


cdef Py_ssize_t find_keys(
    Command* command, const char* frame, const Arg* args, Py_ssize_t argc, Py_ssize_t* found, Py_ssize_t room
) noexcept nogil:
    """The argument numbers of all keys; specifications that do not fit the arguments are passed over.

    The one key of an option (STORE key) counts wherever the option stands: of several, an engine takes the last.
    """
    cdef Py_ssize_t count = 0, first, last, number, i, k
    cdef KeySpec* spec
    for k in range(command.specs):
        spec = &command.spec[k]
        first = spec.begin
        if spec.by_keyword:
            i = spec.begin if spec.begin > 0 else argc + spec.begin
            first = find_keyword(spec, frame, args, argc, i)
            while spec.begin > 0 and spec.last == 0 and not spec.by_number and 0 < first < argc:
                i = find_keyword(spec, frame, args, argc, first)
                if i < 0 or i >= argc or count >= room:
                    break
                found[count] = first
                count += 1
                first = i
        if first < 1 or first >= argc:
            continue
        if spec.by_number:
            i = first + spec.last
            number = small_int(frame + args[i].at, args[i].len) if i < argc else -1
            if number < 1:
                continue
            first += spec.first
            last = first + (number - 1) * spec.step
        elif spec.last >= 0:
            last = first + spec.last
        elif spec.limit <= 1:
            last = argc + spec.last
        else:
            last = first + (argc - first) // spec.limit + spec.last
        if last >= argc:
            continue
        i = first
        while i <= last and count < room:
            found[count] = i
            count += 1
            i += spec.step
    return count


def slot(bytes key):
    """The slot of a key, as the router computes it."""
    return key_slot(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
