"""The limit of open files, and how many clients it leaves room for.

Duty: raise the soft limit as far as the hard one allows, and keep a part of it for what serves the clients: connections
to nodes, the admin endpoint, the listeners. Were clients let in to the last descriptor, a lost connection to a node
could not be made anew, and nobody would be served.
"""

import contextlib
import resource
from typing import Final

_RESERVED: Final = 256  # not for clients; half of the limit where that is less


def room(clients: int, exclusive: int) -> tuple[int, int]:
    """How many clients and how many connections leased to one of them each the limit of open files has room for.

    At most those that are wanted, and 1 of each at least; raises the limit. Where it is not enough, a quarter is left
    to the leased ones.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = clients + exclusive + _RESERVED
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return clients, exclusive
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses more than a limit of its kernel
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    left = soft - min(_RESERVED, soft // 2)
    exclusive = max(1, min(exclusive, max(left - clients, left // 4)))
    return max(1, min(clients, left - exclusive)), exclusive
