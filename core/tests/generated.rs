//! Documents that are made of the options table, compared with what is in the tree; `make bless` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "generated/python.rs"]
mod python;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use everprof::Options;
use everprof::options::OptionSpec;

const BEGIN: &str = "<!-- options:begin -->";
const END: &str = "<!-- options:end -->";

#[test]
fn the_readme_shows_the_options_table() {
    let path = root().join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("README.md has no <!-- options:begin -->");
    let (_, after) = rest.split_once(END).expect("README.md has no <!-- options:end -->");
    compare(&path, &format!("{before}{BEGIN}\n{}{END}{after}", readme_table()));
}

#[test]
fn the_environment_page_shows_every_variable() {
    compare(&root().join("docs/environment.md"), &environment_page());
}

#[test]
fn the_python_stubs_show_the_tables() {
    let path = root().join("bindings-python/python/everprof/__init__.pyi");
    compare(&path, &python::stubs(&std::fs::read_to_string(&path).unwrap()));
}

fn readme_table() -> String {
    let mut out = "| option | default | live | what it does |\n|---|---|---|---|\n".to_string();
    for spec in Options::table() {
        let (default, doc) = (default(spec), cell(&spec.doc()));
        writeln!(out, "| `{}` | {default} | {} | {doc} {} |", spec.name, live(spec), accepts(spec)).unwrap();
    }
    out
}

fn environment_page() -> String {
    let mut out = PAGE_HEAD.to_string();
    out.push_str(
        "| variable | accepts | default | live | since | what it does |\n|---|---|---|---|---|---|\n",
    );
    for spec in Options::table() {
        let (variable, since, doc) = (spec.environment(), spec.since, cell(&spec.doc()));
        let (accepts, default, live) = (cell(&spec.accepts()), default(spec), live(spec));
        writeln!(out, "| `{variable}` | {accepts} | {default} | {live} | {since} | {doc} |").unwrap();
    }
    out.push_str(PAGE_TAIL);
    out
}

fn live(spec: &OptionSpec) -> &'static str {
    if spec.live { "yes" } else { "" }
}

fn accepts(spec: &OptionSpec) -> String {
    let unit = if spec.unit.is_empty() || spec.accepts().contains(spec.unit) {
        String::new()
    } else {
        format!(" {}", spec.unit)
    };
    format!("({}{unit})", cell(&spec.accepts()))
}

fn default(spec: &OptionSpec) -> String {
    match spec.default_text() {
        text if text.is_empty() => "—".to_string(),
        text => format!("`{}`", cell(&text)),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn compare(path: &Path, expected: &str) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let differing = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{} is not what the options table says; run `make bless`. First difference: {differing:#?}",
        path.display()
    );
}

const PAGE_HEAD: &str = "\
# Environment variables

<!-- Written by `make bless` from the options table in core/src/options/table.rs. -->

Every option can be set by `EVERPROF_<NAME>`. An empty variable counts as not set. A wrong value is an error of
`Profiler::start()` that names the variable and what would be right; a variable with this prefix that is no option is
reported through the logger and ignored.

An option that is live can change while the profiler runs, by `everprof::set`; the others need a new start.

What the program sets in code wins over these variables, and they win over a file and the defaults. An
exception, for operators: `EVERPROF_ENABLED=false` wins over everything, and then no other variable is looked at. The
watched file that `EVERPROF_CONFIG` names is another one for them: it wins over these and over code (docs/fleet.md).

";

const PAGE_TAIL: &str = "
## Variables of others

Tags that no option names are taken from these, the first that says something wins:

| tag | looked up in this order |
|---|---|
| `service` | `OTEL_SERVICE_NAME`, `service.name` in `OTEL_RESOURCE_ATTRIBUTES`, `DD_SERVICE`, pod labels `tags.datadoghq.com/service`, `app.kubernetes.io/name`, the file name of the executable |
| `version` | `service.version` in `OTEL_RESOURCE_ATTRIBUTES`, `DD_VERSION`, pod labels `tags.datadoghq.com/version`, `app.kubernetes.io/version`, else `unknown` |
| `env` | `deployment.environment.name` or `deployment.environment` in `OTEL_RESOURCE_ATTRIBUTES`, `DD_ENV`, pod label `tags.datadoghq.com/env`, else `unknown` |
| `host` | `host.name` in `OTEL_RESOURCE_ATTRIBUTES`, `DD_HOSTNAME`, `NODE_NAME`, the kernel's host name, `/etc/hostname`, `HOSTNAME` |
| `pod` | `k8s.pod.name` in `OTEL_RESOURCE_ATTRIBUTES`, `POD_NAME`, `/etc/podinfo/name`, `HOSTNAME` where `KUBERNETES_SERVICE_HOST` is set, else `none` |
| `instance` | `service.instance.id` in `OTEL_RESOURCE_ATTRIBUTES`, else a fresh UUID for each process; always fresh in the child of a fork |
| `namespace` | `k8s.namespace.name` in `OTEL_RESOURCE_ATTRIBUTES`, `POD_NAMESPACE`, `/etc/podinfo/namespace`, the namespace of the service account |
| `node` | `k8s.node.name` in `OTEL_RESOURCE_ATTRIBUTES`, `NODE_NAME` |
| `container_id` | `container.id` in `OTEL_RESOURCE_ATTRIBUTES`, `/proc/self/cgroup`, `/proc/self/mountinfo` |

Every other attribute in `OTEL_RESOURCE_ATTRIBUTES` becomes a tag of the same name, and every pod label or annotation
`everprof/<key>` in `/etc/podinfo/labels` or `/etc/podinfo/annotations` the tag `<key>`.
";
