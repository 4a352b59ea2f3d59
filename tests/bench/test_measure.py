"""The bench's own arithmetic: a wrong figure looks just like a right one."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench import measure
from tests.bench.measure import Figures, Target, Workload

CSV = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","99601.59","0.260","0.088","0.247","0.391","0.679","1.463"
"""


def test_a_workload_has_defaults_for_clients_and_size() -> None:
    assert Workload.parse("get:16") == Workload("get:16", "get", 16, 50, 3)
    assert Workload.parse("GET:1:7") == Workload("GET:1:7", "get", 1, 7, 3)
    assert Workload.parse("set:1:50:4096") == Workload("set:1:50:4096", "set", 1, 50, 4096)


@pytest.mark.parametrize("text", ["", "get", ":1", "get:0", "get:x", "get:1:2:3:4"])
def test_a_malformed_workload_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not COMMAND:PIPELINE"):
        Workload.parse(text)


def test_lrange_reads_one_list_instead_of_running_the_builtin_test() -> None:
    arguments = Workload.parse("lrange_600:1").arguments()
    assert arguments[-4:] == ["LRANGE", measure.LIST_KEY, "0", "599"]
    assert "-t" not in arguments
    assert Workload.parse("get:1").arguments()[-2:] == ["-t", "get"]


def test_a_target_is_name_port_and_pid() -> None:
    assert Target.parse("peer=7000:42") == Target("peer", 7000, 42)
    with pytest.raises(ValueError, match="not NAME=PORT:PID"):
        Target.parse("peer=7000")


def test_figures_are_taken_by_column_name() -> None:
    assert measure.figures(CSV, 6.5e-6) == Figures(cpu=6.5, rate=99601.59, p50=0.247, p99=0.679)


def test_output_without_a_row_is_an_error() -> None:
    with pytest.raises(measure.NoFigures, match="Connection refused"):
        measure.figures("Could not connect: Connection refused\n", 0)
    with pytest.raises(measure.NoFigures):
        measure.figures(CSV.partition('"GET"')[0], 0)


def test_the_ratio_is_of_rounds_and_not_of_medians() -> None:
    mine, base = ([Figures(cpu, 1, 1, 1) for cpu in column] for column in ([10, 40, 30], [10, 20, 10]))
    assert measure.median(mine).cpu / measure.median(base).cpu == 3.0
    assert measure.cpu_ratio(mine, base) == 2.0
    assert math.isnan(measure.cpu_ratio(mine, [Figures(0, 1, 1, 1)] * 3))


def test_cpu_time_and_memory_count_children() -> None:
    """A busy grandchild is found below an idle process."""
    spin = "while True: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {spin!r}])"
    parent = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while measure.cpu_seconds(parent.pid) < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        members = list(measure.process_tree(parent.pid))
        assert len(members) == 2
        own, below = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in members)
        pages = measure.resident_kib(parent.pid) * 1024 / os.sysconf("SC_PAGE_SIZE")
        assert pages == pytest.approx(own + below, rel=0.1)
    finally:
        os.killpg(parent.pid, 9)
        parent.wait()
