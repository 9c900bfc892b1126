//! Unit, images, compose and Kubernetes: each file is what its reader takes, and says what the
//! program needs.

use std::collections::BTreeSet;
use std::process::Command;

use super::tools::{self, program, python, read, repository, succeeds};
use crate::support::gateway::BINARY;

/// The unit, with a binary that exists, as systemd wants one.
fn unit(change: impl Fn(String) -> String) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trunkline.service");
    let text = read("deploy/systemd/trunkline.service").replace("/usr/bin/trunkline", BINARY);
    std::fs::write(&path, change(text)).unwrap();
    (folder, path)
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_confined() {
    let Some(mut analyze) = program("systemd-analyze") else {
        return;
    };
    let (_folder, path) = unit(|text| text);
    // an unknown key is told of, and is no error
    let said = succeeds(analyze.args(["verify", "--man=no"]).arg(&path));
    assert_eq!(said, "");
    let mut analyze = program("systemd-analyze").unwrap();
    let exposure = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    succeeds(analyze.args(exposure).arg(&path));

    let (_folder, path) = unit(|text| text.replace("WatchdogSec", "WatchdogSecs"));
    let mut analyze = program("systemd-analyze").unwrap();
    let (_, said) = tools::run(analyze.args(["verify", "--man=no"]).arg(&path));
    assert!(said.contains("Unknown key"), "{said}");
}

#[test]
fn whoever_stops_it_waits_longer_than_requests_may_take() {
    let seconds = |text: &str, key: &str| -> u64 {
        let at = text.find(key).unwrap_or_else(|| panic!("no {key}")) + key.len();
        let digits = text[at..].trim_start_matches([' ', ':', '=']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap();
        digits[..end].parse().unwrap()
    };
    // the defaults are drain 0s, grace 60s
    let systemd = read("deploy/systemd/trunkline.service");
    assert!(seconds(&systemd, "TimeoutStopSec=") > 60);
    let quadlet = read("deploy/quadlet/trunkline.container");
    assert!(seconds(&quadlet, "StopTimeout=") > 60);
    assert!(seconds(&quadlet, "TimeoutStopSec=") > seconds(&quadlet, "StopTimeout="));
    for (file, manifest, key) in [
        (
            "deploy/compose/trunkline.yaml",
            "deploy/compose/compose.yaml",
            "stop_grace_period",
        ),
        (
            "deploy/kustomize/base/trunkline.yaml",
            "deploy/kustomize/base/deployment.yaml",
            "terminationGracePeriodSeconds",
        ),
    ] {
        let text = read(file);
        let needed = seconds(&text, "drain:") + seconds(&text, "grace:");
        assert!(seconds(&read(manifest), key) > needed, "{manifest}");
    }
}

#[test]
fn every_configuration_that_is_deployed_is_good() {
    for file in [
        "deploy/compose/trunkline.yaml",
        "deploy/kustomize/base/trunkline.yaml",
        "deploy/debian/trunkline.yaml",
    ] {
        let mut check = Command::new(BINARY);
        succeeds(check.args(["check-config", "-W"]).arg(repository(file)));
    }
}

#[test]
fn the_image_has_no_shell_no_root_and_a_health_check() {
    let text = read("deploy/docker/Dockerfile");
    let last = &text[text.rfind("\nFROM ").unwrap()..];
    for part in [
        "FROM gcr.io/distroless/cc-debian12:nonroot",
        "\nHEALTHCHECK ",
        "CMD [\"/usr/local/bin/trunkline\", \"healthcheck\"]",
        "\nSTOPSIGNAL SIGTERM\n",
    ] {
        assert!(last.contains(part), "{part}");
    }
    let ignored = read(".dockerignore");
    for line in text
        .lines()
        .filter(|line| line.starts_with("COPY ") && !line.contains("--from"))
    {
        let mut sources: Vec<&str> = line.split(' ').skip(1).collect();
        sources.pop();
        for source in sources {
            assert!(
                ignored.contains(&format!("!{source}\n")),
                "{source} is not sent"
            );
        }
    }
    if let Some(mut hadolint) = program("hadolint") {
        succeeds(hadolint.arg(repository("deploy/docker/Dockerfile")));
    }
}

#[test]
fn compose_takes_its_file() {
    let Some(mut check) = python("check_jsonschema") else {
        return;
    };
    let schema = ["--builtin-schema", "vendor.compose-spec"];
    succeeds(
        check
            .args(schema)
            .arg(repository("deploy/compose/compose.yaml")),
    );
    // each file it mounts is there
    let text = read("deploy/compose/compose.yaml");
    let mounts = text
        .split(['"', ' ', '\n'])
        .filter(|word| word.starts_with('.'));
    for path in mounts.filter_map(|word| word.split_once(':').map(|(path, _)| path)) {
        let path = repository("deploy/compose").join(path);
        assert!(path.exists(), "{}", path.display());
    }
    let variables: BTreeSet<&str> = text
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split(':').next())
        .collect();
    let example = read("deploy/compose/.env.example");
    for variable in variables {
        assert!(example.contains(&format!("\n{variable}=")), "{variable}");
    }
}

