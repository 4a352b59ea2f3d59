"""slotproxy: plain Redis clients on a Redis Cluster, redirects absorbed.

                                 one process, one thread, one trio.run
    +------------------------------------------------------------------------------------------------+
    |  control plane (trio tasks: whatever waits)                                                     |
    |    listeners   dialling + fence   refresher   confirming   admin endpoint   signals + drain     |
    |        | accepted     | connected      | topology | confirmed     | reads plain counters        |
    |        v              v                v          v               v                              |
    |  data plane (no await: one reactor, ticks)                                                      |
    |    Client  --request-->  Router  --in order-->  Lane  ==one multiplexed connection==>  node     |
    |      | ^                  |  Territory: slot -> Node      |                                    |
    |      | +----reply---------+  Order: flows and gates <-----+ reply, MOVED, ASK, TRYAGAIN, lost   |
    |      +-> Solo: a part for each node, alone   Doubts: a script's own reply, or the node's?        |
    |      +-> Private, Monitor: lanes for one client, whose nodes tell it what changes, what they run |
    |      <---- Hub <---- Feed: one connection to a node subscribes for all clients of an identity    |
    +------------------------------------------------------------------------------------------------+

Layers; imports point downwards only (tests/test_layers.py):

    cli, demo     the command line; the demo on a cluster of its own
    control       configuration, logs, sockets, topology queries, metrics, life cycle
    dataplane     requests, lanes, clients, the router and the ordering contract      (compiled)
    cluster       topology, the shared slot map, the refresher                        (compiled, but for the refresher)
    protocol      framing, hash slots, the command table, redirects, split replies    (compiled)
"""
