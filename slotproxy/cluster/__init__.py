"""What the proxy knows about the cluster: its nodes and which of them owns each slot.

`topology` decodes what nodes say, `slotmap` holds what all clients share, `refresher` keeps it fresh. Must not know
clients, requests or replies.
"""
