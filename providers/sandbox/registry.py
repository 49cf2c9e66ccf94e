"""Which emulators there are: ours, and those that plug-ins bring under the entry point `relay.emulators`."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

from providers.sandbox.emulator import Emulator

GROUP = "relay.emulators"
OURS = {
    "apns": "providers.sandbox.apns:ApnsEmulator",
    "fcm": "providers.sandbox.fcm:FcmEmulator",
    "gotify": "providers.sandbox.gotify:GotifyEmulator",
    "harmony": "providers.sandbox.harmony:HarmonyEmulator",
    "honor": "providers.sandbox.honor:HonorEmulator",
    "http": "providers.sandbox.gateway:GatewayEmulator",
    "huawei": "providers.sandbox.huawei:HuaweiEmulator",
    "meizu": "providers.sandbox.meizu:MeizuEmulator",
    "ntfy": "providers.sandbox.ntfy:NtfyEmulator",
    "oppo": "providers.sandbox.oppo:OppoEmulator",
    "unifiedpush": "providers.sandbox.unifiedpush:UnifiedPushEmulator",
    "vivo": "providers.sandbox.vivo:VivoEmulator",
    "webpush": "providers.sandbox.webpush:WebPushEmulator",
    "xiaomi": "providers.sandbox.xiaomi:XiaomiEmulator",
}


def names() -> list[str]:
    """All of them, ours first."""
    return [*OURS, *sorted(point.name for point in entry_points(group=GROUP) if point.name not in OURS)]


def load(wanted: Iterable[str]) -> list[type[Emulator]]:
    """Their classes, in this order. Raises ValueError for a name that there is not."""
    found = []
    plugged = {point.name: point for point in entry_points(group=GROUP)}
    for name in dict.fromkeys(wanted):
        if name in OURS:
            module, _, attribute = OURS[name].partition(":")
            emulator = getattr(import_module(module), attribute)
        elif name in plugged:
            emulator = plugged[name].load()
        else:
            raise ValueError(f"There is no emulator {name!r}; there are: {', '.join(names())}.")
        found.append(emulator)
    return found
