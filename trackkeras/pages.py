"""Pages and numbers: templates, figures inside a page, and how values and intervals are written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tfrecords_tools.files import new_file
from trackkeras import plots
from trackkeras.run_files import RunFiles


def saved_figure(run: RunFiles, figure: Any, name: str, description: str) -> Markup:
    """Save a figure in the run's `plots/` and return it as an element of a page."""
    name = slug(name)
    _, svg = plots.save(figure, run.path / "plots" / name)
    return plots.inline_svg(svg.read_text(), name, description)


def slug(name: str) -> str:
    """Return a name that is safe in file names and element ids."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")


def magnitude(cell: Mapping[str, Any] | None) -> float:
    """Return the absolute value of a cell, which orders cells; infinite, so last, where there is none."""
    value = None if cell is None else cell.get("value")
    return math.inf if value is None or not math.isfinite(value) else abs(value)


def emphasise(cells: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Return cells for a table, the best one marked."""
    best = min(map(magnitude, cells), default=math.inf)
    return [
        {**(cell or {"value": None}), "best": math.isfinite(best) and magnitude(cell) == best}
        for cell in cells
    ]


def write_page(path: Path, page: str) -> Path:
    """Write a page in one step."""
    with new_file(path) as stream:
        stream.write(page.encode())
    return path


def render_page(template: str, **context: Any) -> str:
    """Fill a template; everything that comes from files is escaped."""
    environment = _environment(autoescape=True)
    environment.filters |= {
        "number": format_number,
        "limit": _format_limit,
        "interval": _format_interval,
        "plain": _plain_value,
    }
    return environment.get_template(template).render(**context)


def render_text(template: str, **context: Any) -> str:
    """Fill a template of plain text or Markdown; nothing is escaped, and no line ends in a blank."""
    environment = _environment(autoescape=False, keep_trailing_newline=True)
    environment.filters["short"] = _short
    text = environment.get_template(template).render(**context)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def _environment(**options: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("trackkeras", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,  # type: ignore[arg-type]
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def format_number(value: float | None) -> Markup:
    """Return a number for HTML: a count in full, else three digits; a dash for no value."""
    if value is None or not math.isfinite(value):
        return Markup("–")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if abs(value) >= 1000:
        return Markup(f"{value:,.0f}" if abs(value) < 1e7 else _power(value))
    if value == 0 or abs(value) >= 1e-3:
        return Markup(f"{value:#.3g}".rstrip("."))
    return Markup(_power(value))


def _format_limit(value: float) -> Markup:
    """Return a number that somebody chose, without added digits."""
    return Markup(_power(value, "g") if "e" in f"{value:g}" else f"{value:g}")


def _format_interval(cell: Mapping[str, Any]) -> Markup:
    """Return `low … high`, a common power of ten written once; nothing where there is no interval."""
    low, high = cell.get("low"), cell.get("high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return Markup("")
    largest = max(abs(low), abs(high))
    if largest == 0 or 1e-3 <= largest < 1e7:
        return Markup("{} … {}").format(format_number(low), format_number(high))
    exponent = Decimal(largest).adjusted()
    low, high = (f"{Decimal(value).scaleb(-exponent):.2f}".replace("-", "−") for value in (low, high))
    return Markup("({} … {}) × 10<sup>{}</sup>").format(low, high, str(exponent).replace("-", "−"))


def _power(value: float, digits: str = ".2e") -> str:
    mantissa, _, exponent = f"{value:{digits}}".partition("e")
    return f"{mantissa} × 10<sup>{int(exponent)}</sup>".replace("-", "−")


def _plain_value(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
