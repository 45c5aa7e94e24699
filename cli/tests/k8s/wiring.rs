//! The manifests among each other: what one names, another has.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::hardening::config_map_of;
use crate::rendered::{Rendered, list, pod, sidecar, text, title, yaml};
use crate::{ACCOUNTS, files, k8s};

/// The stages of the Containerfile that are shipped, the package and the binary of each.
const IMAGES: [(&str, &str, &str); 3] = [
    ("proxy", "outrigger-proxy", "outrigger-proxy"),
    ("control", "outrigger-control", "outrigger-control"),
    ("store", "outrigger-examples", "outrigger-store"),
];

pub(crate) fn what_a_pod_mounts_is_there_and_can_change_while_it_runs() {
    let rendered = Rendered::get();
    let page = fs::read_to_string(k8s().join("../docs/kubernetes.md")).expect("the page");
    let command =
        page.lines().find(|line| line.starts_with("outrigger certs kubernetes ")).expect("the command");
    let accounts: Vec<&str> = command.split(' ').filter_map(|word| word.strip_prefix("shop/")).collect();
    assert_eq!(accounts, ACCOUNTS, "the tests run what people are told to");
    for deployment in rendered.all("Deployment") {
        let (pod, title) = (pod(deployment), title(deployment));
        let account = text(&pod["serviceAccountName"]);
        rendered.one("ServiceAccount", account);
        assert!(accounts.contains(&account), "{title}: no token is made for {account}");

        let mounts = list(&sidecar(deployment)["volumeMounts"]);
        for mount in mounts {
            // A file that is mounted by itself never changes.
            assert_eq!(mount["subPath"], Value::Null, "{title}: {mount}");
            let named = |volume: &&Value| volume["name"] == mount["name"];
            assert!(list(&pod["volumes"]).iter().any(|volume| named(&volume)), "{title}: {mount}");
        }
        let at = mounts.iter().find(|mount| mount["name"] == "outrigger").expect("the files");
        assert_eq!(at["mountPath"], "/etc/outrigger", "where the sidecar looks by itself");

        let volume = list(&pod["volumes"]).iter().find(|volume| volume["name"] == "outrigger");
        let volume = &volume.unwrap_or_else(|| panic!("{title}: no files"))["projected"];
        // Others of the pod's group may not write, and nobody else may read: a key is among them.
        assert_eq!(volume["defaultMode"], 0o440, "{title}");
        let mut sources = BTreeSet::new();
        for source in list(&volume["sources"]) {
            if source["configMap"].is_object() {
                let name = text(&source["configMap"]["name"]);
                rendered.one("ConfigMap", name);
                sources.insert(name.to_owned());
            } else {
                sources.insert(text(&source["secret"]["name"]).to_owned());
            }
        }
        let own =
            text(&config_map_of(rendered, &format!("sidecar-{account}"))["metadata"]["name"]).to_owned();
        assert_eq!(sources, BTreeSet::from([own, format!("{account}-join")]), "{title}");
    }
}

