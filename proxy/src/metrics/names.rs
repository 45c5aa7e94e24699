//! Every metric name and its help, in one place. Users build dashboards on these: they are part of the API.

/// `(name, help)` of a family.
pub(crate) type Name = (&'static str, &'static str);

pub(crate) const SERVER: CallNames = CallNames {
    started: ("grpc_server_started_total", "Inbound calls that began."),
    handled: ("grpc_server_handled_total", "Inbound calls that ended, by status code."),
    received: ("grpc_server_msg_received_total", "Messages received from callers, counted as they pass."),
    sent: ("grpc_server_msg_sent_total", "Messages sent to callers, counted as they pass."),
    seconds: ("grpc_server_handling_seconds", "How long inbound calls took, in seconds."),
};
pub(crate) const CLIENT: CallNames = CallNames {
    started: ("grpc_client_started_total", "Outbound calls that the app began."),
    handled: ("grpc_client_handled_total", "Outbound calls that ended, by the status code the app saw."),
    received: ("grpc_client_msg_received_total", "Messages that the app received, counted as they pass."),
    sent: ("grpc_client_msg_sent_total", "Messages that the app sent, counted as they pass."),
    seconds: ("grpc_client_handling_seconds", "How long outbound calls took as the app saw it, in seconds."),
};

/// The families of one direction.
pub(crate) struct CallNames {
    pub(crate) started: Name,
    pub(crate) handled: Name,
    pub(crate) received: Name,
    pub(crate) sent: Name,
    pub(crate) seconds: Name,
}

pub(crate) const ATTEMPTS: Name =
    ("outrigger_attempts_total", "Attempts to place a call on an endpoint, by service and outcome.");
pub(crate) const REPEATS: Name =
    ("outrigger_repeats_total", "Attempts after the first one of a call, by service and cause.");
pub(crate) const REPEATED_CALLS: Name = (
    "outrigger_repeated_calls_total",
    "Calls that went out more than once, by service and end: saved (OK) or failed.",
);
pub(crate) const REPLAY_BYTES: Name =
    ("outrigger_replay_bytes", "Bytes of requests that are kept for another attempt.");
pub(crate) const EJECTIONS: Name =
    ("outrigger_ejections_total", "Endpoints that were ejected as outliers, by service and reason.");
pub(crate) const EJECTED: Name =
    ("outrigger_ejected_endpoints", "Endpoints that are ejected as outliers now, by service.");
pub(crate) const PANIC_PICKS: Name = (
    "outrigger_panic_picks_total",
    "Endpoints picked from all of a service's because too few were fit, by service.",
);
pub(crate) const CONNECTIONS: Name =
    ("outrigger_connections", "Open connections, by direction and security (mtls or plain).");
pub(crate) const CONNECTIONS_TOTAL: Name =
    ("outrigger_connections_total", "Connections that were opened, by direction and security.");
pub(crate) const CALLS_IN_FLIGHT: Name =
    ("outrigger_calls_in_flight", "Calls that have begun and not ended, by direction.");
pub(crate) const REFUSED: Name =
    ("outrigger_refused_total", "What a limit turned away, by the limit's name in the documentation.");
pub(crate) const FAILED: Name =
    ("outrigger_failures_total", "Calls that this sidecar itself ended, by the reason in ErrorInfo.");
pub(crate) const FAULTS_INJECTED: Name =
    ("outrigger_faults_injected_total", "Faults on purpose that took effect, by kind.");
pub(crate) const AUTHORIZATION: Name = (
    "outrigger_authorization_total",
    "Inbound calls that rules decided or tell of, by service, decision (allowed, denied, audited) and rule.",
);
pub(crate) const CALLS_REVOKED: Name = (
    "outrigger_calls_revoked_total",
    "Inbound calls that lost their leave while they were under way, by what changed (policy or trust).",
);
pub(crate) const CONNECTIONS_DISTRUSTED: Name = (
    "outrigger_connections_distrusted_total",
    "Inbound connections that ended because their caller's certificate no longer leads to a trusted root.",
);
pub(crate) const HANDSHAKES: Name =
    ("outrigger_handshake_failures_total", "Connections that were closed before HTTP/2 began, by reason.");
pub(crate) const TUNNELS: Name =
    ("outrigger_tunnels", "Open connections whose bytes pass as they are, by direction.");
pub(crate) const TUNNELS_TOTAL: Name =
    ("outrigger_tunnels_total", "Connections whose bytes passed as they are, by direction.");
pub(crate) const TUNNEL_BYTES: Name = (
    "outrigger_tunnel_bytes_total",
    "Bytes in tunnels, by direction and way: received from who connected, or sent to it.",
);
pub(crate) const HTTP_REQUESTS: Name = (
    "outrigger_http_requests_total",
    "HTTP/2 requests that were not gRPC, by direction and class of the status.",
);
pub(crate) const CONNECT_FAILURES: Name =
    ("outrigger_connect_failures_total", "Connections to endpoints that could not be opened.");
pub(crate) const CONNECTIONS_SUSPECTED: Name = (
    "outrigger_connections_suspected_total",
    "Connections to endpoints that got no more calls, because one ran out of time while nothing came in.",
);
pub(crate) const FLUSH_RESETS: Name = (
    "outrigger_flush_resets_total",
    "Streams reset with CANCEL because their last frames could not be flushed within a second.",
);
pub(crate) const SPANS_EXPORTED: Name = ("outrigger_spans_exported_total", "Spans that a collector took.");
pub(crate) const SPANS_DROPPED: Name = ("outrigger_spans_dropped_total", "Spans that were lost, by reason.");
pub(crate) const LOG_LINES: Name =
    ("outrigger_log_lines_total", "Lines of the access log that were written.");
