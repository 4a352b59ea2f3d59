"""INFO of several nodes reads as INFO of one server: each rule by itself, and the real texts of real servers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply, connect
from slotproxy.protocol.info import merge_info
from tests.conftest import ClusterFactory

Sections = dict[str, dict[str, str]]


def sections_of(text: str) -> Sections:
    """Title -> field -> value, in order; every line has to be one of a server's, and the layout a server's."""
    found: Sections = {}
    for block in text.split("\r\n\r\n") if text else []:
        title, *lines = block.removesuffix("\r\n").split("\r\n")
        assert title.startswith("# ") and title[2:] not in found, title
        fields = [line.partition(":") for line in lines]
        assert all(colon for _, colon, _ in fields), lines
        found[title[2:]] = {name: value for name, _, value in fields}
        assert len(found[title[2:]]) == len(lines), lines
    return found


def merged(section: str, *nodes: str, own: dict[str, str] | None = None) -> list[str]:
    """The lines of `section` merged from the nodes' lines, which spaces separate."""
    texts = [f"# {section}\r\n" + "".join(line + "\r\n" for line in node.split()) for node in nodes]
    said = merge_info(texts, {section.lower(): own} if own else {})
    assert said.startswith(f"# {section}\r\n") and said.endswith("\r\n")
    return said.split("\r\n")[1:-1]


# ---- one rule at a time


