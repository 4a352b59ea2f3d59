"""The control plane: everything that may wait, and everything an operator sees.

    values, addresses   one setting's text to its value
    config              the settings: flags, variables, defaults, --help and the README's table from one list
    secrets, rereading  files that hold secrets: the nodes' password, the proxy's users; and SIGHUP
    identities          users of the cluster as whom clients work: judged by nodes, again and again
    logs                what is said on stderr, as text or JSON lines
    metrics             the data plane's plain counters as Prometheus families, read at scrape
    admin               the HTTP endpoint for scrapers and probes

Stands above the data plane and may import it; must not know of the demo or of the command line's subcommands.
"""
