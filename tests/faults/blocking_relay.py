"""`python -m blocking_relay serve ...`: a relay whose event loop stands still while it pushes to a token that says for how
many seconds, as in `blocks-6`."""

import time
from collections.abc import Awaitable, Callable

from providers.contract import Outcome, Push
from providers.http_call import HttpCallProvider
from relay.cli import main

Send = Callable[[HttpCallProvider, Push], Awaitable[Outcome]]


def blocking(send: Send) -> Send:
    async def blocks_or_sends(provider: HttpCallProvider, push: Push) -> Outcome:
        if push.token.startswith("blocks-"):
            stand_still(float(push.token.partition("-")[2].partition(".")[0]))
        return await send(provider, push)

    return blocks_or_sends


def stand_still(seconds: float) -> None:
    end = time.monotonic() + seconds  # noqa: TID251
    while time.monotonic() < end:  # noqa: TID251 - a planted busy loop
        time.sleep(0.01)


if __name__ == "__main__":
    HttpCallProvider.send = blocking(HttpCallProvider.send)  # type: ignore[method-assign]
    main()
