"""The client of the interop suite in Python: grpcio, as an application would use it.

    client.py --target 127.0.0.1:15001 --authority payments.shop --checks all

Runs the checks one after the other, prints a line of JSON for each, and exits with 1 if one failed.
`--authority` is what calls are addressed to where that is not the target.
"""

import argparse
import base64
import json
import sys
import threading
import time
import traceback
import uuid

import grpc

MIB = 1 << 20
# A call that takes longer hangs.
CALL_SECONDS = 20
# The first will do, but on a machine so slow that the server does not even see the call in that time.
DEADLINES_SECONDS = (0.4, 3, 15)
# A deadline that is honoured is not missed by this much.
LATE_SECONDS = 4
# Libraries round a timeout up when they write it, by a millisecond or so.
ROUNDING_MS = 5

# Every code has a message that must be quoted on the wire: unicode, percent signs, a newline.
MESSAGE = "Zahlung abgelehnt: 100 % – nicht gedeckt\n„später“ %41 \N{PILE OF POO}"


class Echo:
    """A stub of `interop.Echo` whose messages are bytes."""

    def __init__(self, channel):
        path = "/interop.Echo/"
        self.unary = channel.unary_unary(path + "Unary")
        self.zip = channel.unary_unary(path + "Zip")
        self.collect = channel.stream_unary(path + "Collect")
        self.expand = channel.unary_stream(path + "Expand")
        self.chat = channel.stream_stream(path + "Chat")
        self.fail = channel.unary_unary(path + "Fail")
        self.hang = channel.unary_unary(path + "Hang")
        self.hang_stream = channel.stream_stream(path + "HangStream")
        self.seen = channel.unary_unary(path + "Seen")


def unary(echo):
    for payload in (b"", b"x", bytes(range(256))):
        expect(echo.unary(payload, timeout=CALL_SECONDS), payload)


def client_stream(echo):
    messages = [bytes([number]) * number for number in range(100)]
    expect(echo.collect(iter(messages), timeout=CALL_SECONDS), b"".join(messages))


def server_stream(echo):
    request = json.dumps({"count": 100, "bytes": 1000}).encode()
    messages = list(echo.expand(request, timeout=CALL_SECONDS))
    expect(messages, [bytes([number]) * 1000 for number in range(100)])


def bidi_stream(echo):
    """Each message is sent only when the answer to the one before is here."""
    turn = threading.Semaphore(1)

    def requests():
        for number in range(50):
            if not turn.acquire(timeout=CALL_SECONDS):
                return
            yield str(number).encode()

    answers = []
    for answer in echo.chat(requests(), timeout=CALL_SECONDS):
        answers.append(answer)
        turn.release()
    expect(answers, [str(number).encode() for number in range(50)])


