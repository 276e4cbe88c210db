//! Which machine this is, and a name for this one run of the process.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;

use super::sources::Sources;

/// The name of the machine, or of the container where nothing outside of it is known.
pub(super) fn host(sources: &Sources) -> Option<String> {
    let line = |path: &str| sources.file(path).map(|text| text.trim().to_string());
    line("proc/sys/kernel/hostname").or_else(|| line("etc/hostname")).or_else(|| sources.var("HOSTNAME"))
}

/// A fresh UUID, version 4.
pub(super) fn uuid() -> String {
    let mut bytes = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let hex = format!("{number:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Random bytes of the kernel. Where `/dev` is missing, hashes of what no two processes share: after a fork the standard
/// library's random keys are the parent's, so the process id and the time go in.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).is_ok() {
        return bytes;
    }
    for half in bytes.chunks_mut(8) {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        hasher.write_u128(now.as_nanos());
        half.copy_from_slice(&hasher.finish().to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_uuids_of_version_4_and_differ() {
        let (a, b) = (uuid(), uuid());
        assert_ne!(a, b);
        let parts: Vec<usize> = a.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{a}");
        assert!(a[14..].starts_with('4') && ['8', '9', 'a', 'b'].contains(&a.as_bytes()[19].into()), "{a}");
    }
}
