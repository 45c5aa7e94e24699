"""The server of the interop suite in Python: grpcio, as an application would use it.

    server.py --listen 127.0.0.1:0

Prints one line of JSON with the address it is bound to, then serves until it is killed. Messages are bytes;
../main.rs tells what each method of `interop.Echo` does.
"""

import argparse
import base64
import concurrent.futures
import json
import threading

import grpc

# A call that hangs gives up after this, so that a lost cancel is a failure and no leak.
HANG_SECONDS = 20
# How long `Seen` waits for the end of the call that it is asked for.
SEEN_SECONDS = 5

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Hung:
    """What the server saw of one call that hangs."""

    def __init__(self, context):
        self.remaining = context.time_remaining()
        self.ended = threading.Event()
        # Runs when the call is over for any reason; none but a cancel or a deadline ends it this early.
        if not context.add_callback(self.ended.set):
            self.ended.set()


class Echo:
    def __init__(self):
        self.hung = {}
        self.changed = threading.Condition()

    def unary(self, request, context):
        """Echoes the message, and metadata whose key begins with `echo-`, in headers and trailers."""
        echoed = tuple((key, value) for key, value in context.invocation_metadata() if key.startswith("echo-"))
        context.send_initial_metadata(echoed)
        context.set_trailing_metadata(echoed)
        return request

    def zip(self, request, context):
        """Echoes the message, compressed."""
        context.set_compression(grpc.Compression.Gzip)
        return request

    def collect(self, requests, context):
        """All messages of a client stream, put together."""
        return b"".join(requests)

    def expand(self, request, context):
        """As many messages as the request says, each of as many bytes, each its own number throughout."""
        spec = json.loads(request)
        for number in range(spec["count"]):
            yield bytes([number % 256]) * spec["bytes"]

    def chat(self, requests, context):
        """Echoes each message as it comes."""
        yield from requests

    def fail(self, request, context):
        """Ends with the status that the request describes."""
        spec = json.loads(request)
        if spec.get("details"):
            details = base64.b64decode(spec["details"])
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        if spec["code"]:
            context.abort(CODES[spec["code"]], spec["message"])
        return b""

    def hang(self, request, context):
        """Never answers; notes what it is told. The request is the name that `Seen` asks for."""
        self.note(request, context).ended.wait(HANG_SECONDS)
        return b""

    def hang_stream(self, requests, context):
        """The same as a stream, which answers its first message, the name, and nothing more."""
        name = next(requests)
        hung = self.note(name, context)
        yield name
        hung.ended.wait(HANG_SECONDS)

    def seen(self, request, context):
        """What was seen of the hanging call of this name, once it is over, or now after five seconds."""
        with self.changed:
            self.changed.wait_for(lambda: request in self.hung, SEEN_SECONDS)
            hung = self.hung.get(request)
        ended = hung is not None and hung.ended.wait(SEEN_SECONDS)
        remaining = None if hung is None or hung.remaining is None else hung.remaining * 1000
        return json.dumps({"began": hung is not None, "ended": ended, "remaining_ms": remaining}).encode()

    def note(self, name, context):
        hung = Hung(context)
        with self.changed:
            self.hung[name] = hung
            self.changed.notify_all()
        return hung


def handlers(echo):
    # Without serializers, messages are the bytes that they are.
    return grpc.method_handlers_generic_handler(
        "interop.Echo",
        {
            "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
            "Zip": grpc.unary_unary_rpc_method_handler(echo.zip),
            "Collect": grpc.stream_unary_rpc_method_handler(echo.collect),
            "Expand": grpc.unary_stream_rpc_method_handler(echo.expand),
            "Chat": grpc.stream_stream_rpc_method_handler(echo.chat),
            "Fail": grpc.unary_unary_rpc_method_handler(echo.fail),
            "Hang": grpc.unary_unary_rpc_method_handler(echo.hang),
            "HangStream": grpc.stream_stream_rpc_method_handler(echo.hang_stream),
            "Seen": grpc.unary_unary_rpc_method_handler(echo.seen),
        },
    )


def read(file):
    with open(file, "rb") as opened:
        return opened.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 lets the kernel choose")
    parser.add_argument("--cert", help="serve by TLS with this certificate")
    parser.add_argument("--key", help="its private key")
    args = parser.parse_args()
    listen = args.listen
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((handlers(Echo()),))
    if args.cert:
        identity = [(read(args.key), read(args.cert))]
        port = server.add_secure_port(listen, grpc.ssl_server_credentials(identity))
    else:
        port = server.add_insecure_port(listen)
    server.start()
    print(json.dumps({"listen": f"{listen.rpartition(':')[0]}:{port}"}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
