"""A stock client of CSDS: the stub that xds-protos brings, and nothing else.

    csds.py --server 127.0.0.1:15012 [--cert tls.crt --key tls.key --ca ca.crt] [--stream]

Prints one line of JSON: what each client of the control plane holds,
`[{"node", "configs": [{"type", "name", "version", "status", "config_status", "error"}]}]`.
"""

import argparse
import json

import grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

CALL_SECONDS = 15


def read(file):
    with open(file, "rb") as opened:
        return opened.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--ca")
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()
    if args.ca:
        credentials = grpc.ssl_channel_credentials(read(args.ca), read(args.key), read(args.cert))
        channel = grpc.secure_channel(args.server, credentials)
    else:
        channel = grpc.insecure_channel(args.server)
    stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
    request = csds_pb2.ClientStatusRequest()
    if args.stream:
        answer = next(stub.StreamClientStatus(iter([request]), timeout=CALL_SECONDS))
    else:
        answer = stub.FetchClientStatus(request, timeout=CALL_SECONDS)
    told = [
        {
            "node": client.node.id,
            "configs": [
                {
                    "type": held.type_url.rpartition(".")[2],
                    "name": held.name,
                    "version": held.version_info,
                    "status": held.client_status,
                    "config_status": held.config_status,
                    "error": held.error_state.details,
                }
                for held in client.generic_xds_configs
            ],
        }
        for client in answer.config
    ]
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
