"""INFO: what one standalone server would say, put together from what each primary of a cluster says.

Duty: the merged text. What happens to a field says `inforules.rule_of`; here the values are put together.

Invariants: linear in the text; sections and fields stand where the nodes have them, one that only a later node has
behind its predecessor there; what cannot be read as the kind of value that its rule takes is the first node's line;
nothing raises. One node's text leaves as it came, but for what tells a cluster from a standalone server.

Must not know: what the proxy says about itself; that comes in as `own`.

Source: genRedisInfoString of 7.0.15.
"""

from typing import Final

from slotproxy.protocol.inforules import (
    CONSTANT,
    CONSTANTS,
    FIRST,
    HUMAN,
    LIMIT,
    MAX,
    OMIT,
    PAIRS_MAX,
    RATIO,
    RATIOS,
    REPLICA_LINES,
    REPLICAS,
    STATUS,
    SUM,
    rule_of,
)

_LONGEST_NUMBER: Final = 24  # characters; longer is no number that Redis prints, and costs too much to convert


class _Field:
    """A field of one section: the values that nodes gave it, in their order."""

    def __init__(self, name: str, separator: str) -> None:
        self.name: Final = name
        self.separator: Final = separator  # between name and value; empty for a line without a name
        self.values: Final[list[str]] = []
        self.nodes: Final[list[int]] = []  # whose value each is
        self.after: _Field | None = None


class _Section:
    """A section: its fields by name, and in order as a chain that begins behind `head`."""

    def __init__(self, title: str) -> None:
        self.title: Final = title
        self.key: Final = title.lower()
        self.fields: Final[dict[str, _Field]] = {}
        self.head: Final = _Field("", "")
        self.after: _Section | None = None

    def add(self, line: str, node: int, previous: _Field) -> _Field:
        """Take one line of a node, whose line before it was `previous` (or the head)."""
        replica = False
        separator = ":"
        cut = line.find(":")
        name = line
        value = ""
        if cut < 0:
            separator = ""
        elif self.key == "modules":  # every line is `module:name=x,...`
            cut = line.find(",")
            separator = ""
            if cut >= 0:
                name = line[:cut]
                value = line[cut:]
        else:
            name = line[:cut]
            value = line[cut + 1 :]
            if self.key == "replication" and name.startswith("slave") and name[5:].isdigit():
                name = REPLICA_LINES
                replica = True
        field = self.fields.get(name)
        if field is not None and not replica and field.nodes[-1] == node:
            # A name that comes twice is none: the line stands for itself.
            name = line
            value = ""
            separator = ""
            field = self.fields.get(name)
        if field is None:
            field = _Field(name, separator)
            field.after = previous.after
            previous.after = field
            self.fields[name] = field
        field.values.append(value)
        field.nodes.append(node)
        return field


def merge_info(texts: list[str], own: dict[str, dict[str, str]]) -> str:
    """One server's INFO from those of a cluster's primaries, `texts`, the client's own node first.

    `texts`: the payloads of the replies to one and the same INFO command, of any sections, decoded so that every byte
    has a character. `own`: section in lower case -> field -> value, what the proxy says about itself: it overrides
    fields of the sections that nodes sent, stands at the end of these where nodes have no such field, and only
    the section "slotproxy" is added.
    """
    head = _Section("")
    sections: dict[str, _Section] = {}
    for node, text in enumerate(texts):
        section = head
        field = head.head
        for line in text.split("\r\n"):
            if line.startswith("# "):
                section = _section(sections, line[2:], section)
                field = section.head
            elif line:
                field = section.add(line, node, field)
    written: list[str] = []
    following: _Section | None = head
    while following is not None:
        if following is not head:
            written.append("# " + following.title + "\r\n" + _lines(following, own.get(following.key, {})))
        elif head.fields:
            written.append(_lines(head, {}))
        following = following.after
    if "slotproxy" in own:
        said = [name + ":" + value + "\r\n" for name, value in own["slotproxy"].items()]
        written.append("# slotproxy\r\n" + "".join(said))
    return "\r\n".join(written)


def _section(sections: dict[str, _Section], title: str, previous: _Section) -> _Section:
    section = sections.get(title)
    if section is None:
        section = _Section(title)
        section.after = previous.after
        previous.after = section
        sections[title] = section
    return section


def _lines(section: _Section, own: dict[str, str]) -> str:
    """The section's fields, each line ended, with those of `own` put in."""
    merged: dict[str, str] = {}
    late: list[tuple[int, _Field]] = []  # what is computed from the others
    names: list[str] = []
    field = section.head.after
    while field is not None:
        rule = rule_of(section.key, field.name)
        if rule != OMIT:
            names.append(field.name)
            if rule in (RATIO, HUMAN, REPLICAS):
                late.append((rule, field))
                merged[field.name] = field.values[0]
            else:
                merged[field.name] = _merged(field, rule)
        field = field.after
    for rule, field in late:
        if rule == REPLICAS:
            merged[field.name] = _replicas(field, section.fields.get("master_repl_offset"))
        elif len(field.values) > 1:  # one node's own is exact where ours is rounded
            merged[field.name] = _human(merged, field) if rule == HUMAN else _ratio(merged, field)
    if section.key == "errorstats":
        names.sort()  # a radix tree at the server
    lines: list[str] = []
    for name in names:
        said = own.get(name)
        field = section.fields[name]
        if said is not None:
            lines.append(name + ":" + said + "\r\n")
        elif name == REPLICA_LINES:
            lines.append(merged[name])
        else:
            lines.append(name + field.separator + merged[name] + "\r\n")
    for name, said in own.items():
        if name not in merged:
            lines.append(name + ":" + said + "\r\n")
    return "".join(lines)