@pytest.mark.parametrize(
    ("section", "nodes", "expected"),
    [
        ("Stats", ["keyspace_hits:5", "keyspace_hits:5", "keyspace_hits:6"], "keyspace_hits:16"),
        ("Stats", ["instantaneous_input_kbps:0.10", "instantaneous_input_kbps:2.05"], "instantaneous_input_kbps:2.15"),
        ("Stats", ["instantaneous_ops_per_sec:1", "instantaneous_ops_per_sec:2"], "instantaneous_ops_per_sec:3"),
        ("Stats", ["total_active_defrag_time:1", "total_active_defrag_time:2"], "total_active_defrag_time:3"),
        ("Stats", ["latest_fork_usec:9", "latest_fork_usec:10"], "latest_fork_usec:10"),
        ("Stats", ["current_active_defrag_time:3", "current_active_defrag_time:2"], "current_active_defrag_time:3"),
        ("Stats", ["expired_stale_perc:0.50", "expired_stale_perc:0.07"], "expired_stale_perc:0.50"),
        ("CPU", ["used_cpu_sys:0.000001", "used_cpu_sys:1.5"], "used_cpu_sys:1.500001"),
        ("Server", ["hz:10", "hz:20"], "hz:10"),
        ("Server", ["uptime_in_seconds:30", "uptime_in_seconds:4"], "uptime_in_seconds:4"),
        ("Server", ["redis_mode:cluster"], "redis_mode:standalone"),
        ("Server", ["server_mode:cluster", "server_mode:cluster"], "server_mode:standalone"),
        ("Cluster", ["cluster_enabled:1", "cluster_enabled:1"], "cluster_enabled:0"),
        ("Clients", ["cluster_connections:4", "cluster_connections:4"], "cluster_connections:0"),
        ("Clients", ["client_recent_max_input_buffer:9", "client_recent_max_input_buffer:20"],
         "client_recent_max_input_buffer:20"),
        ("Memory", ["maxmemory:100", "maxmemory:200"], "maxmemory:300"),
        ("Memory", ["maxmemory:100", "maxmemory:0"], "maxmemory:0"),
        ("Memory", ["maxmemory_policy:noeviction", "maxmemory_policy:allkeys-lru"], "maxmemory_policy:noeviction"),
        ("Memory", ["active_defrag_running:0", "active_defrag_running:25"], "active_defrag_running:25"),
        ("Persistence", ["loading:0", "loading:1", "loading:1"], "loading:1"),
        ("Persistence", ["rdb_bgsave_in_progress:1", "rdb_bgsave_in_progress:1"], "rdb_bgsave_in_progress:1"),
        ("Persistence", ["rdb_last_save_time:20", "rdb_last_save_time:10"], "rdb_last_save_time:10"),
        ("Persistence", ["rdb_last_bgsave_time_sec:-1", "rdb_last_bgsave_time_sec:0"], "rdb_last_bgsave_time_sec:0"),
        ("Persistence", ["aof_enabled:1", "aof_enabled:0"], "aof_enabled:0"),
        ("Persistence", ["aof_last_write_status:ok", "aof_last_write_status:err", "aof_last_write_status:ok"],
         "aof_last_write_status:err"),
        ("Persistence", ["aof_last_write_status:ok", "aof_last_write_status:ok"], "aof_last_write_status:ok"),
        ("Replication", ["role:slave"], "role:master"),
        ("Replication", ["master_replid:ab", "master_replid:cd"], "master_replid:ab"),
        ("Replication", ["connected_slaves:1", "connected_slaves:2"], "connected_slaves:3"),
        ("Errorstats", ["errorstat_ERR:count=2", "errorstat_ERR:count=40"], "errorstat_ERR:count=42"),
        ("Commandstats", ["cmdstat_time:calls=1,usec=2,usec_per_call=2.00,rejected_calls=1,failed_calls=0",
                          "cmdstat_time:calls=2,usec=3,usec_per_call=1.50,rejected_calls=0,failed_calls=2"],
         "cmdstat_time:calls=3,usec=5,usec_per_call=1.67,rejected_calls=1,failed_calls=2"),
        ("Commandstats", ["cmdstat_x:calls=0,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=0"] * 2,
         "cmdstat_x:calls=0,usec=0,usec_per_call=0.00,rejected_calls=2,failed_calls=0"),
        ("Commandstats", ["cmdstat_x:calls=1,usec=4,usec_per_call=4.00",  # before 6.2
                          "cmdstat_x:calls=1,usec=2,usec_per_call=2.00,rejected_calls=1,failed_calls=0"],
         "cmdstat_x:calls=2,usec=6,usec_per_call=3.00,rejected_calls=1,failed_calls=0"),
        ("Latencystats", ["latency_percentiles_usec_get:p50=9.023,p99=11.007,p99.9=137.215",
                          "latency_percentiles_usec_get:p50=10.001,p99=1.003,p99.9=92.159"],
         "latency_percentiles_usec_get:p50=10.001,p99=11.007,p99.9=137.215"),
        ("Keyspace", ["db0:keys=2,expires=1,avg_ttl=100", "db0:keys=5,expires=3,avg_ttl=500"],
         "db0:keys=7,expires=4,avg_ttl=400"),
        ("Keyspace", ["db0:keys=2,expires=0,avg_ttl=0", "db0:keys=5,expires=0,avg_ttl=0"],
         "db0:keys=7,expires=0,avg_ttl=0"),
        ("Keyspace", ["db0:keys=2,expires=1,avg_ttl=3,subexpiry=1"] * 2, "db0:keys=4,expires=2,avg_ttl=3,subexpiry=2"),
        # of no version known here
        ("Stats", ["new_counter:5", "new_counter:5"], "new_counter:10"),
        ("Memory", ["new_bytes_human:1.00K", "new_bytes_human:2.00K"], "new_bytes_human:1.00K"),
        ("Stats", ["new_text:abc", "new_text:abd"], "new_text:abc"),
        ("Stats", ["new_thing_in_progress:1", "new_thing_in_progress:1"], "new_thing_in_progress:1"),
        ("Threads", ["io_thread_0:clients=2,reads=7", "io_thread_0:clients=1,reads=8"],
         "io_thread_0:clients=3,reads=15"),
        ("Keysizes", ["db0_distrib_strings_sizes:1=1,8=2", "db0_distrib_strings_sizes:8=3,64=1"],
         "db0_distrib_strings_sizes:1=1,8=5,64=1"),
        ("search_indexes", ["search_number_of_indexes:3", "search_number_of_indexes:2"], "search_number_of_indexes:5"),
        # what is not of the rule's kind stays the first's
        ("Stats", ["keyspace_hits:5", "keyspace_hits:?"], "keyspace_hits:5"),
        ("Stats", ["keyspace_hits:", "keyspace_hits:1"], "keyspace_hits:"),
        ("Stats", ["keyspace_hits:" + "9" * 4300] * 2, "keyspace_hits:" + "9" * 4300),
        ("Stats", ["latest_fork_usec:x", "latest_fork_usec:1"], "latest_fork_usec:x"),
        ("Stats", ["instantaneous_input_kbps:1.00", "instantaneous_input_kbps:inf"], "instantaneous_input_kbps:1.00"),
        ("Memory", ["used_memory_human:?", "used_memory_human:1B"], "used_memory_human:?"),
        ("Memory", ["mem_fragmentation_ratio:-nan", "mem_fragmentation_ratio:1.00"], "mem_fragmentation_ratio:-nan"),
        ("Keyspace", ["db0:keys=2,expires=x,avg_ttl=4", "db0:keys=5,expires=3,avg_ttl=500"],
         "db0:keys=7,expires=x,avg_ttl=4"),
        ("Commandstats", ["cmdstat_x:calls=1,usec", "cmdstat_x:calls=1,usec=1"], "cmdstat_x:calls=1,usec"),
        ("Stats", ["keyspace_hits", "keyspace_hits:1"], "keyspace_hits"),
    ],
)  # fmt: skip
def test_a_field_is_merged_by_its_rule(section: str, nodes: list[str], expected: str) -> None:
    assert merged(section, *nodes) == [expected]