pub(crate) fn ports_and_names_agree_with_the_files_of_the_sidecars() {
    let rendered = Rendered::get();
    for deployment in rendered.all("Deployment") {
        let (service, title) = (text(&deployment["metadata"]["name"]), title(deployment));
        let file =
            yaml(text(&config_map_of(rendered, &format!("sidecar-{service}"))["data"]["sidecar.yaml"]));
        assert_eq!(file["service"], service);
        assert_eq!(file["namespace"], deployment["metadata"]["namespace"], "{title}");

        let entry = &file["inbound"][0];
        assert_eq!(entry["mtls"], "strict", "{title}");
        assert_eq!(port_named(deployment, "mesh"), port(&entry["listen"]), "{title}");
        assert_eq!(port_named(deployment, "probes"), port(&file["probes"]["listen"]), "{title}");
        let notes = &deployment["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(notes["prometheus.io/scrape"], "true", "{title}");
        assert_eq!(notes["prometheus.io/path"], "/metrics", "{title}");
        assert_eq!(notes["prometheus.io/port"], port(&file["probes"]["listen"]).to_string(), "{title}");

        let app = list(&pod(deployment)["containers"]).iter().find(|app| app["name"] == service);
        let args: Vec<&str> = list(&app.expect("the app")["args"]).iter().map(text).collect();
        let after = |flag: &str| args.iter().position(|arg| *arg == flag).map(|at| args[at + 1]);
        assert_eq!(args[0], service);
        assert_eq!(after("--listen"), Some(text(&entry["app"])), "{title}");
        if let Some(mesh) = after("--mesh") {
            assert_eq!(mesh.strip_prefix("http://"), Some(text(&file["outbound"]["listen"])), "{title}");
        }
        let socket = text(&file["admin"]["socket"]);
        let run =
            list(&sidecar(deployment)["volumeMounts"]).iter().find(|one| one["name"] == "outrigger-run");
        assert!(socket.starts_with(&format!("{}/", text(&run.expect("a place to write")["mountPath"]))));

        for name in [service.to_owned(), format!("{service}-mesh")] {
            let found = rendered.one("Service", &name);
            assert_eq!(found["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"], "{name}");
            assert_eq!(found["spec"]["ports"][0]["targetPort"], "mesh", "{name}");
        }
    }
    endpoints_are_headless_services(rendered);
}

/// Every endpoint of the mesh file is the name of a headless Service, with the port of that Service: where there
/// is no cluster address, nothing translates ports.
fn endpoints_are_headless_services(rendered: &Rendered) {
    let mesh = yaml(text(&Rendered::control().one("ConfigMap", "mesh")["data"]["store.yaml"]));
    let mut seen = BTreeSet::new();
    for service in list(&mesh["services"]) {
        for endpoint in list(&service["endpoints"]) {
            let (host, port) = text(&endpoint["dns"]).rsplit_once(':').expect("name:port");
            let name = host.strip_suffix(".shop.svc.cluster.local.").expect("a name of the cluster");
            let found = rendered.one("Service", name);
            assert_eq!(found["spec"]["clusterIP"], "None", "{name}");
            assert_ne!(found["spec"]["publishNotReadyAddresses"], true, "{name}");
            assert_eq!(found["spec"]["ports"][0]["port"].to_string(), port, "{name}");
            let deployment = rendered.one("Deployment", text(&service["name"]));
            assert_eq!(port_named(deployment, "mesh").to_string(), port, "{name}");
            assert_eq!(found["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"], "{name}");
            seen.insert(text(&service["name"]).to_owned());
        }
    }
    let deployed: BTreeSet<_> =
        rendered.all("Deployment").iter().map(|one| text(&one["metadata"]["name"])).collect();
    assert!(seen.iter().map(String::as_str).eq(deployed), "{seen:?}");
}

pub(crate) fn the_control_plane_is_where_sidecars_look_for_it() {
    let rendered = Rendered::control();
    let deployment = rendered.one("Deployment", "outrigger-control");
    let (pod, namespace) = (pod(deployment), &deployment["metadata"]["namespace"]);
    let file = yaml(text(&config_map_of(rendered, "control")["data"]["control.yaml"]));
    let container = &pod["containers"][0];
    let of = |name: &str| list(&container["ports"]).iter().find(|port| port["name"] == name).cloned();
    let at = |name: &str| of(name).expect("a port of this name")["containerPort"].clone();
    assert_eq!(at("ads"), port(&file["ads"]["listen"]));
    assert_eq!(at("pages"), port(&file["admin"]["listen"]));
    for (probe, path) in
        [("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")]
    {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "pages"}), "{probe}");
    }

    let service = rendered.one("Service", "outrigger-control");
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
    assert_eq!(service["spec"]["ports"], json!([{"name": "ads", "port": at("ads"), "targetPort": "ads"}]));
    let dialled = format!("https://outrigger-control.{}.svc.cluster.local.:{}", text(namespace), at("ads"));
    for deployment in Rendered::get().all("Deployment") {
        let service = text(&deployment["metadata"]["name"]);
        let own = config_map_of(Rendered::get(), &format!("sidecar-{service}"));
        let own = yaml(text(&own["data"]["sidecar.yaml"]));
        assert_eq!(own["mesh"]["control"], json!([dialled]), "{service}");
        let mounts = list(&sidecar(deployment)["volumeMounts"]);
        let writable =
            mounts.iter().find(|mount| mount["name"] == "outrigger-run").expect("a place to write");
        assert!(text(&own["mesh"]["cache"]).starts_with(text(&writable["mountPath"])), "{service}");
        in_memory(deployment, text(&own["identity"]["cache"]));
    }

    let mounts: Vec<_> = list(&container["volumeMounts"]).iter().map(|mount| &mount["mountPath"]).collect();
    let mesh = text(&file["mesh"]).trim_end_matches('/');
    let ca = text(&file["ca"]["folder"]);
    assert_eq!(mounts, ["/etc/outrigger", mesh, ca], "what it reads, and where it looks for it");
    let proved: Vec<&str> = list(&file["ca"]["names"]).iter().map(text).collect();
    let (host, _) = dialled.trim_start_matches("https://").rsplit_once(".:").expect("a name and a port");
    assert!(proved.contains(&host), "its certificate has the name that sidecars dial: {proved:?}");
    let secret = &list(&pod["volumes"])[2]["projected"];
    assert_eq!(secret["sources"], json!([{"secret": {"name": "outrigger-ca"}}]));
    assert_eq!(secret["defaultMode"], 0o440, "keys are for nobody else");
    // The mesh's name has no hash: a change of it must not replace the pods, since it is followed.
    assert_eq!(list(&pod["volumes"])[1]["configMap"]["name"], "mesh");
}

