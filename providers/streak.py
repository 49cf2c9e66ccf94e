"""How long a vendor has said one thing and nothing else: some answers mean more if they persist."""

__all__ = ["Streak"]


class Streak:
    """A pause longer than `gap_s` ends it: what is said after a night is said anew."""

    def __init__(self, *, gap_s: float) -> None:
        self._gap_s = gap_s
        self._first_s: float | None = None
        self._last_s = 0.0

    def note(self, *, said: bool, now_s: float) -> None:
        """One more answer: whether it was this one, and when."""
        if not said:
            self._first_s = None
            return
        if self._first_s is None or now_s - self._last_s > self._gap_s:
            self._first_s = now_s
        self._last_s = now_s

    @property
    def lasted_s(self) -> float:
        """From the first to the last answer, in seconds; 0 if the last was another."""
        return 0.0 if self._first_s is None else self._last_s - self._first_s
