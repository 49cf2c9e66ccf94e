"""The addresses that devices bring: in which accounts they may have any, and each with its token sealed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from providers.contract import AddressInvalid
from relay.clock import rfc3339
from relay.errors import FieldError, Invalid
from relay.inbox.addresses import AddressState, NewAddress
from relay.model import DeviceKey
from relay.push.accounts import Accounts
from relay.push.sealing import KeyInvalid, SealKeys
from relay.realtime.protocol import AddressBody

SealToken = Callable[[DeviceKey, str, str], tuple[bytes, bytes]]  # (device, account, token) -> sealed, hash


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressBook:
    """What devices are told of accounts, and what is taken of the addresses that they register."""

    accounts: Accounts
    seal_token: SealToken

    def offers(self, app_id: str) -> list[dict[str, Any]]:
        """The accounts that a device may have addresses in, and what its app has to know for that."""
        return [
            {
                "account": name,
                "provider": account.provider.name,
                "kinds": sorted(account.provider.capabilities.kinds),
                "offer": dict(account.provider.offer()),
            }
            for name, account in sorted(self.accounts.of(app_id).items())
        ]

    def sealed(self, device: DeviceKey, addresses: Sequence[AddressBody]) -> tuple[NewAddress, ...]:
        """Addresses with their tokens sealed; one that is given twice counts once.

        Raises Invalid with every mistake: an account that is not configured, a kind, token or key that it does not take.
        """
        errors: list[FieldError] = []
        found: dict[tuple[str, bytes], NewAddress] = {}
        for index, one in enumerate(addresses):
            read = self._sealed(device, one, pointer=f"/addresses/{index}")
            if isinstance(read, FieldError):
                errors.append(read)
            else:
                found.setdefault((read.account, read.token_hash), read)
        if errors:
            raise Invalid(f"{errors[0].pointer}: {errors[0].detail}.", errors=tuple(errors))
        return tuple(found.values())

    def _sealed(self, device: DeviceKey, one: AddressBody, *, pointer: str) -> NewAddress | FieldError:
        account = self.accounts.get(device.app_id, one.account)
        if account is None:
            known = ", ".join(sorted(self.accounts.of(device.app_id))) or "none"
            return FieldError(f"{pointer}/account", "unknown", f"no such account is configured; there are: {known}")
        kinds = account.provider.capabilities.kinds
        if one.kind not in kinds:
            return FieldError(f"{pointer}/kind", "unknown", f"this account takes: {', '.join(sorted(kinds))}")
        try:
            token = account.provider.address(one.kind, one.token)
            keys = None if one.seal is None else SealKeys.read(one.seal.p256dh, one.seal.auth)
        except AddressInvalid as error:
            return FieldError(f"{pointer}/token", "invalid", str(error))
        except KeyInvalid as error:
            return FieldError(f"{pointer}/seal/{error.field}", "invalid", str(error))
        sealed, token_hash = self.seal_token(device, one.account, token)
        return NewAddress(
            account=one.account,
            kind=one.kind,
            token_sealed=sealed,
            token_hash=token_hash,
            keys_sealed=None if keys is None else self.seal_token(device, one.account, keys.text)[0],
            challenged=account.terms.challenge,
        )


def address_answer(one: AddressState) -> dict[str, Any]:
    """What a device is told of an address of its."""
    said = {"account": one.account, "state": one.state}
    return said if one.failing_since_ms is None else said | {"failing_since": rfc3339(one.failing_since_ms)}
