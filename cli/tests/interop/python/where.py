"""A backend that says who it is: `interop.Where/ANY` answers with JSON, `{"id", "caller"}`.

    where.py --id v1 --listen 127.0.0.1:0
    where.py --id v1 --listen 127.0.0.1:50051 --xds

Prints one line of JSON with the address it is bound to, then serves until it is killed. With `--xds` it is a proxyless
server: a control plane tells it whom to let in, and where its certificate is (`GRPC_XDS_BOOTSTRAP`). `caller` is the SPIFFE id
that the caller has proved.
"""

import argparse
import concurrent.futures
import json

import grpc


class Where(grpc.GenericRpcHandler):
    def __init__(self, own):
        self.own = own

    def service(self, details):
        if details.method.startswith("/interop.Where/"):
            return grpc.unary_unary_rpc_method_handler(self.answer)
        return None

    def answer(self, request, context):
        names = context.auth_context().get("peer_spiffe_id", [])
        caller = names[0].decode() if names else None
        return json.dumps({"id": self.own, "caller": caller}).encode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--xds", action="store_true")
    args = parser.parse_args()
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=16)
    # Without SO_REUSEPORT a port that is taken is a failure, and not half of the connections.
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)], xds=args.xds)
    server.add_generic_rpc_handlers((Where(args.id),))
    if args.xds:
        fallback = grpc.insecure_server_credentials()
        # It is bound once its listener is known, and tells no port before that.
        server.add_secure_port(args.listen, grpc.xds_server_credentials(fallback))
        listen = args.listen
    else:
        listen = f"{args.listen.rpartition(':')[0]}:{server.add_insecure_port(args.listen)}"
    server.start()
    print(json.dumps({"listen": listen}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
