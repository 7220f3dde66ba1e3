"""Chunked bodies: the decoder agrees with a second one, byte by byte and in one piece.

The first byte of an input says how the rest is cut.
"""

from __future__ import annotations

from tests.fuzz import harness
from tests.heads import bare

with harness.instrumented():
    from gatewayd.core.errors import BadRequest
    from gatewayd.http1 import bodies
    from gatewayd.http1.serialising import chunk, last_chunk
    from tests.fuzz.reader import HEX, TCHAR, read_chunked
    from tests.fuzz.relay import forget

SEEDS = [
    b"\x07" + wire
    for wire in [
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
        b"5;a=b\r\nhello\r\nA\r\n0123456789\r\n0;c\r\n\r\n",
        b'1;a="b;c"\r\nx\r\n0\r\nA: b\r\nGrpc-Status: 0\r\n\r\n',
        b"0\r\nHost: a\r\nContent-Length: 5\r\nX-A: b\r\nA_B: c\r\n\r\n",
        b"1\r\nx\r\n" * 30 + b"000\r\n\r\n",
        b"7fffffffffffffff\r\nx",
        b"8000000000000000\r\nx",
        b"1;" + b"a" * 1000 + b"\r\nx\r\n0\r\n" + b"A:b\r\n" * 130 + b"\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    ]
]
TOKENS = (
    b"\r\n,\n,\r,\r\n\r\n,0\r\n,0\r\n\r\n,5\r\nhello\r\n,1\r\nx\r\n,;,;a=b,0,00000000000000000,f,F,g,x,0x,+,-,_, "
    b",\t,\0,\x0b,\x7f,\x80,\xff,:,A: b\r\n,Host: a\r\n,Transfer-Encoding: x\r\n, A: b\r\n,A : b\r\n,"
    b"7fffffffffffffff,8000000000000000,ffffffffffffffff,10000000000000000"
).split(b",")

Outcome = tuple[str, bytes, list[bytes], bytes]


def relayed(pieces: list[bytes]) -> bytes:
    """What of a good body goes on, but for its end; the first piece in a chunk of our own."""
    decoder = bodies.Chunked(BadRequest)
    out = chunk(decoder.feed(pieces[0])[0])
    for piece in pieces[1:]:
        if not decoder.ended:
            out += b"".join(decoder.relay(piece)[0])
    return out


def decoded(pieces: list[bytes]) -> Outcome:
    """(`bad`, `more` or `done`, body, trailers, rest)."""
    decoder = bodies.Chunked(BadRequest)
    body = rest = b""
    try:
        for piece in pieces:
            if decoder.ended:
                rest += piece
                continue
            more, rest = decoder.feed(piece)
            body += more
            assert len(decoder._line) <= 4096, "a line is held without bound"
            assert sum(len(line) - 2 for line in decoder.trailers) <= 16384
            assert len(decoder.trailers) <= 128
    except BadRequest:
        return "bad", b"", [], b""
    return "done" if decoder.ended else "more", body, decoder.trailers, rest


def second(data: bytes) -> Outcome:
    """The same by another decoder, which takes the whole and remembers nothing."""
    bad: Outcome = ("bad", b"", [], b"")
    body = b""
    trailers: list[bytes] = []
    at = extensions = trailer_bytes = 0
    last = False
    while True:
        end = data.find(b"\n", at)
        held = (end + 1 if end >= 0 else len(data)) - at
        if held > 4096:
            return bad
        if end < 0:
            return "more", body, trailers, b""
        line = data[at : end + 1]
        at = end + 1
        if not line.endswith(b"\r\n") or not _is_clean(line[:-2]):
            return bad
        line = line[:-2]
        if last:
            if not line:
                return "done", body, trailers, data[at:]
            name, colon, _ = line.partition(b":")
            if not colon or not name or any(c not in TCHAR for c in name):
                return bad
            trailer_bytes += len(line)
            if bodies._trailer_kind(name.lower()) == 0:
                trailers.append(line + b"\r\n")
            if trailer_bytes > 16384 or len(trailers) > 128:
                return bad
            continue
        digits, mark, extension = line.partition(b";")
        if not 0 < len(digits) <= 16 or any(c not in HEX for c in digits.lower()):
            return bad
        extensions += len(mark) + len(extension)
        size = int(digits, 16)
        if size >= 2**63 or extensions > 65536:
            return bad
        last = size == 0
        if last:
            continue
        body += data[at : at + size]
        at += size
        after = data[at : at + 2]
        if not b"\r\n".startswith(after):
            return bad
        if len(after) < 2:
            return "more", body, trailers, b""
        at += 2


def _is_clean(line: bytes) -> bool:
    return all(c == 0x09 or (c >= 0x20 and c != 0x7F) for c in line)


def check(data: bytes) -> None:
    """Hold all that must hold of a chunked body."""
    wire = data[1:]
    step = 1 + (data[0] if data else 0) % 50
    forget()
    whole = decoded([wire])
    assert decoded([wire]) == whole, "a warm memo changes the verdict"
    assert decoded([wire[at : at + step] for at in range(0, len(wire), step)]) == whole, (
        "it matters how a body is cut"
    )
    assert second(wire) == whole, "two decoders differ"
    state, body, trailers, _ = whole
    if state == "done":
        again = chunk(body) + last_chunk(trailers)
        assert read_chunked(again, 0) == (body, bare(trailers), len(again)), (
            "a stranger reads another"
        )
        again = relayed([wire[at : at + step] for at in range(0, len(wire), step)])
        again += last_chunk(trailers)
        assert read_chunked(again, 0) == (body, bare(trailers), len(again)), (
            "it is relayed as another"
        )


if __name__ == "__main__":
    raise SystemExit(harness.main("chunked", __doc__, check, SEEDS, TOKENS))
