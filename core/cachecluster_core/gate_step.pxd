cpdef bint may_serve(
    unsigned long long confirmed_generation,
    unsigned long long generation,
    unsigned long long gate_epoch,
    unsigned long long seen_epoch,
    long long deadline_ns,
    long long now_ns,
) noexcept


cpdef bint may_release(long long deadline_ns, long long now_ns) noexcept
