"""Tables of a report, and the sums behind them."""

import statistics


def table(head, rows):
    def line(cells):
        return "| " + " | ".join(map(str, cells)) + " |"
    return "\n".join([line(head), line(["---", *["---:"] * (len(head) - 1)]), *map(line, rows)])


def of(samples, proxy, *path):
    """Every sample's value at `path`, of one proxy."""
    found = []
    for sample in samples:
        if sample["proxy"] != proxy:
            continue
        value = sample
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(value)
    return found


def median(samples, proxy, *path):
    """None if there is no sample of it."""
    values = of(samples, proxy, *path)
    return statistics.median(values) if values else None


def names(samples):
    return list(dict.fromkeys(sample["proxy"] for sample in samples))


def number(value, digits=1):
    return "" if value is None else f"{value:,.{digits}f}"


def ratio(value, to):
    return f"{value / to:.2f}" if value is not None and to else ""


def spread(values):
    return f"{min(values):,.1f} to {max(values):,.1f}" if values else ""


def share(value):
    return "" if value is None else f"{value:.0%}"
