"""What a test sees from outside: the proxy's slot map, and how often the nodes were asked for what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from slotproxy.demo.node import Node
from slotproxy.demo.proxy import ProxyProcess


async def slots_page(proxy: ProxyProcess) -> dict[str, Any]:
    """/slots, decoded."""
    status, body = await proxy.get("/slots")
    assert status == 200, body
    page: dict[str, Any] = json.loads(body)
    return page


async def owners(proxy: ProxyProcess) -> dict[int, str]:
    """The proxy's map: `{slot: "host:port"}` for all slots that have an owner."""
    return {
        slot: part["node"]
        for part in (await slots_page(proxy))["ranges"]
        for slot in range(part["first"], part["last"] + 1)
        if part["node"] is not None
    }


async def by_node(proxy: ProxyProcess, metric: str) -> dict[str, float]:
    """A metric with the label `node`, by that label; nodes with 0 are left out."""
    return await by_label(proxy, metric, "node")


async def by_label(proxy: ProxyProcess, metric: str, label: str) -> dict[str, float]:
    """A metric by one of its labels, those with 0 left out."""
    _, body = await proxy.get("/metrics")
    return {
        sample.labels[label]: sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name == metric and sample.value
    }


async def at_least(proxy: ProxyProcess, metric: str, bound: float) -> bool:
    """Whether a metric, summed over its labels, has come that far."""
    return (await proxy.metrics())[metric] >= bound


async def forget_counts(nodes: Iterable[Node]) -> None:
    """Start counting anew."""
    for node in nodes:
        await node.command("CONFIG", "RESETSTAT")


async def asked(node: Node, *names: str) -> int:
    """How often a node was sent these commands since `forget_counts`, refused ones among them."""
    text: bytes = await node.command("INFO", "commandstats")
    total = 0
    for name in names:
        found = re.search(rf"cmdstat_{name}:calls=(\d+).*?rejected_calls=(\d+)", text.decode())
        total += sum(map(int, found.groups())) if found else 0
    return total
