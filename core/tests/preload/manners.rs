//! What a program, and whoever started it, may notice of the library: nothing that was not asked for.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use super::{common, programs, run, shell};

/// Programs of all sorts, with everything on: the same output, the same end.
pub(super) fn unharmed() {
    let scripts = [
        "echo hello; exit 3",
        "seq 1 100000 | sort -n | md5sum",
        "perl -e 'my %h; $h{$_} = \"x\" x ($_ % 100) for 1..50000; print scalar(keys %h), \"\\n\"; exit 5'",
        "ls /nowhere-at-all",
        "printf abc | cat | tr a-z A-Z",
        "kill -SEGV $$",
        "(ulimit -v 400000; perl -e 'print 1')",
        "sed -n 1,3p /etc/passwd; grep -c . /etc/passwd; awk 'BEGIN { print 1 / 3 }'",
        "env -i /bin/echo nothing",
        "find /usr/include -name 'std*.h' | sort | head -5",
        "exec 2>&-; echo without stderr; ls /etc/passwd",
        // Takes all signals that it knows, and dies of them.
        "seq 1 200000 | sort -R | sort -n | tail -1",
    ];
    let dir = common::directory("preload-unharmed");
    for script in scripts {
        let bare = Command::new("bash").args(["-c", script]).output().unwrap();
        for preload in ["first", "all"] {
            let options = [
                ("kinds", "cpu,wall,alloc,heap,lock,mutex,block"),
                ("rate_hz", "997"),
                ("interval_bytes", "64KiB"),
                ("mmap", "on"),
                ("preload", preload),
            ];
            let with = run(shell(&dir, script, &options));
            let end = |status: std::process::ExitStatus| (status.code(), status.signal());
            assert_eq!(end(with.status), end(bare.status), "{script}");
            assert_eq!(
                String::from_utf8_lossy(&with.stdout),
                String::from_utf8_lossy(&bare.stdout),
                "{script}"
            );
            assert_eq!(
                String::from_utf8_lossy(&with.stderr),
                String::from_utf8_lossy(&bare.stderr),
                "{script}"
            );
        }
    }
    common::remove(&dir);
}

pub(super) fn messages() {
    let dir = common::directory("preload-messages");
    let stderr = |options: &[(&str, &str)]| {
        let output = run(shell(&dir, "exec perl -e 'print 42'", options));
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"42"[..]), "{options:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(stderr(&[]), "");
    // What was typed wrong is told to who asks, and the program runs all the same.
    assert_eq!(stderr(&[("rate_hz", "many")]), "");
    let told = stderr(&[("rate_hz", "many"), ("log", "warn")]);
    assert!(told.contains("rate_hz is \"many\"") && told.contains("everprof["), "{told}");
    assert!(stderr(&[("log", "info")]).contains("99 times a second"));
    assert_eq!(stderr(&[("log", "off")]), "");
    assert_eq!(stderr(&[("enabled", "false"), ("log", "debug")]), "");
    // Where nobody reads them, the program does not notice.
    let unread =
        "exec 2> >(exec true); wait $!; exec perl -e 'print 42; $SIG{PIPE} = sub { exit 7 }; sleep 1'";
    for options in [[("rate_hz", "many"), ("log", "warn")], [("rate_hz", "97"), ("log", "debug")]] {
        let output = run(shell(&dir, unread, &options));
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"42"[..]), "{:?}", output.status);
    }
    // Another file in the place of stderr is the program's.
    let script = format!("exec 2>{0}/other; exec perl -e 'sleep 1'", dir.display());
    std::fs::create_dir_all(&dir).unwrap();
    assert!(run(shell(&dir, &format!("{script}; true"), &[])).status.success());
    assert_eq!(std::fs::read_to_string(dir.join("other")).unwrap(), "");
    common::remove(&dir);
}

