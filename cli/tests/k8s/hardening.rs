//! Each pod by itself: what its containers may do, and the order in which they come and go.

use serde_json::{Value, json};

use crate::rendered::{Rendered, list, pod, sidecar, text, title, yaml};

/// What the sidecar may need from its deadline to its exit, in seconds.
const FORCED_END: u64 = 2;

/// How long an app of the store may finish its calls after SIGTERM, in seconds.
const APP_FINISH: u64 = examples::serve::FINISH_WAIT.as_secs();

pub(crate) fn every_container_is_as_small_a_target_as_it_can_be() {
    let both = [(Rendered::get(), "shop"), (Rendered::control(), "outrigger")];
    for (rendered, namespace) in both {
        let namespace = rendered.one("Namespace", namespace);
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    }
    for deployment in both.iter().flat_map(|(rendered, _)| rendered.all("Deployment")) {
        let (pod, title) = (pod(deployment), title(deployment));
        assert_eq!(pod["automountServiceAccountToken"], false, "{title}");
        for host in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert_eq!(pod[host], Value::Null, "{title}: {host}");
        }
        for volume in list(&pod["volumes"]) {
            let kind = volume.as_object().expect("a volume").keys().find(|key| *key != "name");
            assert!(
                ["projected", "configMap", "emptyDir"].contains(&kind.expect("a kind").as_str()),
                "{title}: {volume}"
            );
        }
        let mut users = Vec::new();
        for container in containers(pod) {
            let (name, own) = (text(&container["name"]), &container["securityContext"]);
            let setting =
                |key: &str| if own[key].is_null() { &pod["securityContext"][key] } else { &own[key] };
            assert_eq!(setting("runAsNonRoot"), true, "{title}: {name}");
            assert_eq!(setting("seccompProfile"), &json!({"type": "RuntimeDefault"}), "{title}: {name}");
            assert_eq!(own["allowPrivilegeEscalation"], false, "{title}: {name}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{title}: {name}");
            assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{title}: {name}");
            assert_eq!(own["privileged"], Value::Null, "{title}: {name}");
            for amount in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                let amount = container["resources"].pointer(amount);
                assert!(amount.is_some_and(Value::is_string), "{title}: {name} says how much it needs");
            }
            users.push(setting("runAsUser").as_u64().expect("a user"));
        }
        // Whoever can be the sidecar's user can read its key, and with redirection goes around it.
        users.sort_unstable();
        users.dedup();
        assert_eq!(users.len(), containers(pod).count(), "{title}: containers share a user");
    }
}

pub(crate) fn every_pod_has_a_native_sidecar_that_starts_first_and_drains_in_time() {
    let rendered = Rendered::get();
    for deployment in rendered.all("Deployment") {
        let (pod, title, sidecar) = (pod(deployment), title(deployment), sidecar(deployment));
        assert_eq!(sidecar["restartPolicy"], "Always", "{title}: it runs beside the app, not before it");
        for (probe, path) in
            [("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")]
        {
            assert_eq!(
                sidecar[probe]["httpGet"],
                json!({"path": path, "port": "probes"}),
                "{title}: {probe}"
            );
        }
        assert_eq!(sidecar["lifecycle"]["preStop"]["exec"]["command"], json!(["/outrigger-proxy", "drain"]));

        let service = text(&deployment["metadata"]["name"]);
        let file =
            yaml(text(&config_map_of(rendered, &format!("sidecar-{service}"))["data"]["sidecar.yaml"]));
        let seconds = |key: &str| {
            let duration = text(&file["drain"][key]).strip_suffix('s').expect("seconds");
            duration.parse::<u64>().expect("a number")
        };
        let app = list(&pod["containers"]).iter().find(|app| app["name"] == service).expect("the app");
        let sleep = app["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("a preStop that sleeps");
        assert!(sleep > seconds("lag"), "{title}: the app is gone before its callers know");
        // The sidecar's deadline begins with its SIGTERM, which comes when the app has ended.
        let needed = sleep + APP_FINISH + seconds("deadline") + FORCED_END;
        let granted = pod["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
        assert!(granted >= needed, "{title}: {granted} s for what may take {needed} s");
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

/// The ConfigMap of this name, whatever hash it ends with.
pub(crate) fn config_map_of<'r>(rendered: &'r Rendered, name: &str) -> &'r Value {
    let begin = format!("{name}-");
    let maps = rendered.all("ConfigMap").into_iter();
    let mut found = maps.filter(|map| text(&map["metadata"]["name"]).starts_with(&begin));
    found.next().unwrap_or_else(|| panic!("no ConfigMap {begin}HASH"))
}