def _merged(field: _Field, rule: int) -> str:
    if rule == CONSTANT:
        return CONSTANTS[field.name]
    values = field.values
    if rule == FIRST or len(values) == 1:
        return values[0]
    if rule == SUM:
        return _pairs(values, SUM) if "=" in values[0] else _total(values)
    if rule == PAIRS_MAX:
        return _pairs(values, MAX)
    if rule == LIMIT:
        return "0" if "0" in values else _total(values)
    if rule == STATUS:
        for value in values:
            if value != "ok":
                return value
        return values[0]
    return _extreme(values, rule)


def _total(values: list[str]) -> str:
    """Their sum, with as many decimals as the most exact has; the first where one is no number."""
    total = 0
    try:
        for value in values:
            if len(value) > _LONGEST_NUMBER:
                return values[0]
            total += int(value)
    except ValueError:
        return _decimal_total(values)
    return str(total)


def _decimal_total(values: list[str]) -> str:
    decimals = 0
    total = 0.0
    try:
        for value in values:
            if len(value) > _LONGEST_NUMBER:
                return values[0]
            total += float(value)
            point = value.find(".")
            if point >= 0:
                decimals = max(decimals, len(value) - point - 1)
    except ValueError:
        return values[0]
    if total - total != 0.0:  # not finite
        return values[0]
    return _rounded(total, decimals)


def _extreme(values: list[str], rule: int) -> str:
    """The greatest or smallest as it was written; the first where one is no number."""
    best = values[0]
    try:
        bound = float(best.removesuffix("%"))
        for value in values:
            number = float(value.removesuffix("%"))
            if number > bound if rule == MAX else number < bound:
                bound = number
                best = value
    except ValueError:
        return values[0]
    return best


def _pairs(values: list[str], rule: int) -> str:
    """`a=1,b=2` merged name by name; means are computed anew. The first where one has another form."""
    columns: dict[str, list[str]] = {}
    for value in values:
        for pair in value.split(","):
            cut = pair.find("=")
            if cut < 0:
                return values[0]
            name = pair[:cut]
            column = columns.get(name)
            if column is None:
                columns[name] = [pair[cut + 1 :]]
            else:
                column.append(pair[cut + 1 :])
    merged: dict[str, str] = {}
    for name, column in columns.items():
        merged[name] = _total(column) if rule == SUM else _extreme(column, rule)
    if "usec_per_call" in merged:
        calls = _integer(merged.get("calls", ""))
        usec = _integer(merged.get("usec", ""))
        if calls is not None and usec is not None:
            merged["usec_per_call"] = _rounded(usec / calls if calls > 0 else 0.0, 2)
    if "avg_ttl" in merged:
        merged["avg_ttl"] = _mean_ttl(columns["avg_ttl"], columns.get("expires", []))
    return ",".join([name + "=" + value for name, value in merged.items()])


def _mean_ttl(means: list[str], expires: list[str]) -> str:
    """The mean over all keys that expire; milliseconds."""
    if len(means) != len(expires):
        return means[0]
    total = 0
    keys = 0
    for mean, count in zip(means, expires, strict=True):
        ttl = _integer(mean)
        number = _integer(count)
        if ttl is None or number is None or number < 0:
            return means[0]
        total += ttl * number
        keys += number
    return str(total // keys) if keys > 0 else "0"


def _replicas(field: _Field, offsets: _Field | None) -> str:
    """Their lines, numbered through.

    Each offset is moved as far as its primary is behind the greatest master_repl_offset, which the merged text shows:
    what monitoring computes from the two, the replica's lag in bytes, stays true.
    """
    behind: dict[int, int] = {}
    if offsets is not None:
        greatest = _integer(_extreme(offsets.values, MAX))
        for node, value in zip(offsets.nodes, offsets.values, strict=True):
            offset = _integer(value)
            if offset is not None and greatest is not None:
                behind[node] = greatest - offset
    lines: list[str] = []
    for node, value in zip(field.nodes, field.values, strict=True):
        missing = behind.get(node, 0)
        parts = value.split(",")
        for position, part in enumerate(parts):
            if missing and part.startswith("offset="):
                offset = _integer(part[7:])
                if offset is not None:
                    parts[position] = "offset=" + str(offset + missing)
        lines.append("slave" + str(len(lines)) + ":" + ",".join(parts) + "\r\n")
    return "".join(lines)


def _ratio(merged: dict[str, str], field: _Field) -> str:
    base, factor, a, b, c = RATIOS[field.name]
    above = _integer(merged.get(a, ""))
    below = _integer(merged.get(b, ""))
    less = _integer(merged.get(c, "")) if c else 0
    if above is None or below is None or less is None or below - less <= 0:
        return field.values[0]
    suffix = "%" if field.values[0].endswith("%") else ""
    return _rounded(base + factor * above / (below - less), 2) + suffix


def _human(merged: dict[str, str], field: _Field) -> str:
    """As bytesToHuman (7.0.15) writes it: 1023B, 1.00K, up to P."""
    size = _integer(merged.get(field.name.removesuffix("_human"), ""))
    if size is None or size < 0:
        return field.values[0]
    if size < 1024:
        return str(size) + "B"
    scale = 1024
    for unit in "KMGT":
        if size < scale * 1024:
            return _rounded(size / scale, 2) + unit
        scale *= 1024
    return _rounded(size / scale, 2) + "P"


def _integer(text: str) -> int | None:
    if len(text) > _LONGEST_NUMBER:
        return None
    try:
        return int(text)
    except ValueError:
        return None


def _rounded(number: float, decimals: int) -> str:
    return f"{number:.{decimals}f}"
