"""INFO, field by field: by which rule the values of several nodes become one server's value.

Duty: `rule_of`, and what the rules need to know of single fields. A rule follows from the names of section and field
alone, never from values: a counter that is the same on all nodes by chance is a counter still. What no table
names is added up where it is a number (and else the first node's): so counters of later versions and of modules
are right without a release of ours.

Source: genRedisInfoString of 6.2.14 and 7.0.15; later fields from the source of 7.2 to 8.0.
"""

from typing import Final

SUM: Final = 0  # numbers are added up, and so is each number of `a=1,b=2`
MAX: Final = 1
MIN: Final = 2
FIRST: Final = 3  # the client's own node's
STATUS: Final = 4  # "ok" unless a node says otherwise
LIMIT: Final = 5  # added up, but 0 means that there is none
PAIRS_MAX: Final = 6  # `a=1,b=2`: the maximum of each
RATIO: Final = 7  # from the merged fields that RATIOS names
HUMAN: Final = 8  # the merged field without the suffix, in human units
REPLICAS: Final = 9  # the lines `slave0:`, `slave1:` … of all nodes, numbered through
OMIT: Final = 10
CONSTANT: Final = 11

#: The name under which a section keeps all its replicas' lines.
REPLICA_LINES: Final = "slaveN"

#: What a server without cluster support always says.
CONSTANTS: Final[dict[str, str]] = {
    "redis_mode": "standalone",
    "server_mode": "standalone",  # Valkey's name of it
    "cluster_enabled": "0",
    "cluster_connections": "0",
    "role": "master",
}

_BY_NAME: Final[dict[str, int]] = {
    # Server
    "uptime_in_seconds": MIN,  # counters added up fall back when any node restarts, and this says so
    "uptime_in_days": MIN,
    "io_threads_active": MAX,
    # Clients
    "client_recent_max_input_buffer": MAX,
    "client_recent_max_output_buffer": MAX,
    # Memory; used_memory_peak, a sum as well, is an upper bound: the nodes' peaks need not have coincided
    "used_memory_peak_perc": RATIO,
    "used_memory_dataset_perc": RATIO,
    "allocator_frag_ratio": RATIO,
    "allocator_rss_ratio": RATIO,
    "rss_overhead_ratio": RATIO,
    "mem_fragmentation_ratio": RATIO,
    "maxmemory": LIMIT,
    "total_system_memory_human": HUMAN,  # its first word says nothing about it
    # Persistence
    "loading": MAX,
    "async_loading": MAX,
    "loading_start_time": MIN,
    "loading_loaded_perc": RATIO,
    "current_cow_size_age": MAX,
    "rdb_last_save_time": MIN,
    "aof_enabled": MIN,
    "aof_rewrite_scheduled": MAX,
    "aof_pending_rewrite": MAX,
    "aof_rewrites_consecutive_failures": MAX,
    # Stats
    "latest_fork_usec": MAX,
    "instantaneous_eventloop_duration_usec": MAX,
    # Replication
    "min_slaves_good_slaves": MIN,
    "master_repl_offset": MAX,  # the replicas' offsets are told relative to it
    "second_repl_offset": FIRST,
    "repl_backlog_active": MAX,
    "repl_backlog_first_byte_offset": FIRST,
    REPLICA_LINES: REPLICAS,
    # of a node that has become a replica while it was asked
    "master_host": OMIT,
    "master_port": OMIT,
    "master_link_status": OMIT,
    "master_last_io_seconds_ago": OMIT,
    "master_sync_in_progress": OMIT,
    "master_sync_total_bytes": OMIT,
    "master_sync_read_bytes": OMIT,
    "master_sync_left_bytes": OMIT,
    "master_sync_perc": OMIT,
    "master_sync_last_io_seconds_ago": OMIT,
    "master_link_down_since_seconds": OMIT,
    "slave_read_repl_offset": OMIT,
    "slave_repl_offset": OMIT,
    "slave_priority": OMIT,
    "slave_read_only": OMIT,
    "replica_announced": OMIT,
}

_BY_SECTION: Final[dict[str, int]] = {
    "server": FIRST,
    "cluster": FIRST,
    "modules": FIRST,
    "commandstats": SUM,
    "errorstats": SUM,
    "latencystats": PAIRS_MAX,
    "keyspace": SUM,
}

_BY_FIRST_WORD: Final[dict[str, int]] = {"total": SUM, "instantaneous": SUM}

_BY_LAST_WORD: Final[dict[str, int]] = {
    "human": HUMAN,
    "status": STATUS,
    "progress": MAX,
    "running": MAX,
    "enabled": MAX,
    "perc": MAX,
    "ratio": MAX,
    "max": MAX,
    "time": MAX,
    "sec": MAX,
    "seconds": MAX,
}

#: name -> (base, factor, a, b, c): base + factor * a / (b - c), of merged fields. The fragmentation is measured at
#: another moment than used_memory: the excess in bytes is what belongs to the ratio (7.0.15), and from 7.4 on
#: allocator_frag_bytes no longer is the difference of two other fields.
RATIOS: Final[dict[str, tuple[int, int, str, str, str]]] = {
    "used_memory_peak_perc": (0, 100, "used_memory", "used_memory_peak", ""),
    "used_memory_dataset_perc": (0, 100, "used_memory_dataset", "used_memory", "used_memory_startup"),
    "allocator_frag_ratio": (1, 1, "allocator_frag_bytes", "allocator_allocated", ""),
    "allocator_rss_ratio": (1, 1, "allocator_rss_bytes", "allocator_active", ""),
    "rss_overhead_ratio": (1, 1, "rss_overhead_bytes", "allocator_resident", ""),
    "mem_fragmentation_ratio": (1, 1, "mem_fragmentation_bytes", "used_memory_rss", "mem_fragmentation_bytes"),
    "loading_loaded_perc": (0, 100, "loading_loaded_bytes", "loading_total_bytes", ""),
}


def rule_of(section: str, name: str) -> int:
    """How the field `name` of `section` (in lower case) is merged."""
    if name in CONSTANTS:
        return CONSTANT
    rule = _BY_NAME.get(name)
    if rule is None:
        rule = _BY_SECTION.get(section)
    if rule is None:
        rule = _BY_FIRST_WORD.get(name.partition("_")[0])
    if rule is None:
        rule = _BY_LAST_WORD.get(name.rpartition("_")[2], SUM)
    return rule
