import errno
import json
import os
import re
import socket
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from providers.guard import Exemption
from relay.config import Settings, load
from relay.errors import ConfigError
from relay.model import NotifyPolicy, Policy
from relay.secret import Secret
from relay.wiring.checking import mistakes as mistakes_of

EXAMPLE = Path(__file__).parents[2] / "config" / "relay.toml"
STORE_URL = "sqlite:///PATH (without ?, # and %) or postgresql://USER@HOST/DATABASE"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "relay.toml"


def read(file: Path, text: str, **environ: str) -> Settings:
    file.write_text(text)
    return load(file, environ)


def mistakes(file: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(file, text, **environ)
    return [line.removeprefix(f"{file}: ") for line in raised.value.mistakes]


# --- defaults ---


def test_without_a_file_all_is_at_its_default(file: Path) -> None:
    settings = load(None, {})
    assert settings.policy() == Policy()
    assert settings.sqlite_path() == Path.cwd() / "relay.db"
    assert settings.keys.file == Path.cwd() / "relay.keys"
    assert settings.model_copy(update={"store": Settings().store, "keys": Settings().keys}) == Settings()


def test_the_example_shows_every_key_at_its_default(file: Path) -> None:
    text = EXAMPLE.read_text()
    uncommented = re.sub(r"(?m)^#(?=[a-z])", "", text)
    assert read(file, uncommented) == read(file, text) == read(file, "")
    shown = set(re.findall(r"(?m)^(\[\w+\]|#[a-z_]+(?= =))", text))
    models = {name: field.annotation for name, field in Settings.model_fields.items() if name != "accounts"}
    assert {key for key in shown if key[0] == "["} == {f"[{name}]" for name in models}
    keys = [f"#{key}" for model in models.values() for key in model.model_fields]  # type: ignore[union-attr]
    assert sorted(keys) == sorted(re.findall(r"(?m)^(#[a-z_]+)(?= =)", text))


def test_the_account_of_the_example_is_right(file: Path) -> None:
    account = re.sub(r"(?m)^# ", "", EXAMPLE.read_text()[EXAMPLE.read_text().index("# [accounts.main]") :])
    assert read(file, account).accounts["main"].provider == "fcm"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().server.port = 1  # type: ignore[misc]


# --- what the rules get ---


def test_the_policy_has_what_was_set(file: Path) -> None:
    policy = read(
        file,
        """
        [server]
        allowed_origins = ["https://app.example", "http://localhost:3000"]
        [app]
        create_users = true
        start = "days:14"
        notify = "each_device"
        ttl_s = 60
        inbox_max = 5
        [push]
        ack_wait_s = 2.5
        debounce_s = 0
        knocks_s = []
        [retention]
        replay_window_d = 28
        dormant_d = 10
        gone_d = 11
        upgrade_verify_h = 1
        [limits]
        devices_per_user = 3
        """,
    ).policy()
    assert policy.origins == ("https://app.example", "http://localhost:3000")
    assert (policy.create_users, policy.start, policy.notify) == (True, "days:14", NotifyPolicy.EACH_DEVICE)
    assert (policy.ttl_s, policy.inbox_max, policy.ack_wait_ms, policy.debounce_ms) == (60, 5, 2500, 0)
    assert policy.knocks_ms == ()
    assert policy.replay_window_ms == 28 * 86_400_000
    assert (policy.dormant_ms, policy.gone_ms) == (864_000_000, 950_400_000)
    assert policy.upgrade_verify_ms == 3_600_000
    assert policy.devices_max == 3


def test_every_setting_of_the_policy_can_be_set(file: Path) -> None:
    """No field of Policy is forgotten: each differs from its default here."""
    changed = read(
        file,
        """
        [server]
        allowed_origins = ["https://a.example"]
        [app]
        create_users = true
        device_sends = true
        require_idempotency_key = true
        sender_copies = false
        trust_presence = true
        start = "now"
        notify = "first_device"
        ttl_s = 1
        inbox_max = 1
        [push]
        ack_wait_s = 9
        ack_wait_background_s = 4
        ack_wait_max_s = 59
        linger_s = 1
        linger_restart_s = 1
        restart_grace_s = 1
        debounce_s = 1
        elsewhere_s = 1
        knocks_s = [1]
        separate_max = 1
        claim_s = 29
        [retention]
        replay_window_d = 1
        dormant_d = 1
        gone_d = 2
        history_d = 1
        upgrade_pin_d = 1
        upgrade_verify_h = 1
        shared_d = 1
        shared_tail = 1
        [limits]
        devices_per_user = 1
        """,
    ).policy()
    same = {name for name in Policy.__dataclass_fields__ if getattr(changed, name) == getattr(Policy(), name)}
    assert same == {"system_reserve"}


# --- where it is found ---


def test_the_first_file_that_is_there_is_taken(file: Path, tmp_path: Path) -> None:
    def put(path: Path, port: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[server]\nport = {port}\n")

    home, xdg = {"HOME": str(tmp_path / "home")}, {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    put(tmp_path / "home/.config/relay/relay.toml", 1)
    assert load(None, home).server.port == 1
    assert load(None, home | xdg).server.port == 8080
    put(tmp_path / "xdg/relay/relay.toml", 2)
    assert load(None, home | xdg).server.port == 2
    put(Path("relay.toml"), 3)
    assert load(None, home | xdg).server.port == 3
    put(file, 4)
    assert load(file, home | xdg).server.port == 4


def test_a_file_in_a_folder_that_is_closed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the home of whoever started it as somebody else: with the next file's settings, or with none, it would be another
    relay than the one that is meant."""
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "theirs" / ".config" / "relay" / "relay.toml"
    look = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path in {theirs, theirs.parent}:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ConfigError) as raised:
        load(None, {"HOME": str(tmp_path / "theirs")}, also=mistakes_of)
    assert len(raised.value.mistakes) == 1, "nothing is said of folders that nobody has seen"
    assert raised.value.mistakes[0].startswith(f"{theirs}: cannot be read")


def test_a_link_that_leads_back_to_itself_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relay.toml").symlink_to("relay.toml")
    with pytest.raises(ConfigError, match=r"relay\.toml: cannot be read \(Too many levels"):
        load(None, {"HOME": str(tmp_path / "home")})


def test_a_named_file_must_be_there(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"relay\.toml: cannot be read \(No such file"):
        load(file, {})


def test_paths_are_relative_to_the_folder_of_the_file(file: Path) -> None:
    settings = read(
        file,
        '[store]\nurl = "sqlite:///data/r.db"\n[accounts.a]\nprovider = "fcm"\nservice_account_file = "fcm.json"\n',
        RELAY_KEYS__FILE="mine.keys",
    )
    assert settings.sqlite_path() == file.parent / "data/r.db"
    assert settings.store.url.reveal() == f"sqlite:///{file.parent}/data/r.db"
    assert settings.accounts["a"].settings["service_account_file"] == str(file.parent / "fcm.json")
    assert settings.keys.file == Path.cwd() / "mine.keys"


def test_absolute_paths_stay(file: Path) -> None:
    settings = read(file, '[store]\nurl = "sqlite:////var/lib/r.db"\n[keys]\nfile = "/etc/relay.keys"\n')
    assert settings.sqlite_path() == Path("/var/lib/r.db")
    assert settings.keys.file == Path("/etc/relay.keys")


def test_postgres_has_no_path(file: Path) -> None:
    settings = read(file, '[store]\nurl = "postgresql://relay:hunter2@db.internal:5433/relay"\n')
    assert settings.sqlite_path() is None
    assert settings.store.url.reveal() == "postgresql://relay:hunter2@db.internal:5433/relay"


def test_postgresql_may_be_at_several_hosts(file: Path) -> None:
    url = "postgresql://relay@db1:5432,db2:5433/relay"
    assert read(file, f'[store]\nurl = "{url}"\n').store.url.reveal() == url


# --- the environment ---


def test_the_environment_wins(file: Path) -> None:
    settings = read(
        file,
        "[server]\nport = 1\n[push]\nack_wait_s = 5\n",
        RELAY_SERVER__PORT="2",
        RELAY_PUSH__KNOCKS_S="[60, 90.5]",
        RELAY_SERVER__TRUSTED_PROXIES='["10.0.0.0/8", "fd00::/8"]',
        RELAY_APP__CREATE_USERS="true",
        RELAY_APP__NOTIFY="first_device",
        RELAY_LOG__LEVEL="debug",
        RELAY_STORE__URL="postgresql://u@h/123",
    )
    assert (settings.server.port, settings.push.ack_wait_s, settings.push.knocks_s) == (2, 5, (60, 90.5))
    assert settings.server.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert (settings.app.create_users, settings.app.notify, settings.log.level) == (True, "first_device", "debug")
    assert settings.store.url == Secret("postgresql://u@h/123")


def test_other_variables_are_not_ours(file: Path) -> None:
    others = {"RELAY_KEYS": "{}", "RELAY_PORT": "tcp://10.0.0.1:80", "RELAY__X": "1", "XRELAY_SERVER__PORT": "x"}
    assert read(file, "", PATH="x", **others) == read(file, "")


def test_mistakes_in_the_environment_name_the_variable(file: Path) -> None:
    assert mistakes(
        file,
        "",
        RELAY_SERVER__PORT="x",
        RELAY_SERVER__PROT="1",
        RELAY_SERVR__PORT="1",
        RELAY_PUSH__KNOCKS_S="1,2",
        RELAY_LIMITS__BODY_BYTES="65536\n",
        RELAY_LOG__LEVEL="INFO",
        RELAY_POLL__CLIENT_S="9" * 5000,
    ) == [
        "RELAY_LIMITS__BODY_BYTES: [limits] body_bytes: has a line break or a control character.",
        "RELAY_SERVER__PROT: [server] prot: is not known; did you mean port?",
        "RELAY_SERVR__PORT: [servr]: is not known; did you mean [server]?",
        'RELAY_SERVER__PORT: [server] port: found "x"; must be a whole number from 0 to 65535.',
        'RELAY_PUSH__KNOCKS_S: [push] knocks_s: found "1,2"; must be a list of at most 10 numbers from 1 to 2419200.',
        f'RELAY_POLL__CLIENT_S: [poll] client_s: found "{"9" * 59}…; must be a whole number from 1 to 300.',
        'RELAY_LOG__LEVEL: [log] level: found "INFO"; must be "debug", "info", "warning" or "error".',
    ]


# --- mistakes ---


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    text = """
        port = 80
        pussh = 1
        log = "info"
        [server]
        port = "80"
        linger_s = 1
        [push]
        ack_wait = 3
        ack_wait_s = 1
        zzz = 1
        [app]
        create_users = 1
        ttl_s = 2419201
        [limits]
        batch_bytes = 4194305
        """
    assert mistakes(file, text) == [
        "[port]: is not known here; it is a key of [server].",
        "[pussh]: is not known; did you mean [push]?",
        '[log]: found "info"; must be a table.',
        "[server] linger_s: is not known; did you mean [push] linger_s?",
        "[push] ack_wait: is not known; did you mean ack_wait_s?",
        next(line for line in mistakes(file, text) if "zzz" in line),
        '[server] port: found "80"; must be a whole number from 0 to 65535.',
        "[app] create_users: found 1; must be true or false.",
        "[app] ttl_s: found 2419201; must be a whole number from 1 to 2419200.",
        "[push] ack_wait_s: found 1; must be a number from 2 to 60.",
        "[limits] batch_bytes: found 4194305; must be a whole number from 1024 to 4194304.",
    ]


@pytest.mark.parametrize(
    ("section", "key", "value", "wanted"),
    [
        ("server", "host", '""', "must be an address"),
        ("server", "host", '"a\\u0000b"', "must be an address"),
        ("server", "port", "8080.0", "found 8080.0; must be a whole number"),
        ("server", "port", "true", "found true; must be a whole number"),
        ("server", "port", "1979-05-27", 'found "1979-05-27"'),
        ("server", "port", "0x" + "f" * 9999, "found a very large number"),
        ("server", "allowed_origins", '["*"]', 'found "\\*"; must be a list of origins'),
        ("server", "allowed_origins", '["https://a.example/"]', "must be a list of origins"),
        ("server", "allowed_origins", '"https://a.example"', "must be a list of origins"),
        ("server", "trusted_proxies", '["10.0.0.1/8"]', 'found "10.0.0.1/8"; must be a list of networks'),
        ("server", "trusted_proxies", "[1]", "found 1; must be a list of networks"),
        ("store", "url", '"mysql://u@h/d"', "must be sqlite:///PATH"),
        ("store", "url", '"sqlite://"', "must be sqlite:///PATH"),
        ("store", "url", '"sqlite:///"', "must be sqlite:///PATH"),
        ("store", "url", '"sqlite:///a?mode=ro"', "must be sqlite:///PATH"),
        ("store", "url", '"postgresql://h"', "must be sqlite:///PATH"),
        ("store", "url", '"postgresql://h:99999/d"', "must be sqlite:///PATH"),
        ("store", "url", '"postgresql://[h/d"', "must be sqlite:///PATH"),
        ("store", "url", "1", "must be sqlite:///PATH"),
        ("keys", "file", '""', "must be the path of a file"),
        ("keys", "file", "1", "must be the path of a file"),
        ("app", "start", '"days:0"', 'must be "retained", "now" or "days:N"'),
        ("app", "start", '"days:366"', 'must be "retained", "now" or "days:N"'),
        ("app", "notify", '"all"', 'must be "each_device", "until_read" or "first_device"'),
        ("app", "privacy", '"some"', 'must be "full", "title", "sealed" or "none"'),
        ("app", "ttl_s", "-1", "found -1; must be"),
        ("heartbeat", "interval_s", "9", "from 10 to 600"),
        ("heartbeat", "lease_factor", "4.1", "from 2 to 4"),
        ("push", "ack_wait_s", "nan", "found NaN; must be"),
        ("push", "ack_wait_s", "inf", "found Infinity; must be"),
        ("push", "knocks_s", "[0]", "found 0; must be a list"),
        ("push", "knocks_s", str([1] * 11), "must be a list of at most 10"),
        ("push", "knocks_s", '["1"]', 'found "1"; must be a list'),
        ("retention", "replay_window_d", "29", "from 1 to 28"),
        ("retention", "gone_d", "30", "above dormant_d"),
        ("retention", "event_d", "29", "found 29; must be a whole number from 30 to 3650: what became of a message"),
        ("store", "readers", "5", "found 5; must be a whole number from 1 to 4: more would keep SQLite"),
        ("retention", "dormant_d", "180", "gone_d: found 180; .* above dormant_d"),
        ("webhooks", "exempt", '["backend.internal"]', 'found "backend.internal"; must be a list of internal targets'),
        ("webhooks", "deny", '["10.0.0.1/8"]', 'found "10.0.0.1/8"; must be a list of names and networks'),
        ("webhooks", "deny", '["a host"]', 'found "a host"; must be a list of names and networks'),
        ("webhooks", "ports", "[0]", "found 0; must be a list of numbers from 1 to 65535"),
        ("log", "format", '"xml"', 'must be "json" or "console"'),
    ],
)
def test_a_wrong_value_is_shown_with_what_would_be_right(
    file: Path, section: str, key: str, value: str, wanted: str
) -> None:
    [line] = mistakes(file, f"[{section}]\n{key} = {value}\n")
    assert re.search(wanted, line)
    assert line.startswith(f"[{section}]")


def test_the_longest_wait_is_not_below_the_shortest(file: Path) -> None:
    [line] = mistakes(file, "[push]\nack_wait_s = 20\nack_wait_max_s = 19\n")
    assert line == "[push] ack_wait_max_s: found 19; must be a number from 2 to 60, and not below ack_wait_s."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nport = 1\nport = 2\n", "[server] port: found it a second time, in line 3; must stand once."),
        ("[server]\n[push]\n[server]\n", "[server]: found it a second time, in line 3; must stand once."),
        ("a = 1\na = 2\n", "a: found it a second time, in line 2; must stand once."),
        ("server.port = 1\nserver.port = 2\n", "is not TOML: Cannot overwrite a value"),
        ("port\n", "is not TOML: Expected '=' after a key"),
        ("x = 1" + "0" * 5000, "is not TOML: a number or a nesting is too large."),
        ("x = " + "[" * 100_000, "is not TOML: a number or a nesting is too large."),
        ("# " + "x" * 1024 * 1024, "is larger than"),
    ],
)
def test_what_is_not_toml_is_told_with_its_place(file: Path, text: str, line: str) -> None:
    [found] = mistakes(file, text)
    assert found.startswith(line)


def test_a_file_that_cannot_be_read_does_not_hide_other_mistakes(file: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError) as raised:
        load(file, {"RELAY_SERVER__PORT": "-1"})
    assert [line.partition(": ")[2][:20] for line in raised.value.mistakes] == [
        "is not UTF-8 text.",
        "[server] port: found",
    ]


def test_a_name_cannot_forge_a_line(file: Path) -> None:
    [line] = mistakes(file, '["a\\nb"]\n')
    assert "\n" not in line


# --- accounts ---


def test_what_an_account_does_not_say_comes_from_push_and_app(file: Path) -> None:
    accounts = read(
        file,
        """
        [app]
        privacy = "none"
        [push]
        concurrency = 7
        rate_per_s = 8
        burst = 9
        [accounts.plain]
        provider = "log"
        [accounts.own]
        provider = "http"
        privacy = "full"
        concurrency = 1
        rate_per_s = 2
        burst = 3
        """,
    ).accounts
    plain, own = accounts["plain"], accounts["own"]
    assert (plain.concurrency, plain.privacy) == (7, "none")
    assert (plain.rate_per_s, plain.burst) == (None, None), "the provider is asked before [push]"
    assert (own.concurrency, own.rate_per_s, own.burst, own.privacy) == (1, 2, 3, "full")


def test_all_other_keys_are_the_providers_own(file: Path) -> None:
    account = read(
        file, '[accounts.a]\nprovider = "x"\nsettings = 1\nurl = "https://a"\nnested = { b = [1] }\n'
    ).accounts["a"]
    assert account.settings == {"settings": 1, "url": "https://a", "nested": {"b": [1]}}


def test_an_account_may_come_from_the_environment(file: Path) -> None:
    settings = read(
        file,
        '[accounts.Main-EU]\nprovider = "fcm"\n',
        RELAY_ACCOUNTS__MAIN_EU__SERVICE_ACCOUNT='{"type": "service_account"}',
        RELAY_ACCOUNTS__MAIN_EU__BURST="4",
        RELAY_ACCOUNTS__OTHER__PROVIDER="123",
        RELAY_ACCOUNTS__OTHER__SECRET="123\nabc",
        RELAY_ACCOUNTS__OTHER__PORT="123",
        RELAY_ACCOUNTS__OTHER__BRACED="[not json",
    )
    assert set(settings.accounts) == {"Main-EU", "other"}
    assert settings.accounts["Main-EU"].settings == {"service_account": {"type": "service_account"}}
    assert settings.accounts["Main-EU"].burst == 4
    other = settings.accounts["other"]
    assert other.provider == "123"
    assert other.settings == {"secret": "123\nabc", "port": "123", "braced": "[not json"}


def test_mistakes_of_accounts_repeat_no_value(file: Path) -> None:
    lines = mistakes(
        file,
        """
        [accounts]
        provider = "hunter2"
        "bad name" = { provider = "fcm", secret = "hunter2" }
        [accounts.a]
        concurrency = "hunter2"
        secret = "hunter2"
        [accounts.b]
        provider = "hunter2 hunter2"
        """,
        RELAY_ACCOUNTS__A="hunter2",
        RELAY_STORE__URL="mysql://relay:hunter2@db/relay",
    )
    assert lines == [
        "[accounts.provider]: found a value that is not shown; must be a table; write it under [accounts.NAME].",
        "[accounts.bad name]: a name must be 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'.",
        "RELAY_ACCOUNTS__A: must be RELAY_ACCOUNTS__NAME__KEY.",
        f"RELAY_STORE__URL: [store] url: found a value that is not shown; must be {STORE_URL}.",
        '[accounts.a] provider: found nothing; must be the name of a provider, like "fcm".',
        "[accounts.a] concurrency: found a value that is not shown; must be a whole number from 1 to 10000.",
        '[accounts.b] provider: found a value that is not shown; must be the name of a provider, like "fcm".',
    ]


def test_secrets_are_in_no_form_of_the_settings(file: Path) -> None:
    settings = read(
        file,
        '[store]\nurl = "postgresql://u:hunter2@h/d"\n[accounts.a]\nprovider = "http"\nsecret = "hunter2"\n',
    )
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {settings.accounts}"
    assert "hunter2" not in shown
    assert json.loads(settings.model_dump_json())["accounts"]["a"]["provider"] == "http"


def test_exemptions_are_parsed(file: Path) -> None:
    settings = read(file, '[webhooks]\nexempt = ["backend.internal:8080", "10.1.0.0/16:443,8443"]\n')
    assert settings.webhooks.exemptions == (
        Exemption("backend.internal", None, frozenset({8080})),
        Exemption(None, ip_network("10.1.0.0/16"), frozenset({443, 8443})),
    )


def test_loading_calls_nobody(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    read(file, '[server]\nhost = "relay.example"\n')