def test_sizes_in_human_units_are_those_of_the_sums() -> None:
    sizes = {512: "1.00K", 511: "1022B", 100_000: "195.31K", 1 << 20: "2.00M", 3 << 30: "6.00G", 1 << 40: "2.00T",
             1 << 50: "2.00P", 1 << 60: "2048.00P", 0: "0B"}  # fmt: skip
    for size, human in sizes.items():
        node = f"used_memory:{size} used_memory_human:x total_system_memory_human:x total_system_memory:{size}"
        assert merged("Memory", node)[1] == "used_memory_human:x"  # one node's own
        assert merged("Memory", node, node) == [
            f"used_memory:{2 * size}", f"used_memory_human:{human}",
            f"total_system_memory_human:{human}", f"total_system_memory:{2 * size}",
        ]  # fmt: skip


@pytest.mark.parametrize("size", ["-1", "x", "9" * 4300])
def test_what_is_no_size_has_the_first_nodes_human_form(size: str) -> None:
    node = f"used_memory:{size} used_memory_human:"
    assert merged("Memory", node + "1B", node + "2B")[1] == "used_memory_human:1B"


def test_ratios_are_those_of_the_sums() -> None:
    big = (
        "used_memory:1000 used_memory_rss:3300 used_memory_peak:1600 used_memory_peak_perc:62.50% "
        "used_memory_startup:200 used_memory_dataset:600 used_memory_dataset_perc:75.00% allocator_allocated:1200 "
        "allocator_active:1500 allocator_resident:3000 allocator_frag_ratio:1.25 allocator_frag_bytes:300 "
        "allocator_rss_ratio:2.00 allocator_rss_bytes:1500 rss_overhead_ratio:1.10 rss_overhead_bytes:300 "
        "mem_fragmentation_ratio:3.00 mem_fragmentation_bytes:2200"
    )
    small = (
        "used_memory:600 used_memory_rss:700 used_memory_peak:600 used_memory_peak_perc:100.00% "
        "used_memory_startup:200 used_memory_dataset:0 used_memory_dataset_perc:0.00% allocator_allocated:800 "
        "allocator_active:900 allocator_resident:1000 allocator_frag_ratio:1.12 allocator_frag_bytes:100 "
        "allocator_rss_ratio:1.11 allocator_rss_bytes:100 rss_overhead_ratio:0.70 rss_overhead_bytes:-300 "
        "mem_fragmentation_ratio:0.88 mem_fragmentation_bytes:-100"
    )
    said = dict(line.split(":") for line in merged("Memory", big, small))
    assert {name: value for name, value in said.items() if "_ratio" in name or "_perc" in name} == {
        "used_memory_peak_perc": "72.73%",  # 1600 of 2200
        "used_memory_dataset_perc": "50.00%",  # 600 of 1600 - 400
        "allocator_frag_ratio": "1.20",  # 2400 to 2000
        "allocator_rss_ratio": "1.67",  # 4000 to 2400
        "rss_overhead_ratio": "1.00",  # 4000 to 4000
        "mem_fragmentation_ratio": "2.11",  # 4000 to 4000 - 2100
    }


