#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use super::*;

/// A directory that stands for `/`, removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("everprof-tags-{}", identity::uuid()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(root)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tags_of(options: &str, vars: &[(&str, &str)], files: &[(&str, &str)]) -> Tags {
    let root = Root::new(files);
    let sources = Sources::fake(vars.iter().copied(), root.path()).with_executable("demo");
    Tags::resolve(&Options::parse(options).unwrap(), &sources)
}

#[test]
fn six_tags_are_there_with_nothing_known() {
    let tags = tags_of("", &[], &[]);
    let known: Vec<_> = tags.iter().map(|(key, _)| key).collect();
    assert_eq!(known, ["env", "host", "instance", "pod", "service", "version"]);
    assert_eq!(tags.get("service"), Some("demo"));
    assert_eq!((tags.get("version"), tags.get("env")), (Some("unknown"), Some("unknown")));
    assert_eq!((tags.get("host"), tags.get("pod")), (Some("unknown"), Some("none")));
}

#[test]
fn the_host_of_this_test_has_a_name_and_an_executable() {
    let tags = Tags::resolve(&Options::default(), &Sources::host());
    assert_ne!(tags.get("service"), Some(UNKNOWN));
    assert_ne!(tags.get("host"), Some(UNKNOWN));
}

#[test]
fn each_source_gives_way_to_the_one_before_it() {
    let labels = "app.kubernetes.io/name=\"from-pod\"\n";
    let files = [("etc/podinfo/labels", labels)];
    let all = [
        ("OTEL_SERVICE_NAME", "from-otel"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-attributes"),
        ("DD_SERVICE", "from-dd"),
    ];
    let service =
        |options, vars: &[_], files: &[_]| tags_of(options, vars, files).get("service").unwrap().to_string();
    assert_eq!(service("service=from-code,tags=service=from-tags", &all, &files), "from-code");
    assert_eq!(service("tags=service=from-tags", &all, &files), "from-tags");
    assert_eq!(service("", &all, &files), "from-otel");
    assert_eq!(service("", &all[1..], &files), "from-attributes");
    assert_eq!(service("", &all[2..], &files), "from-dd");
    assert_eq!(service("", &[], &files), "from-pod");
    assert_eq!(service("", &[], &[]), "demo");
}

#[test]
fn resource_attributes_are_decoded_renamed_and_passed_on() {
    let attributes = "service.name=a%2Cb, service.version = 1.2 ,deployment.environment=prod,host.name=h,\
                      service.instance.id=i-1,k8s.pod.name=p,k8s.namespace.name=n,container.id=c,cloud.region=eu";
    let tags = tags_of("", &[("OTEL_RESOURCE_ATTRIBUTES", attributes)], &[]);
    let expected = [
        ("cloud.region", "eu"),
        ("container_id", "c"),
        ("env", "prod"),
        ("host", "h"),
        ("instance", "i-1"),
        ("namespace", "n"),
        ("pod", "p"),
        ("service", "a,b"),
        ("version", "1.2"),
    ];
    assert_eq!(tags.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn sdk_placeholders_do_not_name_the_service() {
    let vars = [("OTEL_SERVICE_NAME", "unknown_service:demo"), ("DD_SERVICE", "real")];
    assert_eq!(tags_of("", &vars, &[]).get("service"), Some("real"));
}

#[test]
fn a_pod_is_known_by_its_files_and_variables() {
    let files = [
        ("etc/podinfo/name", "checkout-7d9f\n"),
        ("etc/podinfo/annotations", "everprof/team=\"payments\"\n"),
        ("etc/podinfo/labels", "app=\"x\"\ntags.datadoghq.com/version=\"2.0\"\npod-template-hash=\"7d9f\""),
        ("var/run/secrets/kubernetes.io/serviceaccount/namespace", "shop"),
        ("proc/sys/kernel/hostname", "checkout-7d9f\n"),
    ];
    let vars =
        [("NODE_NAME", "node-3"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("HOSTNAME", "checkout-7d9f")];
    let tags = tags_of("", &vars, &files);
    for (key, value) in [
        ("pod", "checkout-7d9f"),
        ("namespace", "shop"),
        ("node", "node-3"),
        ("host", "node-3"),
        ("version", "2.0"),
        ("team", "payments"),
    ] {
        assert_eq!(tags.get(key), Some(value), "{key}");
    }
    assert_eq!(tags.get("pod-template-hash"), None);
}

#[test]
fn a_container_is_known_by_its_control_group() {
    let id = "ab".repeat(32);
    let files = [("proc/self/cgroup", format!("0::/docker/{id}\n"))];
    let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    assert_eq!(tags_of("", &[], &files).get("container_id"), Some(id.as_str()));
}

#[test]
fn what_the_environment_says_is_made_valid_and_named_once() {
    let attributes = format!("team name=a%0Ab,broken,percent=100%,long={}", "x".repeat(1_000));
    let root = Root::new(&[]);
    let sources = Sources::fake([("OTEL_RESOURCE_ATTRIBUTES", attributes.as_str())], root.path());
    let (tags, changed) = resolve(&Options::default(), &sources);
    assert_eq!(tags.get("team_name"), Some("a b"));
    assert_eq!(tags.get("percent"), Some("100%"));
    assert_eq!(tags.get("long").map(str::len), Some(pairs::MAX_VALUE_BYTES));
    assert_eq!(changed, ["team name", "broken", "percent", "long"]);
}

#[test]
fn a_flood_of_attributes_leaves_room_for_the_six() {
    let attributes: Vec<String> = (0..1_000).map(|number| format!("k{number}=v")).collect();
    let tags = tags_of("", &[("OTEL_RESOURCE_ATTRIBUTES", attributes.join(",").as_str())], &[]);
    assert!(tags.iter().len() <= MAX_TAGS + ALWAYS.len());
    for key in ALWAYS {
        assert!(tags.get(key).is_some(), "{key}");
    }
}

#[test]
fn a_child_gets_an_instance_of_its_own() {
    let tags = tags_of("tags=instance=mine", &[], &[]);
    let child = tags.with_new_instance();
    assert_ne!(child.get("instance"), tags.get("instance"));
    assert_eq!(child.get("service"), tags.get("service"));
}