pub(crate) fn the_files_in_the_config_maps_pass_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut written = Vec::new();
    let maps = [Rendered::get(), Rendered::control()].map(|rendered| rendered.all("ConfigMap"));
    for map in maps.into_iter().flatten() {
        for (name, content) in map["data"].as_object().expect("files") {
            let file = folder.path().join(format!("{}-{name}", text(&map["metadata"]["name"])));
            fs::write(&file, text(content)).expect("a file");
            written.push(file);
        }
    }
    assert_eq!(written.len(), 7);
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger")).arg("check").args(&written).output();
    let output = output.expect("our own binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn images_end_from_scratch_with_the_binaries_that_pods_call() {
    let containerfile = fs::read_to_string(k8s().join("Containerfile")).expect("the Containerfile");
    let build = containerfile.split("\nFROM ").nth(1).expect("the stage that builds");
    assert!(build.contains("cargo build --locked --profile lean"), "{build}");
    for (stage, package, binary) in IMAGES {
        let text =
            containerfile.split("\nFROM ").find(|text| text.starts_with(&format!("scratch AS {stage}\n")));
        let text = text.unwrap_or_else(|| panic!("no stage {stage} that is FROM scratch"));
        assert!(build.contains(&format!("--package {package}")), "{package} is not built");
        assert!(text.contains(&format!("COPY --from=build /out/{binary} /{binary}\n")), "{text}");
        assert!(text.contains(&format!("ENTRYPOINT [\"/{binary}\"]")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("USER ") && !line.contains(" 0")), "{text}");
    }
    for deployment in Rendered::get().all("Deployment") {
        assert!(text(&sidecar(deployment)["image"]).starts_with("outrigger-proxy:"));
        assert!(text(&pod(deployment)["containers"][0]["image"]).starts_with("outrigger-store:"));
        assert_eq!(sidecar(deployment)["command"], Value::Null, "the image knows its program");
        let stop = &sidecar(deployment)["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(stop, &json!(["/outrigger-proxy", "drain"]));
    }
    let control = pod(Rendered::control().one("Deployment", "outrigger-control"));
    assert!(text(&control["containers"][0]["image"]).starts_with("outrigger-control:"));
    // Nothing is fetched from elsewhere when it is rendered.
    for file in files(&k8s()).into_iter().filter(|file| file.ends_with("kustomization.yaml")) {
        let text = fs::read_to_string(&file).expect("text");
        assert!(!text.contains("https://") && !text.contains("git"), "{}", file.display());
    }
}

/// A file of the sidecar's lies on memory, and in a volume of its own: a key never comes to a disk of the node.
fn in_memory(deployment: &Value, file: &str) {
    let mounts = list(&sidecar(deployment)["volumeMounts"]);
    let mount = mounts.iter().find(|mount| file.starts_with(&format!("{}/", text(&mount["mountPath"]))));
    let mount = mount.unwrap_or_else(|| panic!("{file} is on no volume"));
    let volumes = list(&pod(deployment)["volumes"]);
    let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("the volume");
    assert_eq!(volume["emptyDir"]["medium"], "Memory", "{volume}");
    assert!(volume["emptyDir"]["sizeLimit"].is_string(), "{volume}");
    let apps = list(&pod(deployment)["containers"]);
    let shared =
        apps.iter().flat_map(|app| list(&app["volumeMounts"])).any(|one| one["name"] == mount["name"]);
    assert!(!shared, "the app sees its sidecar's key");
}

/// The port of a sidecar's container, by its name.
fn port_named(deployment: &Value, name: &str) -> u16 {
    let ports = list(&sidecar(deployment)["ports"]);
    let found = ports.iter().find(|port| port["name"] == name).expect("a port of this name");
    u16::try_from(found["containerPort"].as_u64().expect("a number")).expect("a port")
}

/// The port of an address in a file.
fn port(address: &Value) -> u16 {
    text(address).parse::<SocketAddr>().expect("an address").port()
}
