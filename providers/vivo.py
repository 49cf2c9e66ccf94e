"""vivo Push, also iQOO: JSON, a login by a signature over the time, and classes with hours and daily numbers.

Source: vendor sheet `vivo` (documents of versions 2.7 and 2.9.2 and later pages, as mirrored): host §1, login §2,
request §3, answer §4, errors §5, classes §6, mapping §7. The vendor lowers the allowance of those who go on after "used
up", so such answers say that the day is over (`Outcome.spent`, `Outcome.batch_spent`).
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, HttpUrl, field_validator

from providers.app_message import present
from providers.contract import AddressInvalid, Capabilities, Outcome, ProviderConfig, Push, Transport, Verdict
from providers.fields import merged
from providers.http import (
    Credential,
    HttpProvider,
    Refusal,
    Request,
    Response,
    TransportError,
    json_body,
    no_login,
    number_from,
)
from providers.receipts.callback import echo
from providers.receipts.contract import ReceiptReader
from providers.receipts.vivo import PARAM_BYTES_MAX, VivoReceipts, VivoReceiptSettings
from providers.settings import ByChannel, PlainSecret, plain
from providers.vivo_answers import SPENT_S, TASK_ID, WORDLESS, opens_in_s, outcome_of, users_of
from providers.vivo_message import (
    CUSTOM_CHARS_MAX,
    SYSTEM,
    TITLE_CHARS_MAX,
    TTL_S,
    VivoClass,
    class_of,
    content_of,
    custom_chars,
    custom_of,
    losses,
    override_mistakes,
    request_id,
)

__all__ = ["VivoConfig", "VivoProvider"]

BASE_URL = "https://api-push.vivo.com.cn"
BATCH_MAX = 1000
TOKEN_LIFE_S = 90 * 60.0  # good for 24 h; the vendor asks for a new one every hour or two

_JSON = {"content-type": "application/json"}
_PLAIN = r"[\x21-\x7e]"
_TOKEN = re.compile(rf"{_PLAIN}{{1,128}}")  # 23 characters by one source
_TASK_ID = re.compile(rf"{_PLAIN}{{1,128}}")


class VivoConfig(ProviderConfig):
    app_id: Annotated[int, Field(ge=1, lt=2**53)]
    app_key: Annotated[str, plain(128)]
    app_secret: PlainSecret
    classes: ByChannel[VivoClass]
    test: bool = False  # only test devices named in the console get it; all that an unreleased app may do
    add_badge: bool = False  # raise the badge by one; vivo takes no number. The field is not confirmed.
    foreground: bool = True  # show it, too, while the app is in front
    # What a push without words shows, quietly: there are no silent ones. vivo wants a letter in it.
    wake_text: Annotated[
        str, Field(pattern=r"[^\W\d_]", max_length=TITLE_CHARS_MAX, description="text with a letter in it")
    ] = "新消息"
    receipts: VivoReceiptSettings | None = None
    base_url: HttpUrl = HttpUrl(BASE_URL)

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url"})

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §6."""
        categories = {one.category for one in self.classes.values()}
        claimed, others = sorted(categories.intersection(SYSTEM)), sorted(categories.difference(SYSTEM))
        found = []
        if claimed:
            found.append(
                f"classes: {', '.join(claimed)} make a system message; vivo looks at samples, and punishes what is none."
            )
        if others:
            found.append(
                f"classes: {', '.join(others)} make an operational message: two a device and day (news: five), and only "
                "from 7:00 to 23:00 of Beijing."
            )
        return found

    @field_validator("app_key", "app_secret", mode="before")
    @classmethod
    def _stripped(cls, given: Any) -> Any:
        return given.strip() if isinstance(given, str) else given  # blanks creep in when it is copied (sheet §2)


