"""Numbers for people: with the unit and the digits that fit."""

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def per_second(pps: float) -> str:
    """Datagrams per second."""
    return f"{pps:,.0f} /s" if pps >= 100 else f"{pps:.3g} /s"


def bits(number: float) -> str:
    """Bits per second, with a decimal prefix."""
    for scale, prefix in _PREFIXES:
        if number >= scale:
            return f"{number / scale:.2f} {prefix}bit/s"
    return f"{number:.0f} bit/s"


def duration(ns: float) -> str:
    """A time, with the unit that fits."""
    for scale, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if abs(ns) >= scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.0f} ns"


def percent(share: float) -> str:
    """A share: 0%, 0.012%, 12.3%, 99.97%."""
    number = 100 * share
    if 0 < abs(number) < 0.0001:
        return f"{'-' if number < 0 else ''}<0.0001%"
    return f"{number:.{4 if abs(number) >= 99 else 3 if abs(number) >= 1 else 2}g}%"


def short(number: float) -> str:
    """Three digits and a prefix, where there is little room: 1.25M, 197k, 950."""
    for scale, prefix in _PREFIXES:
        if abs(number) >= 0.9995 * scale:
            value = number / scale
            return f"{value:.0f}{prefix}" if abs(value) >= 99.95 else f"{value:.3g}{prefix}"
    return f"{number:.3g}"
