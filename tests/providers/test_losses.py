"""What a vendor will not have of a very push is named: by the adapter, for the trace."""

from collections.abc import Mapping
from typing import Any

import pytest

from providers.contract import Provider, Push
from providers.gotify import GotifyProvider
from providers.honor import HonorProvider
from providers.http import HttpProvider, Response
from providers.huawei import HuaweiProvider
from providers.loading import build
from providers.meizu import MeizuProvider
from providers.ntfy import NtfyProvider
from providers.oppo import OppoProvider
from providers.testing import NOW_S, Scripted
from providers.vivo import VivoProvider
from providers.xiaomi import XiaomiProvider

HUAWEI = {"app_id": "1", "app_secret": "s"}
BADGED = {"badge_class": "com.example.Main"}
HONOR = {"app_id": "1", "client_id": "c", "client_secret": "s"}
XIAOMI = {"package": "org.example.chat", "app_secret": "s", "channels": {"default": "1"}}
MEIZU = {"app_id": 1, "app_secret": "s", "classes": {"default": {"private": False}}}
VIVO = {"app_id": 1, "app_key": "k", "app_secret": "s", "classes": {"default": {"category": "IM"}}}
OPPO = {"app_key": "k", "master_secret": "s", "classes": {"default": {"channel_id": "c"}}}
WEB = "https://app.example/x"

# provider, its settings, the push -> what is lost of it
LOST: list[tuple[type[Provider], Mapping[str, Any], dict[str, Any], list[str]]] = [
    (HuaweiProvider, HUAWEI, {"badge": 3}, ["badge"]),
    (HuaweiProvider, HUAWEI | BADGED, {"badge": 3}, []),
    (HuaweiProvider, HUAWEI | BADGED, {"badge": 3, "title": None, "body": None}, ["badge"]),
    (HuaweiProvider, HUAWEI, {"image": "http://app.example/i.png", "sound": "Über.caf"}, ["image", "sound"]),
    (HuaweiProvider, HUAWEI, {"image": "https://app.example/i.png", "sound": "bell.mp3"}, []),
    (HonorProvider, HONOR, {"badge": 0, "image": "http://app.example/i.png"}, ["badge", "image"]),
    (HonorProvider, HONOR | BADGED, {"badge": 0, "image": "https://app.example/i.png"}, []),
    (NtfyProvider, {}, {"data": {"k": "v"}, "relay": {"v": 1}, "click": "OPEN"}, ["data", "relay", "click"]),
    (NtfyProvider, {}, {"click": WEB}, []),
    (GotifyProvider, {}, {"click": WEB, "data": {"k": "v"}}, []),
    (GotifyProvider, {}, {"click": "OPEN"}, ["click"]),
    (XiaomiProvider, XIAOMI, {"title": "t" * 50, "body": "b" * 128}, ["title_cut", "body_cut"]),
    (XiaomiProvider, XIAOMI, {"title": "t" * 49, "body": "b" * 127, "sound": "bell"}, []),
    (XiaomiProvider, XIAOMI, {"sound": "Über"}, ["sound"]),
    (MeizuProvider, MEIZU, {"title": "t" * 33, "body": "b" * 101}, ["title_cut", "body_cut"]),
    (VivoProvider, VIVO, {"title": "t" * 41, "body": "b" * 101}, ["title_cut", "body_cut"]),
    (VivoProvider, VIVO, {"title": "t" * 40, "body": "b" * 100}, []),
    (OppoProvider, OPPO, {"title": "t" * 51, "body": "b" * 129}, ["title_cut", "body_cut"]),
    (OppoProvider, OPPO, {"click": WEB, "data": {"k": "v"}, "relay": {"v": 1}}, ["data", "relay"]),
    (OppoProvider, OPPO, {"click": "OPEN", "data": {"k": "v"}, "relay": {"v": 1}}, []),
]


@pytest.mark.parametrize(("provider", "settings", "push", "lost"), LOST)
def test_what_the_vendor_will_not_have_is_named(
    provider: type[Provider], settings: Mapping[str, Any], push: dict[str, Any], lost: list[str]
) -> None:
    made = build(provider, settings, transport=Scripted(lambda _: Response(status=500)), now=lambda: NOW_S)
    assert isinstance(made, HttpProvider)
    assert made.losses(Push(**{"id": "m", "token": "t", "title": "Ann", "body": "hi", **push})) == lost
