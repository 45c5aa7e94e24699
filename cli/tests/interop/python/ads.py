"""A control plane that knows nothing of Outrigger: xDS v3 with grpcio and the protos as PyPI has them.

    ads.py --listen 127.0.0.1:0 --resources FILE [--cert tls.crt --key tls.key --ca ca.crt]

FILE is a list of resources in the JSON of protobuf, each with "@type"; "_name" is its name where the resource itself
has another. It is read again when it changes. The first line says where it listens; then each request, and each answer,
is a line: {"what": "ask" | "ack" | "nack" | "answer", "stream": N, "protocol": ..., "type": ..., ...}.
"""

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from google.protobuf import any_pb2, json_format

LOOK_EVERY = 0.05
# The order in which an answer about one thing may rest on an answer about another.
ORDER = ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]


def load_protos():
    """An Any of JSON can be read only if the module of its type was imported."""
    for root in ("envoy.config", "envoy.extensions", "xds", "udpa"):
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, root + ".", onerror=lambda _: None):
            if module.name.endswith("_pb2"):
                try:
                    importlib.import_module(module.name)
                except Exception:  # Some name protos of others, which nobody needs here.
                    pass


def short(type_url):
    return type_url.rsplit(".", 1)[-1]


class Shelf:
    """What FILE says: {type_url: {name: (version, Any)}}, and those who want to know of changes."""

    def __init__(self, path):
        self.path, self.stamp, self.resources, self.version = path, None, {}, 0
        self.lock, self.readers = threading.Lock(), []

    def read(self):
        seen = os.stat(self.path)
        if self.stamp == (seen.st_mtime_ns, seen.st_ino):
            return
        resources = {}
        with open(self.path) as file:
            for resource in json.load(file):
                name = resource.pop("_name", None) or resource.get("name") or resource.get("clusterName")
                message = any_pb2.Any()
                json_format.ParseDict(resource, message)
                version = hashlib.sha256(message.value).hexdigest()[:12]
                resources.setdefault(message.type_url, {})[name] = (version, message)
        with self.lock:
            self.stamp, self.resources = (seen.st_mtime_ns, seen.st_ino), resources
            self.version += 1
            for reader in self.readers:
                reader.put(("changed", None))

    def follow(self):
        while True:
            time.sleep(LOOK_EVERY)
            try:
                self.read()
            except Exception as fault:  # Half a file, most likely: the next look sees it whole.
                print(f"{self.path}: {fault}", file=sys.stderr)


class Told:
    """What one stream has asked for of one type, and was told."""

    def __init__(self):
        self.all, self.names, self.sent, self.nonce = False, set(), {}, ""


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, shelf, say):
        self.shelf, self.say, self.streams, self.lock = shelf, say, 0, threading.Lock()

    def StreamAggregatedResources(self, requests, context):
        yield from self.serve(requests, context, Sotw)

    def DeltaAggregatedResources(self, requests, context):
        yield from self.serve(requests, context, Delta)

    def serve(self, requests, context, protocol):
        with self.lock:
            number, self.streams = self.streams, self.streams + 1
        events = queue.Queue()

        def read():
            try:
                for request in requests:
                    events.put(("asked", request))
            except grpc.RpcError:
                pass
            events.put(("over", None))

        with self.shelf.lock:
            self.shelf.readers.append(events)
        context.add_callback(lambda: events.put(("over", None)))
        threading.Thread(target=read, daemon=True).start()
        stream = protocol(self.shelf, lambda **line: self.say(stream=number, protocol=protocol.NAME, **line))
        try:
            while True:
                what, request = events.get()
                if what == "over":
                    return
                yield from stream.asked(request) if what == "asked" else stream.changed()
        finally:
            with self.shelf.lock:
                self.shelf.readers.remove(events)


class Stream:
    def __init__(self, shelf, say):
        self.shelf, self.say, self.told, self.nonces = shelf, say, {}, 0

    def here(self, type_url):
        """The resources of a type that this stream has asked for."""
        told, there = self.told[type_url], self.shelf.resources.get(type_url, {})
        return {name: one for name, one in there.items() if told.all or name in told.names}

    def next_nonce(self, type_url):
        self.nonces += 1
        self.told[type_url].nonce = str(self.nonces)
        return str(self.nonces)

    def changed(self):
        known = [url for url in self.told if short(url) in ORDER]
        for type_url in sorted(known, key=lambda url: ORDER.index(short(url))):
            yield from self.tell(type_url)

    def note(self, request, **more):
        what = "ask" if not request.response_nonce else "ack"
        line = dict(type=short(request.type_url), nonce=request.response_nonce, **more)
        if request.HasField("error_detail"):
            what, line["why"] = "nack", request.error_detail.message
        if request.HasField("node"):
            line.update(node=request.node.id, agent=request.node.user_agent_name)
        self.say(what=what, **line)


