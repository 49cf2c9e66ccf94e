"""The operator's settings: from one TOML file and the environment, checked as a whole, frozen."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from relay.config.settings import Server, Settings
from relay.config.sources import Given, Place, document, found
from relay.errors import ConfigError
from relay.secret import Secret

__all__ = ["Look", "Server", "Settings", "load"]


Look = Callable[[Settings], Sequence[str]]


def load(path: Path | None, environ: Mapping[str, str], *, also: Look = lambda _: ()) -> Settings:
    """The settings of the file at `path`, or of the first that is found, with those of the environment above them.

    Relative paths in a file are relative to its folder, others to the working directory. `also` gives what is wrong with
    values that are right by themselves; it looks at those even if others are not, so that all is told at once. Raises
    ConfigError.
    """
    file = path if path is not None else found(environ)
    given = Given("configuration" if file is None else str(file))
    if file is not None:
        given.add_file(document(file, given.mistakes))
    given.add_environment(environ)
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(given.tables)
    except ValidationError as error:
        given.mistakes += [given.line(one) for one in error.errors(include_url=False)]
    sound = given.sound() if settings is None else settings
    folder = Path.cwd() if file is None else file.parent.resolve()
    from_env = {place for place, origin in given.origins.items() if origin != given.file}
    rooted = _inherited(_rooted(sound, folder, from_env))
    given.mistakes += [f"{given.origin_of(mistake)}: {mistake}" for mistake in also(rooted)]
    if given.mistakes:
        raise ConfigError(list(dict.fromkeys(given.mistakes)))
    return rooted


def _rooted(settings: Settings, folder: Path, from_env: set[Place]) -> Settings:
    """The same with absolute paths: those of the environment from the working directory, all others from `folder`."""

    def base(*place: str) -> Path:
        return Path.cwd() if place in from_env else folder

    store, keys = settings.store, settings.keys
    database = settings.sqlite_path()
    if database is not None:
        url = Secret(f"sqlite:///{base('store', 'url') / database}")
        store = store.model_copy(update={"url": url})
    keys = keys.model_copy(update={"file": base("keys", "file") / keys.file})
    jwt = settings.device_jwt
    if jwt.keys and not jwt.keys_are_remote:
        jwt = jwt.model_copy(update={"keys": str(base("device_jwt", "keys") / Path(jwt.keys).expanduser())})
    accounts = {}
    for name, account in settings.accounts.items():
        rooted = {
            key: str(base("accounts", name, key) / value) if key.endswith("_file") and isinstance(value, str) else value
            for key, value in account.settings.items()
        }
        accounts[name] = account.model_copy(update={"settings": rooted})
    return settings.model_copy(update={"store": store, "keys": keys, "device_jwt": jwt, "accounts": accounts})


def _inherited(settings: Settings) -> Settings:
    shared = {
        "concurrency": settings.push.concurrency,
        "privacy": settings.app.privacy,
    }
    accounts = {
        name: account.model_copy(update={k: v for k, v in shared.items() if k not in account.model_fields_set})
        for name, account in settings.accounts.items()
    }
    return settings.model_copy(update={"accounts": accounts})
