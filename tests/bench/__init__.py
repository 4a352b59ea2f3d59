"""CPU, latency and memory of the proxy beside redis-server itself: `python -m tests.bench --help`."""
