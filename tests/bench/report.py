"""What a benchmark found, and the table of it."""

import os
import platform
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. `raw` is the machine's limit for the same work, measured in the same run."""

    name: str
    value: float
    unit: str
    raw: float | None = None
    raw_name: str = ""
    aim: float | None = None  # of `value`, or of `value / raw` if `ratio`
    ratio: bool = False
    less_is_better: bool = False

    @property
    def share(self) -> float | None:
        return None if self.raw is None else self.value / self.raw

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without one."""
        if self.aim is None:
            return None
        found = self.share if self.ratio else self.value
        assert found is not None
        return found <= self.aim if self.less_is_better else found >= self.aim


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(figures: list[Figure]) -> Table:
    """The figures, each beside its limit and its aim; and by which Python, as its build alone is worth a tenth."""
    here = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    shown = Table(title=f"The relay beside the limits of this machine ({here})", title_justify="left")
    for name, justify in (("what", "left"), ("measured", "right"), ("limit here", "right"), ("aim", "right")):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    for one in figures:
        raw = "" if one.raw is None or one.share is None else f"{number(one.raw)} {one.raw_name} ({one.share:.0%})"
        sign = "≤" if one.less_is_better else "≥"
        aim = (
            "" if one.aim is None else f"{sign} {one.aim:.0%}" if one.ratio else f"{sign} {number(one.aim)} {one.unit}"
        )
        mark = {None: "", True: " [green]met[/]", False: " [red]missed[/]"}[one.met]
        shown.add_row(one.name, f"{number(one.value)} {one.unit}", raw, aim + mark)
    return shown