/// What Kubernetes would be given, by `kubectl` if there is one; else the files as they are.
fn manifests(folder: &str, files: &[&str]) -> Vec<serde_yaml::Value> {
    let folder = repository("deploy/kustomize").join(folder);
    let text = match program("kubectl") {
        Some(mut kubectl) => succeeds(kubectl.arg("kustomize").arg(&folder)),
        None => files
            .iter()
            .map(|file| std::fs::read_to_string(folder.join(file)).unwrap() + "\n---\n")
            .collect(),
    };
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .filter(|value: &serde_yaml::Value| !value.is_null())
        .collect()
}

const BASE: &[&str] = &[
    "serviceaccount.yaml",
    "deployment.yaml",
    "service.yaml",
    "poddisruptionbudget.yaml",
    "networkpolicy.yaml",
];
const MONITORING: &[&str] = &["podmonitor.yaml", "prometheusrule.yaml"];

#[test]
fn kubernetes_takes_every_manifest() {
    for (folder, files) in [("base", BASE), ("overlays/monitoring", MONITORING)] {
        let all = manifests(folder, files);
        assert!(all.len() >= files.len());
        let Some(mut validate) = python("kubernetes_validate") else {
            return;
        };
        validate.args(["--strict", "--quiet"]);
        let place = tempfile::tempdir().unwrap();
        for (n, manifest) in all.iter().enumerate() {
            let path = place.path().join(format!("{n}.yaml"));
            std::fs::write(&path, serde_yaml::to_string(manifest).unwrap()).unwrap();
            validate.arg(path);
        }
        let said = succeeds(&mut validate);
        assert!(
            !said.contains("WARN") || said.contains("monitoring.coreos.com"),
            "{said}"
        );
    }
}

#[test]
fn what_selects_pods_selects_ours_and_no_others() {
    let ours: serde_yaml::Value =
        serde_yaml::from_str("app.kubernetes.io/name: trunkline").unwrap();
    for (folder, files) in [("base", BASE), ("overlays/monitoring", MONITORING)] {
        for manifest in manifests(folder, files) {
            let (kind, spec) = (manifest["kind"].as_str().unwrap(), &manifest["spec"]);
            let selected = match kind {
                "Service" => &spec["selector"],
                "Deployment" | "PodDisruptionBudget" | "PodMonitor" => {
                    &spec["selector"]["matchLabels"]
                }
                "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
                _ => continue,
            };
            assert_eq!(selected, &ours, "{kind} of {folder}");
        }
    }
}

#[test]
fn probes_ask_from_inside_and_only_a_program_that_hangs_is_restarted() {
    let text = read("deploy/kustomize/base/deployment.yaml");
    let manifest: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let pod = &manifest["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let command = |probe: &str| -> Vec<String> {
        let command = &container[probe]["exec"]["command"];
        serde_yaml::from_value(command.clone()).unwrap()
    };
    let healthcheck = ["/usr/local/bin/trunkline", "healthcheck"];
    assert_eq!(command("readinessProbe"), healthcheck);
    for probe in ["livenessProbe", "startupProbe"] {
        assert_eq!(command(probe)[..2], healthcheck);
        assert_eq!(command(probe)[2], "--live");
    }
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
}

#[test]
fn the_overlay_has_the_rules_and_the_dashboard_as_they_are_now() {
    let place = tempfile::tempdir().unwrap();
    succeeds(Command::new(repository("deploy/kustomize/generate")).arg(place.path()));
    for file in ["prometheusrule.yaml", "trunkline.json"] {
        let made = std::fs::read_to_string(place.path().join(file)).unwrap();
        let kept = read(&format!("deploy/kustomize/overlays/monitoring/{file}"));
        assert!(made == kept, "{file} is old: run deploy/kustomize/generate");
    }
    let groups = |text: &str, under: &str| {
        let value: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
        let groups = if under.is_empty() {
            &value["groups"]
        } else {
            &value[under]["groups"]
        };
        groups.as_sequence().unwrap().clone()
    };
    let rule = read("deploy/kustomize/overlays/monitoring/prometheusrule.yaml");
    let mut files = groups(&read("deploy/prometheus/recording.yaml"), "");
    files.extend(groups(&read("deploy/prometheus/alerts.yaml"), ""));
    assert_eq!(groups(&rule, "spec"), files);
}

/// Of podman-systemd.unit(5).
const QUADLET_KEYS: &[&str] = &[
    "ContainerName",
    "DropCapability",
    "Environment",
    "Exec",
    "HealthCmd",
    "HealthInterval",
    "HealthOnFailure",
    "HealthTimeout",
    "Image",
    "NoNewPrivileges",
    "Notify",
    "PublishPort",
    "ReadOnly",
    "Secret",
    "StopTimeout",
    "Tmpfs",
    "Ulimit",
    "Volume",
];

#[test]
fn podman_knows_every_key_of_its_unit() {
    let text = read("deploy/quadlet/trunkline.container");
    let container = text.split("\n[Container]\n").nth(1).unwrap();
    let container = container.split("\n[").next().unwrap();
    let lines = container
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let (key, _) = line.split_once('=').unwrap();
        assert!(QUADLET_KEYS.contains(&key), "{key}");
    }
    // the rest is systemd's own
    let Some(mut analyze) = program("systemd-analyze") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("trunkline.service");
    let rest = text.replace(&format!("[Container]\n{container}\n"), "");
    let rest = rest.replace("/usr/bin/podman", BINARY);
    let rest = rest.replace("[Service]", &format!("[Service]\nExecStart={BINARY}"));
    std::fs::write(&path, rest).unwrap();
    assert_eq!(succeeds(analyze.args(["verify", "--man=no"]).arg(path)), "");
}