def deadline(echo):
    for given in DEADLINES_SECONDS:
        name = uuid.uuid4().bytes
        began = time.monotonic()
        error = failure(lambda: echo.hang(name, timeout=given))
        took = time.monotonic() - began
        expect(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        expect(took < given + LATE_SECONDS, True, f"{took:.3f} s of {given} s")
        seen = json.loads(echo.seen(name, timeout=CALL_SECONDS))
        if seen["began"]:
            break
    expect((seen["began"], seen["ended"]), (True, True), "the server saw its end")
    # A relay may not give the server longer than the client gives it.
    bound = given * 1000 + ROUNDING_MS
    expect(seen["remaining_ms"] is not None and seen["remaining_ms"] <= bound, True, f"{seen} of {given} s")


def cancel(echo):
    name = uuid.uuid4().bytes
    hold = threading.Event()

    def requests():
        yield name
        hold.wait(CALL_SECONDS)

    call = echo.hang_stream(requests(), timeout=CALL_SECONDS)
    expect(next(call), name)
    call.cancel()
    hold.set()
    expect(call.code(), grpc.StatusCode.CANCELLED)
    seen = json.loads(echo.seen(name, timeout=CALL_SECONDS))
    expect((seen["began"], seen["ended"]), (True, True), "the server saw the cancel")


def metadata(echo):
    sent = [
        ("echo-ascii", "visible ASCII, with commas; ~!@#$%^&*()"),
        ("echo-many", "first"),
        ("echo-many", "second"),
        ("echo-all-bin", bytes(range(256))),
        ("echo-many-bin", b"\x00\xff"),
        ("echo-many-bin", b"a,b"),
        ("echo-long", "x" * 4000),
    ]
    response, call = echo.unary.with_call(b"", metadata=sent, timeout=CALL_SECONDS)
    expect(response, b"")
    for what, received in (("headers", call.initial_metadata()), ("trailers", call.trailing_metadata())):
        for key in sorted({key for key, _ in sent}):
            values = [value for other, value in received if other == key]
            expect(values, [value for other, value in sent if other == key], f"{key} in {what}")


def gzip(echo):
    """Far fewer bytes than these go over the wire: the suite counts them."""
    payload = b"compressible " * 40_000
    expect(echo.zip(payload, timeout=CALL_SECONDS, compression=grpc.Compression.Gzip), payload)


def statuses(echo):
    for code in grpc.StatusCode:
        number = code.value[0]
        request = json.dumps({"code": number, "message": MESSAGE}).encode()
        if number == 0:
            expect(echo.fail(request, timeout=CALL_SECONDS), b"")
            continue
        error = failure(lambda: echo.fail(request, timeout=CALL_SECONDS))
        expect((error.code(), error.details()), (code, MESSAGE))


def details(echo):
    """A `google.rpc.Status` with a detail of 256 different bytes comes as it was sent."""
    detail = field(1, b"type.example.com/interop.Bytes") + field(2, bytes(range(256)))
    status = b"\x08\x09" + field(2, MESSAGE.encode()) + field(3, detail)
    request = {"code": 9, "message": MESSAGE, "details": base64.b64encode(status).decode()}
    error = failure(lambda: echo.fail(json.dumps(request).encode(), timeout=CALL_SECONDS))
    expect((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, MESSAGE))
    values = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    expect(values, [status])


def large(echo):
    """As much as grpcio and grpc-go receive by default."""
    payload = bytes(range(256)) * (4 * MIB // 256)
    expect(echo.unary(payload, timeout=CALL_SECONDS) == payload, True, "4 MiB came back")


CHECKS = [
    unary, client_stream, server_stream, bidi_stream, deadline, cancel, metadata, gzip, statuses, details, large,
]


def field(number, data):
    """A length-delimited field of a protobuf message."""
    length, size = len(data), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def failure(call):
    try:
        answer = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"answered {answer!r:.200} where an error was due")


def expect(found, wanted, what=""):
    if found != wanted:
        raise AssertionError(f"{what + ': ' if what else ''}{found!r:.600} where {wanted!r:.600} was due")


def open_channel(target, options, ca):
    if not ca:
        return grpc.insecure_channel(target, options)
    with open(ca, "rb") as file:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(file.read()), options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True, help="host:port")
    parser.add_argument("--authority", help="what the calls are addressed to; default: the target")
    parser.add_argument("--ca", help="speak TLS of one's own, and trust this certificate")
    parser.add_argument("--checks", default="all", help="names with commas: " + ", ".join(c.__name__ for c in CHECKS))
    args = parser.parse_args()
    names = args.checks.split(",")
    chosen = [check for check in CHECKS if args.checks == "all" or check.__name__ in names]
    unknown = set(names) - {check.__name__ for check in CHECKS} - {"all"}
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    options = [("grpc.default_authority", args.authority)] if args.authority else []
    failed = 0
    with open_channel(args.target, options, args.ca) as channel:
        echo = Echo(channel)
        for check in chosen:
            began = time.monotonic()
            line = {"check": check.__name__, "ok": True}
            try:
                check(echo)
            except Exception as fault:
                failed += 1
                line |= {"ok": False, "why": str(fault) or repr(fault)}
                traceback.print_exc()
            line["ms"] = round((time.monotonic() - began) * 1000)
            print(json.dumps(line), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