class Sotw(Stream):
    NAME = "sotw"

    def asked(self, request):
        names = list(request.resource_names)
        self.note(request, names=names, version=request.version_info)
        known = self.told.get(request.type_url)
        if known and request.response_nonce and request.response_nonce != known.nonce:
            return
        told = self.told.setdefault(request.type_url, Told())
        before = (told.all, told.names)
        told.all, told.names = "*" in names or (not known and not names), set(names) - {"*"}
        if not known or before != (told.all, told.names):
            yield from self.tell(request.type_url, force=True)

    def tell(self, type_url, force=False):
        told, here = self.told[type_url], self.here(type_url)
        versions = {name: version for name, (version, _) in here.items()}
        if versions == told.sent and not force:
            return
        told.sent = versions
        if not here and not told.all:
            return
        nonce = self.next_nonce(type_url)
        self.say(what="answer", type=short(type_url), nonce=nonce, names=sorted(here))
        yield discovery.DiscoveryResponse(
            version_info=str(self.shelf.version),
            type_url=type_url,
            nonce=nonce,
            resources=[message for _, message in here.values()],
        )


class Delta(Stream):
    NAME = "delta"

    def asked(self, request):
        subscribe, unsubscribe = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        initial = dict(request.initial_resource_versions)
        self.note(request, names=sorted(subscribe), gone=sorted(unsubscribe), initial=initial)
        first = request.type_url not in self.told
        told = self.told.setdefault(request.type_url, Told())
        if first:
            told.sent = initial
            told.all = not subscribe
        told.all = (told.all or "*" in subscribe) and "*" not in unsubscribe
        told.names = (told.names | subscribe - {"*"}) - unsubscribe
        for name in unsubscribe:
            told.sent.pop(name, None)
        if first or subscribe or unsubscribe:
            there = self.shelf.resources.get(request.type_url, {})
            missing = [name for name in subscribe - {"*"} if name not in there]
            yield from self.tell(request.type_url, missing, first)

    def tell(self, type_url, missing=(), force=False):
        told, here = self.told[type_url], self.here(type_url)
        changed = {name: one for name, one in here.items() if told.sent.get(name) != one[0]}
        removed = sorted({name for name in told.sent if name not in here} | set(missing))
        if not (changed or removed or force):
            return
        for name in removed:
            told.sent.pop(name, None)
        told.sent.update({name: version for name, (version, _) in changed.items()})
        nonce = self.next_nonce(type_url)
        self.say(what="answer", type=short(type_url), nonce=nonce, names=sorted(changed), removed=removed)
        yield discovery.DeltaDiscoveryResponse(
            system_version_info=str(self.shelf.version),
            type_url=type_url,
            nonce=nonce,
            removed_resources=removed,
            resources=[
                discovery.Resource(name=name, version=version, resource=message)
                for name, (version, message) in changed.items()
            ],
        )


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--resources", required=True)
    parser.add_argument("--cert", help="serve by mTLS with this certificate")
    parser.add_argument("--key", help="its private key")
    parser.add_argument("--ca", help="who vouches for clients")
    arguments = parser.parse_args()
    load_protos()
    shelf = Shelf(arguments.resources)
    shelf.read()
    lock = threading.Lock()

    def say(**line):
        with lock:
            print(json.dumps(line), flush=True)

    server = grpc.server(futures.ThreadPoolExecutor(16))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Ads(shelf, say), server)
    host = arguments.listen.rsplit(":", 1)[0]
    if arguments.cert:
        pair = [(read(arguments.key), read(arguments.cert))]
        credentials = grpc.ssl_server_credentials(pair, read(arguments.ca), True)
        port = server.add_secure_port(arguments.listen, credentials)
    else:
        port = server.add_insecure_port(arguments.listen)
    server.start()
    say(listen=f"{host}:{port}")
    shelf.follow()


main()
