"""The data plane: everything between a client's socket and a node's, without one `await`.

    client socket -> Client: frames requests, keeps the order of replies
                       |  plain: routes[slot]            not plain: decide() -> Forward | SplitUp | Answer
                       v
                     Router: one redirect loop, and the order of commands (Flow, Gate)
                       v
                     Lane: one multiplexed connection; FIFO of requests, frames replies
                       v
    node socket

Invariants: nothing here waits, so "append to the FIFO and to the output" cannot be torn apart; one `recv` per ready
socket and one `send` per touched socket and tick; no clock read, log call, closure, regex or metric object per
request. Must not know trio, how connections are made, configuration files or HTTP: the control plane hands in
connected transports and is called back when something has to wait.
"""
