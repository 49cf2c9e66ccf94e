"""Which URLs may be called: SEC-8 rules 1 to 3 and its deny table, B093, B094, B097."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.guard import (
    ADDRESS_DENIED,
    URL_INVALID,
    Exemption,
    Guard,
    Target,
    TargetRefused,
    address_denied,
    parse_target,
)

DENIED_TEXT = """0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
127.255.255.254 168.63.129.16 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.8 192.0.0.192
192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255 :: ::1 ::7f00:1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:a9fe:a9fe ::ffff:0.0.0.0 64:ff9b::7f00:1
64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::
2002:a9fe:a9fe::
3fff::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fec0::1 ff02::1 ff0e::1"""
ALLOWED_TEXT = """1.1.1.1 8.8.8.8 17.188.0.1 99.255.255.255 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0
223.255.255.255 ::ffff:8.8.8.8 2001:200::1 2001:4860:4860::8888
2606:4700:4700::1111 2a00:1450::1"""
DENIED, ALLOWED = DENIED_TEXT.split(), ALLOWED_TEXT.split()
NAME = Target(scheme="https", host="hooks.example", port=443, path="/")
# What stays denied whatever the operator exempts.
ALWAYS = [
    *("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fe80::1"),
    *("fd00:ec2::254", "fd20:ce::254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
]


def test_the_lists_are_whole() -> None:
    assert (len(DENIED), len(ALLOWED)) == (55, 23)


@pytest.mark.parametrize("address", DENIED)
def test_denied(address: str) -> None:
    assert address_denied(address)
    with pytest.raises(TargetRefused) as caught:
        Guard().check(NAME, [address])
    assert caught.value.code == ADDRESS_DENIED
    assert address not in str(caught.value)


@pytest.mark.parametrize("address", ALLOWED)
def test_allowed(address: str) -> None:
    assert not address_denied(address)
    assert Guard().check(NAME, [address]) == (address,)


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "fe80::1%eth0", "2606:4700:4700::1111%eth0", "1.1.1.1 "])
def test_what_is_no_plain_address_is_denied(text: str) -> None:
    assert address_denied(text)


def test_one_denied_address_refuses_all() -> None:
    for addresses in (["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["8.8.8.8", "fd00::1"], []):
        with pytest.raises(TargetRefused):
            Guard().check(NAME, addresses)


def test_the_relays_own_addresses_can_be_added() -> None:
    own = Exemption.parse("8.8.8.0/24:443").network
    assert own is not None
    with pytest.raises(TargetRefused):
        Guard(networks_denied=(own,)).check(NAME, ["8.8.8.8"])
    with pytest.raises(TargetRefused):
        Guard(networks_denied=(own,)).check(NAME, ["::ffff:8.8.8.8"])


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://hooks.example/",
            "file:///etc/passwd",
            "gopher://hooks.example/",
            "//hooks.example/",
            "",
            "hooks.example",
        ),
        *("https:///x", "https://", "https:hooks.example", "https:/hooks.example/", "javascript:alert(1)"),
        "https://hooks.example/" + "a" * 2027,
        *("https://user@hooks.example/", "https://user:pw@hooks.example/", "https://hooks.example:pw@evil.example/"),
        *(
            "https://hooks.example/#f",
            "https://hooks.example#f",
            "https://hooks.example/ x",
            "https://hooks.example/\tx",
        ),
        *(
            "https://hooks.example/\nx",
            "\nhttps://hooks.example/",
            " https://hooks.example/",
            "https://hooks.example/\x00",
        ),
        *(
            "https:\\\\hooks.example/",
            "https://hooks.example\\@evil.example/",
            "https://hooks.example/é",
            "https://a..b/",
        ),
        *(
            "https://.example/",
            "https://a_b.example/",
            "https://a%2eb.example/",
            "https://" + "a" * 64 + ".example/",
        ),
        "https://" + ".".join(["a" * 50] * 6) + "/",
        *(
            "https://hooks.example:/",
            "https://hooks.example:0/",
            "https://hooks.example:22/",
            "https://hooks.example:25/",
        ),
        *("https://hooks.example:6379/", "https://hooks.example:65536/", "https://hooks.example:443x/"),
        *(
            "https://hooks.example:0443/",
            "https://hooks.example:-1/",
            "https://hooks.example:443:443/",
            "http://hooks.example/",
        ),
        *("https://hooks.example:80/", "https://℀.example/", "https://[::1/", "https://a\u2028b.example/"),
    ],
)
def test_urls_that_are_not_valid(url: str) -> None:
    with pytest.raises(TargetRefused) as caught:
        parse_target(url)
    assert caught.value.code == URL_INVALID


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0177.0.0.1",
            "0x7f.1",
            "2130706433",
            "127.1",
            "0x7f000001",
            "8.8.8.8",
        ),
        *("１２７.０.０.１", "127.0.0.1.", "[2606:4700:4700::1111]", "[fe80::1%25eth0]", "[::]", "[x]", "a.0x1", "a.1"),  # noqa: RUF001
        *("localhost", "localhost.", "LOCALHOST", "x.localhost", "metadata.google.internal", "name", "printer.local"),
        *("x.intranet", "x.lan", "x.home.arpa", "x.svc", "a.svc.cluster.local", "x.onion", "127。0。0。1", "ⓛocalhost"),
    ],
)
def test_hosts_that_may_not_be_called(host: str) -> None:
    for allow_http in (False, True):
        with pytest.raises(TargetRefused) as caught:
            parse_target(f"https://{host}/", allow_http=allow_http)
        assert caught.value.code == ADDRESS_DENIED


def test_a_good_url_comes_apart_and_together() -> None:
    for url, host, port, path, again in (
        ("https://hooks.example", "hooks.example", 443, "/", "https://hooks.example/"),
        (
            "HTTPS://Hooks.Example.:443/a%20b?c=/d?e",
            "hooks.example",
            443,
            "/a%20b?c=/d?e",
            "https://hooks.example/a%20b?c=/d?e",
        ),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, "/", "https://xn--bcher-kva.example/"),
        ("https://hooks.example?x", "hooks.example", 443, "/?x", "https://hooks.example/?x"),
        ("https://hooks.localhost.example/", "hooks.localhost.example", 443, "/", "https://hooks.localhost.example/"),
    ):
        target = parse_target(url)
        assert (target.host, target.port, target.path, target.url) == (host, port, path, again)


def test_ports_and_http_are_the_deployments_choice() -> None:
    assert parse_target("https://hooks.example:8443/", ports={443, 8443}).authority == "hooks.example:8443"
    assert parse_target("http://hooks.example/", allow_http=True).port == 80
    with pytest.raises(TargetRefused):
        parse_target("http://hooks.example:8080/", allow_http=True)
    with pytest.raises(TargetRefused):
        parse_target("https://relay.example/x", names_denied=["relay.example"])


@given(st.text(max_size=60) | st.text(alphabet="https:/.[]@#?\\ 0x17a%-é。", max_size=60).map("https://{}".format))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except TargetRefused:
        return
    assert target == parse_target(target.url)


# Exemptions (rule 8).


def guard(*exemptions: str) -> Guard:
    return Guard(exemptions=tuple(Exemption.parse(text) for text in exemptions))


@pytest.mark.parametrize(
    ("exemption", "url", "addresses"),
    [
        ("localhost:8080", "http://localhost:8080/x", ["127.0.0.1", "::1"]),
        ("backend.internal:443", "https://backend.internal/x", ["10.0.0.7"]),
        ("10.1.0.0/16:8443", "https://svc.lan:8443/x", ["10.1.2.3"]),
        ("10.1.0.0/16:443", "https://hooks.example/x", ["10.1.2.3"]),
        ("127.0.0.0/8:9000,9001", "http://127.0.0.1:9001/x", ["127.0.0.1"]),
        ("[::1]:9000", "http://[::1]:9000/x", ["::1"]),
        ("[fd00::/8]:443", "https://hooks.example/", ["fd00::7"]),
    ],
)
def test_an_exempt_target_may_be_called(exemption: str, url: str, addresses: list[str]) -> None:
    policy = guard(exemption)
    assert policy.check(policy.parse(url), addresses) == tuple(addresses)
    with pytest.raises(TargetRefused):
        Guard().check(Guard().parse(url), addresses)


@pytest.mark.parametrize(
    ("exemption", "url", "addresses"),
    [
        ("localhost:8080", "http://localhost:8081/x", ["127.0.0.1"]),  # another port
        ("localhost:8080", "http://other.localhost:8080/x", ["127.0.0.1"]),  # another host
        ("10.1.0.0/16:8443", "https://svc.lan:8443/x", ["10.2.0.1"]),  # outside of the range
        ("10.1.0.0/16:8443", "https://svc.lan:8443/x", ["10.1.0.1", "10.2.0.1"]),
        ("10.1.0.0/16:8443", "http://hooks.example:8443/x", ["8.8.8.8"]),  # http only into the range
        ("127.0.0.0/8:80", "http://127.1/", ["127.0.0.1"]),  # only the plain form
        ("127.0.0.0/8:80", "http://0177.0.0.1/", ["127.0.0.1"]),
        ("127.0.0.0/8:80", "http://2130706433/", ["127.0.0.1"]),
    ],
)
def test_an_exemption_is_no_wider_than_written(exemption: str, url: str, addresses: list[str]) -> None:
    policy = guard(exemption)
    with pytest.raises(TargetRefused):
        policy.check(policy.parse(url), addresses)


@pytest.mark.parametrize("address", ALWAYS)
def test_link_local_and_metadata_stay_denied(address: str) -> None:
    for policy in (guard("meta.internal:80"), guard("0.0.0.0/0:80", "[::/0]:80")):
        with pytest.raises(TargetRefused):
            policy.check(policy.parse("http://meta.internal/"), [address])
        literal = f"[{address}]" if ":" in address else address
        with pytest.raises(TargetRefused):
            policy.parse(f"http://{literal}/")


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "localhost:", "localhost:0", "x:65536", "10.0.0.0/33:80", "10.0.0.1/8:80", "a b:80", "127.1:80"],
)
def test_an_exemption_says_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        Exemption.parse(text)


def test_an_exemption_prints_as_it_is_written() -> None:
    for text in ("localhost:8080,9090", "10.1.0.0/16:443", "[fd00::/8]:443"):
        assert str(Exemption.parse(text)) == text