def test_a_ratio_to_nothing_is_the_first_nodes() -> None:
    node = "used_memory:0 used_memory_peak:0 used_memory_peak_perc:7.00% used_memory_rss:5 mem_fragmentation_bytes:5"
    said = merged("Memory", node + " mem_fragmentation_ratio:1.50", node + " mem_fragmentation_ratio:2.00")
    assert said[2] == "used_memory_peak_perc:7.00%" and said[-1] == "mem_fragmentation_ratio:1.50"


def test_the_replicas_of_all_nodes_are_numbered_through_and_their_lag_stays() -> None:
    said = merged(
        "Replication",
        "role:master connected_slaves:0 master_repl_offset:1000",
        "role:master connected_slaves:2 slave0:ip=a,offset=70,lag=1 slave1:ip=b,offset=100,lag=0 "
        "master_repl_offset:100",
        "role:master connected_slaves:1 slave0:ip=c,offset=?,lag=0 master_repl_offset:10",
        "role:master connected_slaves:1 slave0:ip=d,offset=990 master_repl_offset:1000",
    )
    assert said == [
        "role:master", "connected_slaves:4", "slave0:ip=a,offset=970,lag=1", "slave1:ip=b,offset=1000,lag=0",
        "slave2:ip=c,offset=?,lag=0", "slave3:ip=d,offset=990", "master_repl_offset:1000",
    ]  # fmt: skip


def test_a_node_that_has_become_a_replica_does_not_show_its_primary() -> None:
    replica = "role:slave master_host:h master_port:1 master_link_status:up slave_read_only:1 connected_slaves:0"
    assert merged("Replication", "role:master connected_slaves:1", replica) == ["role:master", "connected_slaves:1"]


def test_modules_are_those_of_all_nodes_each_once() -> None:
    assert merged(
        "Modules", "module:name=a,ver=2,api=1 module:name=b,ver=1", "module:name=b,ver=7 module:name=c,ver=1 module:"
    ) == ["module:name=a,ver=2,api=1", "module:name=b,ver=1", "module:name=c,ver=1", "module:"]


def test_errors_are_sorted_as_a_server_sorts_them() -> None:
    one = "errorstat_ERR:count=1 errorstat_WRONGTYPE:count=1"
    other = "errorstat_BUSY:count=1 errorstat_MOVED:count=1 errorstat_ZZ:count=1"
    assert [line.partition(":")[0][10:] for line in merged("Errorstats", one, other)] == [
        "BUSY", "ERR", "MOVED", "WRONGTYPE", "ZZ",
    ]  # fmt: skip


def test_a_field_or_section_of_a_later_node_stands_behind_its_predecessor() -> None:
    assert merged("Stats", "a:1 d:1", "z:1 a:1 b:1 c:1 d:1 e:1") == ["z:1", "a:2", "b:1", "c:1", "d:2", "e:1"]
    said = merge_info(["# A\r\nx:1\r\n\r\n# C\r\nx:1\r\n", "# A\r\nx:1\r\n\r\n# B\r\n\r\n# C\r\nx:1\r\n"], {})
    assert said == "# A\r\nx:2\r\n\r\n# B\r\n\r\n# C\r\nx:2\r\n"


def test_a_name_that_comes_twice_is_left_alone() -> None:
    assert merged("Stats", "a:1 a:2", "a:1") == ["a:2", "a:2"]


