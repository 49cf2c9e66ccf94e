"""How long each stage of a planned stop lasts (safety OPS-1). Pure."""

from dataclasses import dataclass

# The page's timeline, in seconds after "stop accepting"; the operator's time is shared out in its proportions.
_PAGE_CLOSE_S, _PAGE_RECONNECT_S, _PAGE_FINISH_S, _PAGE_WHOLE_S = 10, 15, 15, 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Seconds. `quiet_s` counts from the signal, all others from its end; quiet_s + finish_s + last_s is the whole."""

    quiet_s: float  # readiness says no, everything is served
    close_s: float  # device sockets are closed, one after the other
    reconnect_s: float  # the longest delay after which a device is asked to come back
    finish_s: float  # requests and vendors' calls that are under way may end
    last_s: float  # claims are released, the store is closed


def timeline(*, drain_s: float, quiet_s: float) -> Timeline:
    """The stages of a stop that may take `drain_s` as a whole."""
    quiet_s = min(quiet_s, drain_s)
    share = (drain_s - quiet_s) / _PAGE_WHOLE_S
    return Timeline(
        quiet_s=quiet_s,
        close_s=_PAGE_CLOSE_S * share,
        reconnect_s=_PAGE_RECONNECT_S * share,
        finish_s=_PAGE_FINISH_S * share,
        last_s=(_PAGE_WHOLE_S - _PAGE_FINISH_S) * share,
    )
