//! Our files, read by Python with the real profile.proto, and judged by speedscope's own schema.

use std::path::{Path, PathBuf};
use std::process::Command;

use everprof::encode::speedscope::{self, Speedscope};
use everprof::encode::{Dialect, pprof};
use everprof::profile::Kind;

use crate::otlp::{plain, traced};
use crate::profiles::{large, small};

/// What `tools.sh` installed; none where it did not run, which is said loudly, and an error in CI.
fn tools(test: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let tools = target.join("formats");
    if tools.join("stamp").is_file() {
        return Some(tools);
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{test}: in CI, core/tests/formats/tools.sh must run first"
    );
    eprintln!("SKIPPED {test}: `make formats-tools` has not installed Python's protobuf and the schema");
    None
}

fn python(tools: &Path, script: &str, arguments: [&Path; 2]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(script);
    let output =
        Command::new(tools.join("venv/bin/python")).arg("-B").arg(script).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn python_reads_what_the_profile_says() {
    let Some(tools) = tools("python_reads_what_the_profile_says") else { return };
    let file = write("small.pb.gz", &pprof::encode(&small()));
    let text = python(&tools, "read_pprof.py", [&tools, &file]);
    std::fs::remove_file(file).unwrap();
    let hash = r#"'shop::hash; with\nodd "text"'@/src/hash.rs:31 < 'shop::serve::<alloc::vec::Vec<u8>>'@/src/serve.rs:12"#;
    let main = "'main'@/src/main.rs:7";
    let expected = format!(
        "types samples/count cpu/nanoseconds default cpu\n\
         period 10101010 cpu/nanoseconds\n\
         time 1763814000123456789 60000000000\n\
         comment service=shop\n\
         comment team=a=b; \"c\" \\ ü\n\
         comment version=1.0\n\
         comment hand-made for the tests\n\
         mapping /usr/bin/shop 0123456789abcdef True True\n\
         mapping /lib/libc.so.6 fedcba9876543210 True True\n\
         sample 3 30303030 | 'memcpy'@:0 < {hash} < {main} | bytes=512 bytes, tenant=α, thread_name=worker-1\n\
         sample 1 10101010 | {hash} < {main} | bytes=512 bytes, tenant=α, thread_name=worker-1\n\
         sample 5 50505050 | 'memcpy'@:0 < {hash} < {main} | priority=0 count, thread_name=worker-2\n\
         sample 2 20202020 | '[lost: no room]'@:0 | \n"
    );
    assert_eq!(text, expected);
    let file = write("large.pb.gz", &pprof::encode(&large(1000, 30)));
    let text = python(&tools, "read_pprof.py", [&tools, &file]);
    std::fs::remove_file(file).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("sample ")).count(), 1000);
}

#[test]
fn speedscope_json_is_valid_by_its_schema() {
    let Some(tools) = tools("speedscope_json_is_valid_by_its_schema") else { return };
    let schema = tools.join("speedscope.schema.json");
    let empty = everprof::profile::Profile::new(Kind::Cpu);
    let by_thread = Speedscope::default().group_by("thread_name");
    for (name, json) in [
        ("small", speedscope::encode(&small())),
        ("threads", by_thread.encode(&small())),
        ("large", by_thread.encode(&large(1000, 30))),
        ("empty", speedscope::encode(&empty)),
    ] {
        let file = write(&format!("{name}.speedscope.json"), json.as_bytes());
        python(&tools, "check_schema.py", [&schema, &file]);
        std::fs::remove_file(file).unwrap();
    }
    // The judge can say no.
    let wrong = speedscope::encode(&small()).replace("\"unit\":\"nanoseconds\"", "\"unit\":\"fortnights\"");
    let file = write("wrong.speedscope.json", wrong.as_bytes());
    let judged = std::panic::catch_unwind(|| python(&tools, "check_schema.py", [&schema, &file]));
    std::fs::remove_file(file).unwrap();
    assert!(judged.is_err(), "the schema accepted a unit that it does not have");
}

#[test]
fn opentelemetry_reads_the_request_that_says_what_the_profile_says() {
    let Some(tools) = tools("opentelemetry_reads_the_request_that_says_what_the_profile_says") else {
        return;
    };
    let encoded = &Dialect::Otlp.encode(&[(Kind::Cpu, traced())])[0];
    let file = write("small.otlp", &plain(encoded));
    let text = python(&tools, "read_otlp.py", [&tools, &file]);
    std::fs::remove_file(file).unwrap();
    crate::golden::check("small.otlp.python.txt", text.as_bytes());
}
