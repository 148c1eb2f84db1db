"""What a process that reads hostile files may not do: look into other processes, whose environments hold secrets.

Linux's Landlock refuses to a process in a domain of its own whatever ptrace(2) needs of those outside of it: their environments, memory
and open files under /proc too. It takes no privileges, holds for all that the process starts, and cannot be undone.
See https://docs.kernel.org/userspace-api/landlock.html ("Ptrace restrictions").
"""

import ctypes

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # system calls, the same number on every architecture
_PR_SET_NO_NEW_PRIVS = 38
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11  # device nodes: a domain must refuse something, and nobody here makes these


def confine() -> bool:
    """Whether this process, and what it will start, can no longer look into others; False where the kernel has no Landlock (5.13)."""
    libc = ctypes.CDLL(None, use_errno=True)
    refused = ctypes.c_uint64(_MAKE_CHAR | _MAKE_BLOCK)  # struct landlock_ruleset_attr
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(refused), ctypes.sizeof(refused), 0)
    if ruleset < 0:
        return False
    confined = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    libc.close(ruleset)
    return bool(confined)
