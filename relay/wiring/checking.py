"""What can be said of a configuration before anything is opened: accounts, and the files and folders that it names."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from relay.api import key_set
from relay.config import Settings
from relay.errors import ConfigError
from relay.push.from_settings import configured


def mistakes(settings: Settings) -> list[str]:
    """All that stands in the way of a start, each with where it stands and what would be right. Reads files."""
    found: list[str] = []
    for look in (_folders, _signed_tokens, configured):
        found += _told(look, settings)
    return found


def _told(look: Callable[[Settings], object], settings: Settings) -> list[str]:
    try:
        look(settings)
    except ConfigError as error:
        return error.mistakes
    return []


def _folders(settings: Settings) -> None:
    path = settings.sqlite_path()
    named = {"[store] url": path, "[keys] file": settings.keys.file}
    missing = [
        f"{where}: the folder {file.parent} does not exist; make it, or name another."
        for where, file in named.items()
        if file is not None and _is_missing(file.parent)
    ]
    if missing:
        raise ConfigError(missing)


def _is_missing(folder: Path) -> bool:
    try:
        return not stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it is below a closed one: whoever opens a file there says so
        return False


def _signed_tokens(settings: Settings) -> None:
    given = settings.device_jwt
    if given.issuer and not given.keys_are_remote:
        key_set.check_file(Path(given.keys))


def cannot_listen(settings: Settings, error: OSError) -> ConfigError:
    """For a place that is taken, or not ours."""
    host, port = settings.server.host, settings.server.port
    known = error.errno is not None and error.errno > 0  # names that are not found have numbers of their own
    why = os.strerror(error.errno) if known and error.errno is not None else str(error.strerror or error)
    mend = "name another"
    if error.errno == errno.EADDRINUSE:
        mend = "stop what listens there, or name another port (0 takes a free one)"
    return ConfigError([f"[server] host, port: can't listen on {host} at {port} ({why}); {mend}."])
