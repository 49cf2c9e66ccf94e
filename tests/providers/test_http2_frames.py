"""The frames of HTTP/2 and their header fields, without a socket, held against h2's own parts."""

from itertools import pairwise

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, PingFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.http import Request
from providers.http2_frames import Carried, Event, Frames, FramesBroken, Goaway, Pong
from providers.http2_headers import Head, HeadReader, HeadUnreadable, block_of
from providers.http2_huffman import plain


def greeted() -> Frames:
    """A connection with one request under way, whose server has said its settings."""
    frames = Frames(header_list_bytes_max=16_384)
    assert not list(frames.receive(SettingsFrame(0).serialize()))[1:]
    frames.request(b"\x82", with_body=False)
    return frames


FRAMES = st.lists(
    st.one_of(
        st.builds(lambda data: (DataFrame(1, data), Carried(1, data, ended=False)), st.binary(max_size=40)),
        st.builds(
            lambda data: (PingFrame(0, data, flags=["ACK"]), Pong(data)),
            st.binary(min_size=8, max_size=8),
        ),
        st.builds(
            lambda last, code, debug: (
                GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=debug),
                Goaway(last, code, debug),
            ),
            st.integers(0, 2**31 - 1),
            st.integers(0, 13),
            st.binary(max_size=40),
        ),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 400), max_size=12))
@settings(deadline=None)
def test_frames_are_read_also_after_a_goaway_however_the_bytes_are_cut(
    sent: list[tuple[Frame, Event]], cuts: list[int]
) -> None:
    stream = b"".join(frame.serialize() for frame, _ in sent)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    frames, found = greeted(), []
    for start, end in pairwise(edges):
        found += list(frames.receive(stream[start:end]))
    assert found == [event for _, event in sent]


@pytest.mark.parametrize(
    "broken",
    [
        b"\x00\x00\x07\x07\x00\x00\x00\x00\x00" + bytes(7),  # a GOAWAY that cannot be one
        b"\x00\x40\x01\x07\x00\x00\x00\x00\x00",  # a frame larger than we said we read: refused by its head
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x03",  # a body for a request that was not made
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x02",  # on a stream of the server's own
        b"\x00\x00\x04\x05\x04\x00\x00\x00\x01" + bytes(4),  # a promise, which we forbade
        b"\x00\x00\x01\x00\x08\x00\x00\x00\x01\x01",  # more padding than there is
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + bytes(4),  # a window that does not widen
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",  # one beyond all bounds
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x01",  # frames of at most one byte
        b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x88\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8),  # fields broken off
        b"\x00\x00\x01\x09\x04\x00\x00\x00\x01\x88",  # fields that go on where none began
        b"\x00\x00\x02\x01\x04\x00\x00\x00\x01\xff\x00",  # a field that is in no table
    ],
)
def test_what_breaks_the_rules_is_refused(broken: bytes) -> None:
    with pytest.raises(FramesBroken):
        list(greeted().receive(broken))


def test_a_server_greets_first() -> None:
    for frame in (PingFrame(0, bytes(8)), SettingsFrame(0, flags=["ACK"])):
        with pytest.raises(FramesBroken):
            list(Frames(header_list_bytes_max=16_384).receive(frame.serialize()))


def test_what_it_does_not_know_is_passed_over() -> None:
    assert list(greeted().receive(b"\x00\x00\x03\xee\xff\x00\x00\x00\x01abc")) == []


def test_a_long_answer_gets_new_windows_and_one_that_nobody_wants_costs_no_memory() -> None:
    frames = greeted()
    frames.take()
    part = DataFrame(1, bytes(16_384)).serialize()
    assert len(list(frames.receive(part * 3))) == 3
    assert b"\x08\x00\x00\x00\x00\x01" in frames.take()  # WINDOW_UPDATE of the stream
    frames.reset(1)
    frames.take()
    assert list(frames.receive(part * 600)) == []
    assert b"\x08\x00\x00\x00\x00\x00" in frames.take()  # ... and of the connection all the same


FIELD = st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=20_000))
NAME = st.text("abcXYZ019-_", min_size=1, max_size=20)
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=1024)


@given(
    st.dictionaries(NAME, TEXT, max_size=6),
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from(["http", "https"]),
    st.integers(0, 8000),
    st.binary(max_size=200),
)
@settings(deadline=None, max_examples=50)
def test_a_requests_head_is_read_as_it_was_written(
    headers: dict[str, str], method: str, scheme: str, size: int, body: bytes
) -> None:
    path = "/" + "p" * size
    asked = Request(url=f"{scheme}://a.example{path}", method=method, headers=headers, body=body)
    block = block_of(asked, authority="a.example", scheme=scheme, path=path, user_agent="relay")
    decoded = [(name, value) for name, value in Decoder(max_header_list_size=2**20).decode(block)]
    assert decoded[:4] == [(":method", method), (":scheme", scheme), (":authority", "a.example"), (":path", path)]
    lowered = {name.lower(): value for name, value in headers.items() if name.lower() != "host"}
    length = {"content-length": str(len(body))} if body else {}
    assert dict(decoded[4:]) == {"user-agent": "relay", **lowered, **length}
    assert len(decoded[4:]) == len(dict(decoded[4:]))


def test_the_first_request_after_the_peers_word_about_its_table_says_that_ours_is_empty() -> None:
    frames = Frames(header_list_bytes_max=16_384)
    frames.take()
    frames.request(b"\x82", with_body=False)
    assert frames.take().endswith(b"\x20\x82")
    frames.request(b"\x82", with_body=False)
    assert frames.take().endswith(b"\x03\x82")  # the stream's number, and no more than the field
    list(frames.receive(SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 100}).serialize()))
    frames.take()
    frames.request(b"\x82", with_body=False)
    assert frames.take().endswith(b"\x20\x82")


COMMON = st.sampled_from(
    [(b":status", b"200"), (b":status", b"410"), (b"content-type", b"application/json"), (b"age", b"")]
)


@given(
    st.lists(st.tuples(st.lists(st.one_of(COMMON, FIELD), max_size=6), st.booleans()), max_size=5),
    st.sampled_from([0, 100, 4096]),
)
@settings(deadline=None, max_examples=50)
def test_answers_are_read_as_a_server_wrote_them(blocks: list[tuple[Head, bool]], table_bytes: int) -> None:
    encoder, reader = Encoder(), HeadReader(list_bytes_max=2**20)
    encoder.header_table_size = table_bytes
    for fields, huffman in blocks:
        assert reader.read(encoder.encode(fields, huffman=huffman)) == fields


@given(st.one_of(st.binary(max_size=12), st.binary(max_size=60).map(Encoder().huffman_coder.encode)))
def test_huffmans_code_is_read_as_the_library_reads_it(coded: bytes) -> None:
    try:
        theirs = decode_huffman(coded)
    except HPACKDecodingError:
        with pytest.raises(ValueError, match=r"not in Huffman's code|cut short"):
            plain(coded)
    else:
        assert plain(coded) == theirs


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_unreadable(block: bytes) -> None:
    try:
        mine = HeadReader(list_bytes_max=16_384).read(block)
    except HeadUnreadable:
        return
    theirs = Decoder(max_header_list_size=16_384).decode(block, raw=True)
    assert mine == [(bytes(name), bytes(value)) for name, value in theirs]
