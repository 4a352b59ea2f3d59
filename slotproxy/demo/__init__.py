"""The demo: a real Redis Cluster on loopback, the proxy in front of it, and clients that check every reply.

    servers     which redis-server to run, and on which free ports
    guard       ends the processes and removes the folder, also when this process is killed
    polling     waiting for what announces nothing
    connection  one RESP2 connection that understands what it reads
    node        one redis-server process and what it says about the cluster
    cluster     several of them, formed into a cluster (also what the tests run against)
    reshard     moves a slot the way redis-cli does, in steps that can be held
    proxy       `slotproxy serve` as a child process
    clients     plain clients that know nothing of clusters
    tally       what the clients saw: counts, complaints, latencies
    screen      the figures as text
    command     `slotproxy demo`: all of the above together

Nothing in here is imported by the proxy itself, and nothing in here imports the proxy: it is run as a
user runs it, so that the demo (and the tests that share this code) cannot be right by the same mistake.
"""
