# Users: as whom a client is known, and whether that one may do what it asks. Without users everybody may do everything.

cdef bytes NO_AUTH = b"-NOAUTH Authentication required.\r\n"


@cython.final
cdef class Account:
    """A user, or nobody (`user` None): a client that has not authenticated."""

    def __init__(self, user, list entries):
        """`entries` are those of the command table."""
        self.user = user
        own = user.grants[0] if user is not None else Grant()
        self.plain = own.all_keys and b"*" in own.channels
        self.allowed = bytes([entry["name"] in own.commands for entry in entries])
        self.needs = bytes([access.only_key(entry["name"]) * (entry["name"] in own.commands) for entry in entries])
        self.prefixes = [(prefix, access.permissions(it.read, it.write)) for it, prefix in own.prefixes()]

    @property
    def name(self):
        """Of the user; `default` is everybody who has not said who they are."""
        return self.user.name if self.user is not None else "default"


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