pub(crate) const LOG_DROPPED: Name =
    ("outrigger_log_dropped_total", "Lines of the access log that were lost.");
pub(crate) const HEALTH_CHECKS: Name =
    ("outrigger_health_checks_total", "Checks of endpoints that have ended, by service and result.");
pub(crate) const ENDPOINTS_UNHEALTHY: Name =
    ("outrigger_endpoints_unhealthy", "Endpoints that are unhealthy now by their checks, by service.");
pub(crate) const CERTIFICATE_EXPIRY: Name = (
    "outrigger_certificate_expiry_timestamp_seconds",
    "When our own certificate expires, and whoever vouches for it, in seconds since the Unix epoch, by certificate.",
);
pub(crate) const IDENTITY_STATE: Name =
    ("outrigger_identity_state", "How our own identity stands: 1 for the state that it is in, by state.");
pub(crate) const IDENTITY_RENEWALS: Name =
    ("outrigger_identity_renewals_total", "Certificates that came from whoever issues them and were taken.");
pub(crate) const IDENTITY_FAILURES: Name =
    ("outrigger_identity_failures_total", "Attempts to get a certificate that failed, by reason.");
pub(crate) const TRUST_CHANGES: Name = (
    "outrigger_trust_changes_total",
    "Times that the roots we believe have changed, where others say which they are.",
);
pub(crate) const TRUST_FAILURES: Name = (
    "outrigger_trust_failures_total",
    "Roots that were refused, and ends of the stream that tells them, by reason.",
);
pub(crate) const CONFIG_LOADED: Name = (
    "outrigger_config_loaded_total",
    "Configurations that were put in force, the first one included, by source.",
);
pub(crate) const CONFIG_REJECTED: Name =
    ("outrigger_config_rejected_total", "Changes of the configuration that were turned down, by source.");
pub(crate) const CONFIG_SUCCESS: Name = (
    "outrigger_config_last_success_timestamp_seconds",
    "When the files last said what is in force, after a change, in seconds since the Unix epoch, by source.",
);
pub(crate) const ON_DEMAND: Name = (
    "outrigger_on_demand_total",
    "Questions to the control plane for hosts that calls go to and no service has yet, by answer.",
);
pub(crate) const HELD_BACK: Name = (
    "outrigger_held_back_clusters",
    "Clusters that keep their endpoints though the control plane says they have none.",
);
pub(crate) const HELD_BACK_TOTAL: Name =
    ("outrigger_held_back_total", "How often the endpoints of a cluster were held back.");
pub(crate) const CACHE_WRITTEN: Name = (
    "outrigger_mesh_cache_timestamp_seconds",
    "When the mesh on disk was last what the control plane says, in seconds since the Unix epoch; 0: never.",
);
pub(crate) const CACHE_WRITES: Name =
    ("outrigger_mesh_cache_writes_total", "How often the mesh was written to disk.");
pub(crate) const CACHE_FAILURES: Name =
    ("outrigger_mesh_cache_failures_total", "How often the mesh could not be written to disk.");
pub(crate) const CONTROL_CONNECTED: Name =
    ("outrigger_control_connected", "1 while a control plane is connected and has answered.");
pub(crate) const CONTROL_CONNECTIONS: Name =
    ("outrigger_control_connections_total", "Connections over which a control plane has answered.");
pub(crate) const CONTROL_LOSSES: Name = (
    "outrigger_control_losses_total",
    "Connections to a control plane that ended, and attempts in vain, by reason.",
);
pub(crate) const CONTROL_ANSWERS: Name = (
    "outrigger_control_answers_total",
    "Answers of a control plane, by type and by whether all of the answer was accepted.",
);
pub(crate) const CONTROL_REFUSED: Name =
    ("outrigger_control_refused_resources", "Resources that cannot be honoured as they came last.");
pub(crate) const CONTROL_UNASKED: Name =
    ("outrigger_control_unasked_total", "Answers and resources that nobody had asked for.");
pub(crate) const CONTROL_BYTES: Name =
    ("outrigger_control_received_bytes_total", "Bytes of answers of a control plane.");
pub(crate) const CONTROL_PACED: Name = (
    "outrigger_control_paced_total",
    "How often the next answer was left unread for a while because there were too many.",
);
pub(crate) const CONTROL_HEARD: Name = (
    "outrigger_control_last_answer_timestamp_seconds",
    "When a control plane last answered, in seconds since the Unix epoch; 0: never.",
);
pub(crate) const DNS_AGE: Name = (
    "outrigger_dns_age_seconds",
    "How old the last good answer is for a name that an endpoint has, in seconds.",
);
pub(crate) const DNS_FAILURES: Name =
    ("outrigger_dns_failures_total", "Questions for a name that an endpoint has which came to nothing.");
pub(crate) const WORKERS: Name = ("outrigger_workers", "Data-plane worker threads.");
pub(crate) const INFO: Name = ("outrigger_info", "Always 1; the labels say what is running.");
pub(crate) const DRAINING: Name = ("outrigger_draining", "1 once the sidecar has begun to drain.");
pub(crate) const RESIDENT: Name = ("process_resident_memory_bytes", "Resident memory, in bytes.");
pub(crate) const CPU: Name = ("process_cpu_seconds_total", "User and system CPU time, in seconds.");
pub(crate) const START: Name =
    ("process_start_time_seconds", "When the process started, in seconds since the Unix epoch.");
