//! The same store with redirection: what it adds, and that it adds no more.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::hardening::config_map_of;
use crate::rendered::{Rendered, list, pod, sidecar, text, title};

pub(crate) fn redirection_adds_one_container_with_one_right_before_the_sidecar() {
    let (plain, rendered) = (Rendered::get(), Rendered::redirected());
    let folder = tempfile::tempdir().expect("a folder");
    for deployment in rendered.all("Deployment") {
        let (service, title) = (text(&deployment["metadata"]["name"]), title(deployment));
        let [init, rest @ ..] = list(&pod(deployment)["initContainers"]) else { panic!("{title}: none") };
        assert_eq!(init["name"], "outrigger-init", "{title}: rules come before the sidecar and the app");
        assert_eq!(init["restartPolicy"], Value::Null, "{title}: it ends");
        let own = &init["securityContext"];
        assert_eq!(own["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}), "{title}");
        assert_eq!(own["allowPrivilegeEscalation"], false, "{title}");
        assert_eq!(own["readOnlyRootFilesystem"], true, "{title}");

        let without = plain.one("Deployment", service);
        assert_eq!(json!(rest), pod(without)["initContainers"], "{title}: the sidecar is the same");
        assert_eq!(pod(deployment)["volumes"], pod(without)["volumes"], "{title}");

        let args: Vec<&str> = list(&init["args"]).iter().map(text).collect();
        let [file, "--uid", user, rules @ ..] = &args[..] else { panic!("{title}: {args:?}") };
        assert_eq!(*file, "/etc/outrigger/sidecar.yaml", "{title}");
        assert_eq!(sidecar(deployment)["securityContext"]["runAsUser"].to_string(), *user, "{title}");
        let app = &pod(deployment)["containers"][0];
        assert!(
            !app["args"].to_string().contains("127.0.0.1:15001"),
            "{title}: the app knows of its sidecar"
        );

        // The rules that it would write for this file.
        let here = folder.path().join(format!("{service}.yaml"));
        fs::write(
            &here,
            text(&config_map_of(rendered, &format!("sidecar-{service}"))["data"]["sidecar.yaml"]),
        )
        .expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.arg("init").arg(&here).args(["--uid", user]).args(rules).arg("--print");
        let output = command.output().expect("our own binary");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{title}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(told.contains("15006") && told.contains("15001") && told.contains(user), "{told}");
    }
}