class VivoProvider(HttpProvider):
    name: ClassVar[str] = "vivo"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = VivoConfig
    each_dead: ClassVar[frozenset[str]] = frozenset({"invalid_user_1", "invalid_user_2"})
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=CUSTOM_CHARS_MAX,
        ttl_s_max=TTL_S[1],
        silent=False,
        collapse=True,
        sound=False,
        thread=False,
        batch_max=BATCH_MAX,
        zone="Asia/Shanghai",
    )
    config: VivoConfig

    def __init__(self, config: VivoConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self.receipts: ReceiptReader | None = None if config.receipts is None else VivoReceipts(config.receipts)
        self._base = str(config.base_url).rstrip("/")
        self._latin = True  # vivo takes texts of Latin letters alone, until it says otherwise
        self.channels = config.classes.keys() - {"default"}  # as a push of no channel
        system = sorted(name for name in self.channels if config.classes[name].category in SYSTEM)
        of_none = config.classes["default"].category in SYSTEM
        self._system: tuple[str | None, ...] = (*system, None) if of_none else tuple(system)

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: cut texts."""
        return losses(push)

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: fields of vivo's message; null takes one of ours away."""
        return override_mistakes(overrides)

    def address(self, kind: str, token: str) -> str:
        """See `Provider`."""
        del kind
        if not _TOKEN.fullmatch(token):
            raise AddressInvalid("A registration id of vivo is 1 to 128 plain characters without blanks.")
        return token

    def known(self, push: Push) -> Outcome | None:
        """See `HttpProvider`: the operational class has its hours (sheet §5, code 10071)."""
        if not _TOKEN.fullmatch(push.token):
            return Outcome(verdict=Verdict.REFUSED, vendor_code="token_malformed")
        found = super().known(push)
        if found is not None:
            return found
        opens_s = 0.0 if self._class(push)["classification"] else opens_in_s(self.now())
        if opens_s:
            wait_s = min(max(opens_s, 1.0), SPENT_S)
            return Outcome(verdict=Verdict.RETRY, retry_after_s=wait_s, shut=True, vendor_code="closed_hours")
        return None

    async def credential(self) -> Credential:
        """See `HttpProvider`: a token for a signature over the time (sheet §2)."""
        config, timestamp = self.config, int(self.now() * 1000)
        signed = f"{config.app_id}{config.app_key}{timestamp}{config.app_secret.get_secret_value()}"
        body = {
            "appId": config.app_id,
            "appKey": config.app_key,
            "timestamp": timestamp,
            "sign": hashlib.md5(signed.encode()).hexdigest(),  # noqa: S324 - vivo's choice
        }
        response = await self.call(Request(url=f"{self._base}/message/auth", headers=_JSON, body=json_body(body)))
        outcome = self.decode(response)
        if outcome.verdict is not Verdict.ACCEPTED:
            raise no_login(outcome)
        token = response.json().get("authToken")
        if not isinstance(token, str) or not re.fullmatch(rf"{_PLAIN}{{1,1000}}", token):
            raise no_login(Outcome(verdict=Verdict.RETRY, vendor_code="garbled"))
        return Credential(value=token, good_until_s=self.now() + TOKEN_LIFE_S)

    def _request(self, path: str, body: Mapping[str, Any], credential: str) -> Request:
        return Request(
            url=f"{self._base}{path}",
            headers={**_JSON, "authToken": credential},
            body=json_body(body),
            payload_bytes=custom_chars(body.get("clientCustomMap", {})),
        )

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §7."""
        return self._encoded([push], credential, latin=self._latin)

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`: the content alone, which `exchange` gets a task id for."""
        return self._encoded(pushes, credential, latin=self._latin)

    def _encoded(self, pushes: Sequence[Push], credential: str, *, latin: bool) -> Request:
        message = self._message(pushes[0], latin=latin)
        if len(pushes) == 1:
            return self._request("/message/send", {**message, "regId": pushes[0].token}, credential)
        return self._request("/message/saveListPayload", message, credential)

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`: what is for many is saved first, then sent by its task id."""
        if len(pushes) == 1:
            return await self._worded(request, pushes, credential)
        try:
            saved = await self._worded(request, pushes, credential)
        except TransportError as error:
            raise TransportError(error.reason, sent=False) from error  # nobody was sent anything yet
        outcome = self.decode(saved)
        if outcome.maybe_sent:  # a 2xx that makes no sense
            raise Refusal(replace(outcome, maybe_sent=False))
        if outcome.verdict is not Verdict.ACCEPTED:
            return saved
        task_id = saved.json().get("taskId")
        if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
            raise Refusal(Outcome(verdict=Verdict.RETRY, vendor_code="task_garbled"))
        targets = {
            "appId": self.config.app_id,
            "regIds": [push.token for push in pushes],
            "taskId": task_id,
            "requestId": request_id(pushes[0], "".join(push.token for push in pushes), now_s=self.now()),
        }
        told = await self.call(self._request("/message/pushToList", targets, credential))
        return replace(told, headers={**told.headers, TASK_ID: task_id})

    async def _worded(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """The answer to a message; one that is refused for want of words goes once more, with some before its Latin ones.

        Whether vivo refuses texts of Latin letters alone (codes 10085, 10104; sheet §9), its documents and their own example
        (§3) do not agree. Once it has, and has taken the same with words, all such texts get them.
        """
        response = await self.call(request)
        if number_from(response.json().get("result")) not in WORDLESS:
            return response
        again = self._encoded(pushes, credential, latin=False)
        if again.body == request.body:  # it had them
            return response
        response = await self.call(again)
        if self.decode(response).verdict is Verdict.ACCEPTED:  # else it was not for the letters
            self._latin = False
        return response

    def _class(self, push: Push) -> dict[str, Any]:
        return class_of(push, self.config.classes.get(push.channel or "default", self.config.classes["default"]))

    def _message(self, push: Push, *, latin: bool) -> dict[str, Any]:
        config = self.config
        receipts = config.receipts
        ours = {
            "appId": config.app_id,  # a number, not text
            "foregroundShow": config.foreground,
            "addBadge": True if config.add_badge else None,
            "pushMode": 1 if config.test else 0,
            "extra": None
            if receipts is None
            else present({**receipts.extra, "callback.param": echo(push.id, PARAM_BYTES_MAX)}),
        }
        content = content_of(push, wake_text=config.wake_text, latin=latin, now_s=self.now())
        message = merged(present(content | ours), {**push.overrides, **self._class(push)})
        custom = message.get("clientCustomMap")
        return message if custom is None else {**message, "clientCustomMap": custom_of(custom)}

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §5, and §4 of an invalid user."""
        outcome, users = self._read(response)
        return next(iter(users.values()), outcome)

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """See `HttpProvider`: those who are named as invalid, and the answer's code for the others."""
        if len(pushes) == 1:
            return [self.decode(response)]
        outcome, users = self._read(response)
        if users and outcome.verdict is Verdict.TOKEN_DEAD:
            outcome = replace(outcome, verdict=Verdict.RETRY)  # the code is about those who are named
        return [users.get(push.token, outcome) for push in pushes]

    def _read(self, response: Response) -> tuple[Outcome, dict[str, Outcome]]:
        """What the answer says of the call, and what of the users that it calls invalid."""
        outcome = outcome_of(response, system=self._system, now_s=self.now())
        return outcome, {} if outcome.verdict is Verdict.REAUTH else users_of(response)
