"""`python -m poisoned_relay serve ...`: a relay that pushes to tokens which begin with `poison` kill, by SIGKILL."""

import os
import signal
from collections.abc import Awaitable, Callable

from providers.contract import Outcome, Push
from providers.http_call import HttpCallProvider
from relay.cli import main

POISON = "poison"
Send = Callable[[HttpCallProvider, Push], Awaitable[Outcome]]


def poisoned(send: Send) -> Send:
    async def kills_or_sends(provider: HttpCallProvider, push: Push) -> Outcome:
        if push.token.startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        return await send(provider, push)

    return kills_or_sends


if __name__ == "__main__":
    HttpCallProvider.send = poisoned(HttpCallProvider.send)  # type: ignore[method-assign]
    main()
