"""A streaming standby of a PostgreSQL of ours: PostgreSQL's own tools make it, and promote it."""

import shutil
from typing import Any
from urllib.parse import urlsplit


class Standby:
    """A copy of `primary` that follows it, on a socket of its own."""

    def __init__(self, primary: Any) -> None:
        self._primary = primary
        self.data = primary.data.with_name(f"{primary.data.name}-standby")
        # -R has the copy follow: it writes where its primary is, and that it is a standby.
        words = ("-d", primary.admin_url, "-D", str(self.data), "-X", "stream", "-c", "fast", "-R")
        primary.run("pg_basebackup", *words)
        for lock in self.data.glob(".s.PGSQL*"):  # the primary has its socket, and the socket's lock, in its data
            lock.unlink()
        self._runs = False
        self.start()

    @property
    def url(self) -> str:
        """Of the standby alone."""
        return str(self._primary.url.replace(self._primary.socket, str(self.data)))

    @property
    def url_of_both(self) -> str:
        """As an operator writes it who has two servers: the relay takes the one that takes writes."""
        parts = urlsplit(self._primary.url)
        return parts._replace(query=f"host={self._primary.socket},{self.data}&port=5432,5432").geturl()

    def start(self) -> None:
        self._ctl("start", "-l", str(self.data / "log"), "-o", f"-h '' -k {self.data}")
        self._runs = True

    def stop(self) -> None:
        self._ctl("stop", "-m", "immediate")
        self._runs = False

    def promote(self) -> None:
        """Comes back when it takes writes."""
        self._ctl("promote")

    def close(self) -> None:
        if self._runs:
            self.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    def _ctl(self, what: str, *more: str) -> None:
        self._primary.run("pg_ctl", what, "-w", "-D", str(self.data), *more)