def test_what_the_proxy_says_of_itself_overrides_and_adds_but_makes_no_section() -> None:
    own = {
        "server": {"tcp_port": "1", "proxy_id": "x"},
        "memory": {"used_memory": "5"},
        "slotproxy": {"slotproxy_version": "9", "slots_covered": "16384"},
    }
    node = "# Server\r\ntcp_port:7\r\nos:L\r\n\r\n# Clients\r\nconnected_clients:2\r\n"
    assert merge_info([node, node], own) == (
        "# Server\r\ntcp_port:1\r\nos:L\r\nproxy_id:x\r\n\r\n# Clients\r\nconnected_clients:4\r\n\r\n"
        "# slotproxy\r\nslotproxy_version:9\r\nslots_covered:16384\r\n"
    )
    assert merge_info([""], own) == "# slotproxy\r\nslotproxy_version:9\r\nslots_covered:16384\r\n"
    del own["slotproxy"]
    assert merge_info(["", ""], own) == "" == merge_info([], own)
    assert merged("Clients", "maxclients:3", "maxclients:3", own={"maxclients": "1"}) == ["maxclients:1"]


# ---- any text

VALUES = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(-1000, 1000, places=2).map(str),
    st.sampled_from(["", "ok", "a=1,b=2", "a=1,b", "=", "nan", "1e999", "7%", "\xff", "keys=1,expires=0,avg_ttl=9"]),
)
NAMES = st.sampled_from(
    ["", "a", "used_memory", "used_memory_human", "used_memory_rss", "mem_fragmentation_ratio",
     "mem_fragmentation_bytes", "used_memory_peak", "used_memory_peak_perc", "maxmemory", "db0", "slave0", "slave11",
     "slaveN", "master_repl_offset", "cmdstat_get", "module", "role", "x_status", "x_time", "uptime_in_days", "_human"]
)  # fmt: skip
LINES = st.one_of(
    st.tuples(NAMES, VALUES).map(":".join),
    st.sampled_from(["Server", "memory", "Stats", "Replication", "Modules", "Keyspace", "Latencystats", ""]).map(
        lambda title: "# " + title
    ),
    st.text(alphabet="#: =,a1\r\n\xff", max_size=8),
)
TEXTS = st.lists(LINES, max_size=25).map(lambda lines: "".join(line + "\r\n" for line in lines))


@given(texts=st.lists(TEXTS, max_size=4), own=st.dictionaries(NAMES, VALUES, max_size=3))
def test_no_text_is_too_odd(texts: list[str], own: dict[str, str]) -> None:
    said = merge_info(texts, {"memory": own, "replication": own, "slotproxy": own})
    assert said.endswith("\r\n")
    assert merge_info(texts + texts[:1], {}).count("\r\n") >= merge_info(texts, {}).count("\r\n")


COUNTERS = ["keyspace_hits", "evicted_keys", "total_reads_processed", "unknown", "instantaneous_ops_per_sec"]


@given(
    nodes=st.lists(
        st.dictionaries(st.sampled_from(COUNTERS), st.integers(-(2**63), 2**64 - 1), min_size=1), min_size=1, max_size=5
    )
)
def test_counters_are_the_sums_over_the_nodes_that_have_them(nodes: list[dict[str, int]]) -> None:
    texts = [" ".join(f"{name}:{value}" for name, value in node.items()) for node in nodes]
    said = dict(line.split(":") for line in merged("Stats", *texts))
    names = {name for node in nodes for name in node}
    assert said == {name: str(sum(node.get(name, 0) for node in nodes)) for name in names}


# ---- real servers


async def used_and_asked(port: int, keys: list[str], *sections: str) -> str:
    """The INFO of a server whose statistics show what it is sent here, the same as all others, and nothing else."""
    async with await connect("127.0.0.1", port) as connection:
        await connection.command("CONFIG", "RESETSTAT")
        for key in keys:
            await connection.command("SET", key, "1", "EX", 1000)
            await connection.command("GET", key)
            with pytest.raises(ErrorReply):
                await connection.command("INCR", key, "surplus")
        return str((await connection.command("INFO", *sections)).decode("latin-1"))


