//! The id of the container that the process runs in, from what the kernel shows of its control group and its mounts.
//!
//! With cgroup v1 `/proc/self/cgroup` ends in the id. With v2 and a cgroup namespace that file says `0::/`; then the
//! runtime's bind mounts of `/etc/hostname` and its like name the container's directory on the host.

use super::sources::Sources;

pub(super) fn id(sources: &Sources) -> Option<String> {
    let in_cgroup = sources.file("proc/self/cgroup").and_then(|text| text.lines().find_map(of_cgroup));
    in_cgroup.or_else(|| sources.file("proc/self/mountinfo")?.lines().find_map(of_mount))
}

/// A line `hierarchy:controllers:path`. The innermost part of the path that is an id counts: containers nest.
fn of_cgroup(line: &str) -> Option<String> {
    let path = line.splitn(3, ':').nth(2)?;
    path.rsplit('/').find_map(|part| {
        // systemd's form is `docker-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>.scope`.
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let tail = part.rsplit(['-', ':']).next().unwrap_or(part);
        if is_long_id(tail) {
            return Some(tail.to_string());
        }
        is_task_id(part).then(|| part.to_string())
    })
}

/// Mount points that Docker, containerd's own runtime and podman bind from the container's directory.
const BOUND: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// A line `id parent major:minor root mount-point options…`. containerd's `sandboxes/<id>` is the pod's, not ours.
fn of_mount(line: &str) -> Option<String> {
    let mut fields = line.split(' ').skip(3);
    let (root, mount_point) = (fields.next()?, fields.next()?);
    if !BOUND.contains(&mount_point) {
        return None;
    }
    let mut parts = root.split('/');
    parts.find(|part| matches!(*part, "containers" | "overlay-containers"))?;
    parts.find(|part| is_long_id(part)).map(str::to_string)
}

fn is_long_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

/// The form of AWS Fargate: 32 hex digits, a dash, about ten digits.
fn is_task_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(task, number)| {
        task.len() == 32
            && task.bytes().all(is_hex)
            && (9..=10).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn control_groups_of_every_runtime_end_in_the_id() {
        for path in [
            format!("12:memory:/docker/{ID}"),
            format!("1:name=systemd:/kubepods/burstable/pod7b8ddb11-2b6d-4d4a-a8a4-2fdcbf5a8e4b/{ID}"),
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("5:cpu:/k8s/pod/cri-containerd:{ID}"),
            format!("5:cpu:/docker/{}/docker/{ID}/init", "f".repeat(64)),
        ] {
            assert_eq!(of_cgroup(&path).as_deref(), Some(ID), "{path}");
        }
        let task = "34dc0b5e626f2c5c4c5170e34b10e765-1234567890";
        assert_eq!(of_cgroup(&format!("1:cpu:/ecs/{task}")).as_deref(), Some(task));
        for none in ["0::/", "0::/user.slice/user-1000.slice/session-3.scope", "", "1:cpu"] {
            assert_eq!(of_cgroup(none), None, "{none}");
        }
    }

    #[test]
    fn mounts_name_the_container_and_not_its_sandbox() {
        let mount =
            |root: &str, point: &str| of_mount(&format!("1 2 8:1 {root} {point} rw - ext4 /dev/sda1 rw"));
        let docker = format!("/var/lib/docker/containers/{ID}/hostname");
        let podman = format!("/containers/storage/overlay-containers/{ID}/userdata/hosts");
        assert_eq!(mount(&docker, "/etc/hostname").as_deref(), Some(ID));
        assert_eq!(mount(&podman, "/etc/hosts").as_deref(), Some(ID));
        assert_eq!(mount(&docker, "/mnt"), None);
        let sandbox = format!("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{ID}/hostname");
        assert_eq!(mount(&sandbox, "/etc/hostname"), None);
    }
}
