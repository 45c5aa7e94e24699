//! Every fenced command of the documentation, and what becomes of it.

/// What becomes of a fenced command, named by its file and its first line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum How {
    /// Runs to a good end; a `text` block behind it is what it prints.
    Run,
    /// Runs until it is stopped, and prints a line once it is there.
    Serve,
    /// Is not run here, for this reason.
    Elsewhere(&'static str),
}

const NETNS: How = How::Elsewhere("the tests `netns` run it, in a network namespace of their own");

const PEOPLE: How = How::Elsewhere("the tests `people` run it, and hold what it prints against the page");

/// `(page, first line, how)`.
pub(crate) const COMMANDS: [(&str, &str, How); 31] = [
    (
        "README.md",
        "cargo run --release -- demo",
        How::Elsewhere("the gate runs it, and demo.rs without cargo"),
    ),
    (
        "README.md",
        "cargo run --release -- demo --chaos",
        How::Elsewhere("the gate runs it, and chaos.rs without cargo"),
    ),
    ("README.md", "cargo test --workspace", How::Elsewhere("this is one of its tests")),
    (
        "README.md",
        "cargo build --release",
        How::Elsewhere("the binary that cargo built for this test is used"),
    ),
    ("README.md", "mkdir -p by-hand/mesh", How::Run),
    ("README.md", "outrigger certs root ca", How::Run),
    ("README.md", "outrigger check control.yaml mesh payments.yaml orders.yaml", How::Run),
    ("README.md", "outrigger control control.yaml", How::Serve),
    ("README.md", "outrigger store payments --listen 127.0.0.1:50051", How::Serve),
    ("README.md", "outrigger proxy payments.yaml", How::Serve),
    ("README.md", "outrigger proxy orders.yaml", How::Serve),
    ("README.md", "outrigger store charge --mesh http://127.0.0.1:15001", How::Run),
    ("docs/operations.md", "outrigger-proxy sidecar.yaml", How::Serve),
    ("docs/operations.md", "outrigger check sidecar.yaml mesh.yaml", How::Run),
    ("docs/operations.md", "outrigger-proxy drain sidecar.yaml", How::Run),
    (
        "docs/kubernetes.md",
        "docker build -f k8s/Containerfile --target control -t outrigger-control:0.1.0 .",
        How::Elsewhere("it needs an engine for containers"),
    ),
    (
        "docs/kubernetes.md",
        "docker build -f k8s/Containerfile --target init -t outrigger-init:0.1.0 .",
        How::Elsewhere("it needs an engine for containers"),
    ),
    (
        "docs/kubernetes.md",
        "outrigger certs kubernetes authority --new shop/users shop/products shop/payments shop/orders shop/storefront > secrets.yaml",
        How::Elsewhere("the tests of k8s run it"),
    ),
    (
        "docs/kubernetes.md",
        "kubectl apply -f k8s/control/namespace.yaml -f k8s/store/namespace.yaml",
        How::Elsewhere("it needs a cluster; the tests of k8s render and run what it applies"),
    ),
    (
        "docs/kubernetes.md",
        "kubectl -n shop port-forward deployment/orders 15020 &",
        How::Elsewhere("it needs a cluster"),
    ),
    (
        "docs/kubernetes.md",
        "kubectl -n outrigger port-forward deployment/outrigger-control 15014 &",
        How::Elsewhere("it needs a cluster"),
    ),
    (
        "docs/explain.md",
        "outrigger explain --file mesh.yaml --from orders --authority payments --method shop.PaymentService/Charge",
        PEOPLE,
    ),
    ("docs/explain.md", "outrigger diff mesh.yaml new.yaml", PEOPLE),
    (
        "docs/explain.md",
        "outrigger status --control 127.0.0.1:15014",
        How::Elsewhere("it needs a control plane"),
    ),
    ("docs/redirection.md", "outrigger init sidecar.yaml", NETNS),
    ("docs/redirection.md", "outrigger init sidecar.yaml --print", NETNS),
    ("docs/redirection.md", "outrigger init --remove", NETNS),
    ("CONTRIBUTING.md", ".ci/run", How::Elsewhere("it runs this test")),
    (
        "CONTRIBUTING.md",
        "cargo test -p outrigger-proxy --test drain",
        How::Elsewhere("the gate runs every test"),
    ),
    ("CONTRIBUTING.md", "cargo fmt --all", How::Elsewhere("the gate runs both")),
    (
        "bench/README.md",
        "cargo build --release -p outrigger-proxy -p bench",
        How::Elsewhere("it takes minutes"),
    ),
];