async def captured(cluster: EmbeddedCluster, *sections: str) -> list[str]:
    """INFO of each primary, which has been written to."""
    texts = []
    for node in cluster.initial_primaries:
        slots = sorted(await cluster.slots_of(node))[:2]
        keys = [await cluster.key_in_slot(slot, "info") for slot in slots]
        texts.append(await used_and_asked(node.port, keys, *sections))
    return texts


#: Sections in the order of a hash table, which is another at each start of a server.
UNORDERED = {"Commandstats", "Latencystats"}


@pytest.mark.parametrize("asked", ["", "all", "everything", "commandstats", "keyspace", "nosuch"])
async def test_three_nodes_read_as_one_standalone_server(
    cluster: EmbeddedCluster, plain_server: int, asked: str
) -> None:
    sections = [asked] if asked else []
    texts = await captured(cluster, *sections)
    plain = sections_of(await used_and_asked(plain_server, ["info:a", "info:b"], *sections))
    said = sections_of(merge_info(texts, {}))
    assert list(said) == list(plain)
    for title, fields in plain.items():
        if title in UNORDERED:
            assert said[title].keys() == fields.keys()
        else:
            assert list(said[title]) == list(fields), title
        for name, value in fields.items():
            assert shape(said[title][name]) == shape(value), (name, said[title][name], value)
    if "Server" in said:
        assert said["Server"]["redis_mode"] == "standalone" and said["Cluster"]["cluster_enabled"] == "0"
    if "Keyspace" in said:
        assert said["Keyspace"]["db0"].startswith("keys=6,expires=6,avg_ttl=")


def shape(value: str) -> object:
    """What a reader of the field takes the value for: the type of it, or of each `a=1`."""
    if "=" in value:
        return [(pair.partition("=")[0], shape(pair.partition("=")[2])) for pair in value.split(",")]
    whole, point, decimals = value.rstrip("%BKMGT").removeprefix("-").partition(".")
    if not whole.isdigit() or (point and not decimals.isdigit()):
        return "text"
    if value[-1] in "BKMGT":
        return "size"  # 1000B and 0.98K are one shape
    return len(decimals), value[-1] == "%"


@pytest.mark.parametrize("asked", ["default", "all", "everything", "nosuch"])
async def test_one_nodes_text_changes_only_where_it_says_that_it_is_in_a_cluster(
    cluster: EmbeddedCluster, plain_server: int, asked: str
) -> None:
    (text, *_) = await captured(cluster, asked)
    changed = text
    for name, other in {"redis_mode": "standalone", "cluster_enabled": "0", "cluster_connections": "0"}.items():
        before, colon, behind = changed.partition(f"\r\n{name}:")
        if colon:
            changed = before + colon + other + behind[behind.index("\r\n") :]
    assert (changed != text) == (asked != "nosuch")
    assert merge_info([text], {}) == changed
    plain = await used_and_asked(plain_server, ["info:a"], asked)
    assert merge_info([plain], {}) == plain


async def test_replicas_of_a_real_cluster(make_cluster: ClusterFactory) -> None:
    cluster = await make_cluster(primaries=3, replicas=1)
    texts = await captured(cluster, "replication")
    said = sections_of(merge_info(texts, {}))["Replication"]
    assert list(said)[:6] == ["role", "connected_slaves", "slave0", "slave1", "slave2", "master_failover_state"]
    assert said["role"] == "master" and said["connected_slaves"] == "3"
    each = [sections_of(text)["Replication"] for text in texts]
    for number, node in enumerate(each):
        true_lag = int(node["master_repl_offset"]) - offset_of(node["slave0"])
        assert int(said["master_repl_offset"]) - offset_of(said[f"slave{number}"]) == true_lag


def offset_of(replica: str) -> int:
    return int(dict(pair.split("=") for pair in replica.split(","))["offset"])
