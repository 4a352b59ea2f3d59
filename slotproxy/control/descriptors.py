"""The limit of open files, and how many clients it leaves room for.

Duty: raise the soft limit as far as the hard one allows, and keep a part of it for what serves the clients: connections
to nodes, the admin endpoint, the listeners. Were clients let in to the last descriptor, a lost connection to a node
could not be made anew, and nobody would be served.
"""

import contextlib
import resource
from typing import Final

_RESERVED: Final = 256  # not for clients; half of the limit where that is less


def room_for_clients(wanted: int) -> int:
    """How many clients the limit of open files has room for, `wanted` at most and 1 at least; raises the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses more than a limit of its kernel
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return max(1, min(wanted, soft - min(_RESERVED, soft // 2)))