/// The default action of SIGTERM, and a handler of the program's own.
pub(super) fn signal() {
    let dir = common::directory("preload-signal");
    let scripts = [
        ("exec perl -e 'kill TERM => $$; sleep 10'", None, Some(libc::SIGTERM)),
        ("exec perl -e '$SIG{TERM} = sub { exit 9 }; kill TERM => $$; sleep 10'", Some(9), None),
        // As without the library: it takes another signal.
        ("exec perl -e 'kill PROF => $$; sleep 10'", None, Some(libc::SIGPROF)),
    ];
    for (script, code, signal) in scripts {
        let mut command = shell(&dir, script, &[("kinds", "cpu,alloc")]);
        let mut child = command.spawn().unwrap();
        let mut status = None;
        for _ in 0..400 {
            status = child.try_wait().unwrap();
            if status.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = status.unwrap_or_else(|| panic!("{script} hangs"));
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
    }
    common::remove(&dir);
}

const FAMILY: &str = "perl -e 'print 1'; sort /etc/passwd | tail -1 >/dev/null; exec perl -e '1'";

pub(super) fn first() {
    let dir = common::directory("preload-first");
    assert!(run(shell(&dir, FAMILY, &[("kinds", "alloc"), ("interval_bytes", "64KiB")])).status.success());
    // The shell has become another program before it could tell anything.
    let found = programs(&dir);
    assert!(found.contains(&"perl".to_string()) && !found.contains(&"sort".to_string()), "{found:?}");
    common::remove(&dir);
}

pub(super) fn chosen() {
    let dir = common::directory("preload-chosen");
    assert!(
        run(shell(
            &dir,
            &format!("{FAMILY}; true"),
            &[("preload", "all"), ("kinds", "alloc,cpu"), ("interval_bytes", "64KiB")]
        ))
        .status
        .success()
    );
    let found = programs(&dir);
    assert!(["perl", "sort"].iter().all(|name| found.contains(&(*name).to_string())), "{found:?}");
    common::remove(&dir);
    assert!(
        run(shell(
            &dir,
            FAMILY,
            &[("preload", "sort,tail"), ("kinds", "alloc,cpu"), ("interval_bytes", "64KiB")]
        ))
        .status
        .success()
    );
    let found = programs(&dir);
    assert!(found.contains(&"sort".to_string()) && !found.contains(&"perl".to_string()), "{found:?}");
    common::remove(&dir);
}

/// A program with rights that its caller has not does not do as its environment says: the loader knows such a one by a mark, and
/// it is enough to be linked with the library.
pub(super) fn privileged() {
    use std::os::unix::fs::PermissionsExt;

    let dir = common::directory("preload-privileged");
    // Others are to get there as well.
    let place = std::env::temp_dir().join(format!("everprof-privileged-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
    let (source, program) = (place.join("program.c"), place.join("program"));
    std::fs::copy(super::library(), place.join("libeverprof_preload.so")).unwrap();
    std::fs::write(
        &source,
        "#include <stdio.h>\n#include <sys/auxv.h>\nint main(void) { printf(\"%ld\\n\", getauxval(AT_SECURE)); return 0; }\n",
    )
    .unwrap();
    let made = Command::new("cc")
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .arg(format!("-L{}", place.display()))
        .args(["-Wl,--no-as-needed", "-leverprof_preload"])
        .arg(format!("-Wl,-rpath,{}", place.display()))
        .status();
    assert!(made.unwrap().success());
    let told = || {
        let mut command = Command::new(&program);
        super::under(&mut command, &dir, &[("kinds", "cpu,threads"), ("log", "debug"), ("rate_hz", "997")]);
        command.env_remove("LD_PRELOAD");
        let output = run(command);
        assert!(output.status.success());
        let secure = String::from_utf8(output.stdout).unwrap();
        (secure.trim().to_string(), !output.stderr.is_empty(), !programs(&dir).is_empty())
    };
    let (secure, is_told, _) = told();
    assert_eq!((secure.as_str(), is_told), ("0", true), "it runs in any other program");
    common::remove(&dir);
    // Another user's, which takes root to make.
    let made = std::os::unix::fs::chown(&program, Some(65_534), None)
        .and_then(|()| std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)));
    let (secure, is_told, is_written) = told();
    if made.is_err() || secure == "0" {
        common::skip("a program of another user's rights", "it cannot be made here");
    } else {
        assert_eq!((secure.as_str(), is_told, is_written), ("1", false, false));
    }
    common::remove(&place);
    common::remove(&dir);
}
