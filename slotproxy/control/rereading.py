"""SIGHUP: files that hold secrets are read again.

Duty: put what they say into use, and say in the log what came of it. Invariant: of a file that is wrong, what was read
before holds.
"""

import logging

from slotproxy.control.config import Config
from slotproxy.control.connection import Credentials
from slotproxy.control.secrets import read_client_auth, read_password
from slotproxy.dataplane.plane import Plane

_log = logging.getLogger("slotproxy")


def reread(config: Config, credentials: Credentials, plane: Plane) -> None:
    """Read the files that `config` names: the password into `credentials`, the users into `plane`."""
    if config.cluster_password_file is None and config.client_auth.users is None:
        _log.info("SIGHUP: there is no file to be read again")
    if config.cluster_password_file is not None:
        _reread_password(config.cluster_password_file, credentials)
    if config.client_auth.users is not None:
        _reread_users(config.client_auth.path, plane)


def _reread_password(path: str, credentials: Credentials) -> None:
    try:
        file = read_password(path)
    except ValueError as problem:
        _log.error("SIGHUP: --cluster-password-file %s is not used: expected %s", path, problem)
        return
    assert file is not None, "it is None for no path"
    credentials.password = file.password
    _log.info("SIGHUP: %s was read again, for new connections to nodes", path)


def _reread_users(path: str, plane: Plane) -> None:
    try:
        users = read_client_auth(path).users
    except ValueError as problem:
        _log.error("SIGHUP: --client-auth %s is not used: expected %s", path, problem)
        return
    assert users is not None, "a path is neither none nor passthrough"
    closed = plane.use_users(users)
    _log.info("SIGHUP: %s was read again; %d clients closed", path, len(closed))
    for name in sorted(set(closed)):
        user = ascii(name)[1:]
        _log.warning("user %s: clients closed: removed, off, or without the password by which they came in", user)
