"""A client of `interop.Where` that does as it is told, on one channel.

    caller.py --target xds:///payments.shop
    caller.py --target 127.0.0.1:15001 --authority payments.shop

Reads commands from stdin, one JSON object a line, and answers each with one line of JSON:

    {"calls": 100, "method": "Ask", "metadata": {"x-canary": "1"}}
        how they ended: {"ids": {"v1": 90, "v2": 10}, "failed": {"UNAVAILABLE": 1}, "said": ["..."], "shortest_ms": 0.4}
    {"load": "begin"}, {"load": "end"}
        calls `Ask` in between, one after the other, by one thread; the second answers as above
    {"csds": true}
        what the xDS client in this process holds: [{"type", "name", "version", "status", "error"}]

`--xds-credentials` lets the control plane say whether a connection is TLS.
"""

import argparse
import collections
import json
import sys
import threading
import time

import grpc
import grpc.experimental

# A call that takes longer hangs.
CALL_SECONDS = 15
# Different words of failures that are told.
SAID_MAX = 3


class Tally:
    """How calls ended."""

    def __init__(self):
        self.ids = collections.Counter()
        self.failed = collections.Counter()
        self.said = []
        self.callers = set()
        self.shortest = None

    def take(self, call, metadata):
        began = time.monotonic()
        try:
            answer = json.loads(call(b"", timeout=CALL_SECONDS, metadata=metadata))
            self.ids[answer["id"]] += 1
            self.callers.add(answer["caller"] or "")
        except grpc.RpcError as fault:
            self.failed[fault.code().name] += 1
            if fault.details() not in self.said and len(self.said) < SAID_MAX:
                self.said.append(fault.details())
        took = (time.monotonic() - began) * 1000
        self.shortest = took if self.shortest is None else min(took, self.shortest)

    def json(self):
        return {
            "ids": self.ids,
            "failed": self.failed,
            "said": self.said,
            "callers": sorted(self.callers),
            "shortest_ms": self.shortest,
        }


class Load:
    """Calls without a pause until it is told to end."""

    def __init__(self, call):
        self.tally = Tally()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(call,))
        self.thread.start()

    def run(self, call):
        while not self.over.is_set():
            self.tally.take(call, ())

    def end(self):
        self.over.set()
        self.thread.join()
        return self.tally.json()


def csds():
    import grpc_csds
    from envoy.service.status.v3 import csds_pb2

    servicer = grpc_csds.ClientStatusDiscoveryServiceServicer
    answer = servicer.FetchClientStatus(csds_pb2.ClientStatusRequest(), None)
    return [
        {
            "type": held.type_url.rpartition(".")[2],
            "name": held.name,
            "version": held.version_info,
            "status": held.client_status,
            "error": held.error_state.details,
        }
        for config in answer.config
        for held in config.generic_xds_configs
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--authority")
    parser.add_argument("--xds-credentials", action="store_true")
    args = parser.parse_args()
    options = [("grpc.default_authority", args.authority)] if args.authority else []
    # It must look anew at once, so that a test need not wait for a backend that was not there.
    options.append(("grpc.max_reconnect_backoff_ms", 200))
    if args.xds_credentials:
        fallback = grpc.experimental.insecure_channel_credentials()
        channel = grpc.secure_channel(args.target, grpc.xds_channel_credentials(fallback), options)
    else:
        channel = grpc.insecure_channel(args.target, options)

    def call(method):
        return channel.unary_unary(f"/interop.Where/{method}")

    load = None
    for line in sys.stdin:
        command = json.loads(line)
        if "calls" in command:
            tally = Tally()
            metadata = tuple(command.get("metadata", {}).items())
            for _ in range(command["calls"]):
                tally.take(call(command["method"]), metadata)
            answer = tally.json()
        elif command.get("load") == "begin":
            load, answer = Load(call("Ask")), {}
        elif command.get("load") == "end":
            answer = load.end()
        else:
            answer = csds()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
