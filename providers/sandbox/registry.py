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
    """Their classes, in this order. Raises ValueError for a name that there is not, and for one that cannot be used."""
    return [_loaded(name) for name in dict.fromkeys(wanted)]


def usable() -> tuple[list[str], list[str]]:
    """The names of those that can be used, and of each other one a sentence: a plug-in breaks only itself."""
    good, broken = [], []
    for name in dict.fromkeys(names()):
        try:
            _loaded(name)
        except ValueError as error:
            broken.append(str(error))
        else:
            good.append(name)
    return good, broken


def _loaded(name: str) -> type[Emulator]:
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        ours: type[Emulator] = getattr(import_module(module), attribute)
        return ours
    point = next((point for point in entry_points(group=GROUP) if point.name == name), None)
    if point is None:
        raise ValueError(f"There is no emulator {name!r}; there are: {', '.join(names())}.")
    whose = f"The emulator {name!r} ({'unknown' if point.dist is None else f'{point.dist.name} {point.dist.version}'})"
    try:
        found = point.load()
    except Exception as error:  # a stranger's module may raise anything while it is imported
        raise ValueError(f"{whose} cannot be imported: {type(error).__name__}: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Emulator)):
        raise ValueError(f"{whose} does not derive from Emulator.")  # noqa: TRY004 - one kind of trouble for the caller
    if getattr(found, "name", None) != name:
        raise ValueError(f"{whose} names itself {getattr(found, 'name', None)!r:.80}.")
    if left := sorted(found.__abstractmethods__):
        raise ValueError(f"{whose} does not say its {', '.join(left)}.")
    return found
