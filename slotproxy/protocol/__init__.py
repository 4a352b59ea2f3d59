"""The Redis protocol as pure functions and state machines over bytes.

Knows frames, hash slots, the command table, redirects and the merging of split replies. Must not know that
sockets, clocks, logs or an event loop exist: everything here runs in a unit test without a fixture.
"""
