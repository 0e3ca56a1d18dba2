# Users: as whom a client is known, and whether that one may do what it asks. Without users everybody may do everything.

cdef bytes NO_AUTH = b"-NOAUTH Authentication required.\r\n"
cdef bytes TOO_LONG_FOR_NOBODY = b"-ERR Protocol error: a request of an unauthenticated client is longer than 64 KiB\r\n"
cdef enum:
    C_MAX_UNKNOWN = 65536


cdef tuple granted(own, list entries):
    """By number of the command: whether it is granted, so that it need not be looked at further where all keys and
    channels are; and what it does with its only key."""
    cdef list names = [entry["name"] for entry in entries]
    cdef list allowed = [name in own.commands and (own.may_script or name not in access.SCRIPTS) for name in names]
    return bytes(allowed), bytes([access.only_key(name) * grants for name, grants in zip(names, allowed)])


@cython.final
cdef class Account:
    """A user, or nobody (`user` None): a client that has not authenticated."""

    def __init__(self, user, list entries):
        """`entries` are those of the command table."""
        self.user = user
        own = user.grants[0] if user is not None else Grant()
        self.plain = own.all_keys and b"*" in own.channels
        self.allowed, self.needs = granted(own, entries)
        self.prefixes = [(prefix, access.permissions(it.read, it.write)) for it, prefix in own.prefixes()]

    @property
    def name(self):
        """Of the user; `default` is everybody who has not said who they are."""
        return self.user.name if self.user is not None else "default"


cdef bint is_nobody(Client c):
    """A client that has to authenticate and has not."""
    return c.account is not None and c.account.user is None


cdef bint begins_as_granted(Account account, Command* command, const char* key, Py_ssize_t n):
    """Whether the user's own rules let it do this with the only key of a command, by how the key begins. False: look
    closer."""
    cdef unsigned char needs = (<const unsigned char*><const char*>account.needs)[command.index]
    cdef bytes prefix
    cdef int gives
    if not needs:
        return False
    for prefix, gives in account.prefixes:
        if needs & gives == needs and len(prefix) <= n and memcmp(key, <const char*>prefix, len(prefix)) == 0:
            return True
    return False


cdef bytes not_permitted(Client c, Command* command, const char* frame):
    """The error that answers a command which this client may not use so; None: it may."""
    cdef Account account = c.account
    cdef str name
    if account.plain and (<const char*>account.allowed)[command.index]:
        return None
    if command.one_key and begins_as_granted(account, command, frame + c.scan.head[1].at, c.scan.head[1].len):
        return None
    name = (<dict>c.router.table.entries[command.index])["name"]
    if account.user is None:
        return None if access.is_for_everybody(name) else NO_AUTH
    why = access.objection(account.user, name, all_arguments(frame, c.scan.argc))
    if why is None:
        return None
    c.router.counters.denied += 1
    return clean_error(why.encode())


cdef void refuse_denied(Client c, Command* command, bytes why):
    """Tell it so. A transaction ends with an EXEC that is not permitted, as in Redis."""
    c.denied = True
    if command.kind == KIND_TRANSACTION and command.name_len == 4 and c.queue is not None:
        c.forget_transaction()
        why = b"-EXECABORT Transaction discarded because of: " + why[1:]
    c.refuse(why)
