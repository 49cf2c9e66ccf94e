"""Which way a client takes to the relay."""

from relay.client.transports import Ladder, Way


def test_a_way_that_fails_twice_gives_way_to_the_next_and_is_tried_again_later() -> None:
    ladder = Ladder()
    assert ladder.way(0) is Way.WEBSOCKET
    ladder.failed(0)
    assert ladder.way(0) is Way.WEBSOCKET
    ladder.failed(0)
    assert ladder.way(1) is Way.SSE
    ladder.failed(2)
    assert ladder.way(3) is Way.LONG_POLL
    ladder.worked()
    assert ladder.way(2 + Ladder.STAY_MS - 1) is Way.LONG_POLL
    assert ladder.way(2 + Ladder.STAY_MS) is Way.WEBSOCKET
