//! A set as it is kept on disk until its server is back: all that an exporter sees of it, and a check that says whether it
//! is still what was written.
//!
//! Fields are those of a protobuf message, so that another version reads what it knows. A CRC-32 over all of it finds each
//! single byte that changed; what does not add up is no set, and never a panic: a disk may return anything.

use super::protobuf::{Fields, Value, Writer};
use super::{Encoded, Format, ProfileId, Set};
use crate::profile::Kind;

/// What each begins with.
const MAGIC: &[u8; 8] = b"everset1";
/// It, the check and the length of the message.
const HEAD: usize = 20;

/// The bytes of a set.
pub(crate) fn write(set: &Set) -> Vec<u8> {
    let size = set.bytes() as usize + 256 * set.profiles.len();
    let mut message = Writer::with_capacity(size + 1024);
    for tag in &set.tags {
        pair(&mut message, 1, tag);
    }
    message.uint(2, set.sequence);
    message.int(3, set.time_nanos);
    message.int(4, set.duration_nanos);
    for profile in &set.profiles {
        message.message(5, |to| {
            to.string(1, profile.kind.name());
            to.string(2, profile.format.extension());
            to.bytes(3, &profile.bytes);
            to.int(4, profile.time_nanos);
            to.int(5, profile.duration_nanos);
            profile.labels.iter().for_each(|(key, value)| pair(to, 6, (key, value)));
            to.bytes(7, &profile.id.to_bytes());
        });
    }
    for (endpoint, count) in &set.endpoint_counts {
        message.message(6, |to| {
            to.string(1, endpoint);
            to.uint(2, *count);
        });
    }
    let message = message.into_bytes();
    let mut out = Vec::with_capacity(HEAD + message.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&check(&message).to_le_bytes());
    out.extend_from_slice(&(message.len() as u64).to_le_bytes());
    out.extend_from_slice(&message);
    out
}

/// The set, or what is wrong with the bytes.
pub(crate) fn read(bytes: &[u8]) -> Result<Set, &'static str> {
    let (head, message) = bytes.split_at_checked(HEAD).ok_or("it is cut off")?;
    let (magic, head) = head.split_at_checked(MAGIC.len()).ok_or("it is cut off")?;
    let (sum, length) = head.split_at_checked(4).ok_or("it is cut off")?;
    if magic != MAGIC {
        return Err("it is not a set that was kept");
    }
    if length != (message.len() as u64).to_le_bytes() {
        return Err("it is cut off");
    }
    if sum != check(message).to_le_bytes() {
        return Err("its check does not match");
    }
    set(message).ok_or("it is of a version that this one does not know")
}

/// Over the length as well: bytes that are zero and their number would not tell.
fn check(message: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&(message.len() as u64).to_le_bytes());
    crc.update(message);
    crc.sum()
}

fn pair(to: &mut Writer, field: u32, (key, value): (&String, &String)) {
    to.message(field, |pair| {
        pair.string(1, key);
        pair.string(2, value);
    });
}

fn set(message: &[u8]) -> Option<Set> {
    let mut set = Set::default();
    for field in Fields::new(message) {
        match field.ok()? {
            (1, Value::Bytes(bytes)) => {
                let (key, value) = read_pair(bytes)?;
                set.tags.insert(key, value);
            }
            (2, Value::Varint(value)) => set.sequence = value,
            (3, Value::Varint(value)) => set.time_nanos = value.cast_signed(),
            (4, Value::Varint(value)) => set.duration_nanos = value.cast_signed(),
            (5, Value::Bytes(bytes)) => set.profiles.push(profile(bytes)?),
            (6, Value::Bytes(bytes)) => {
                let (endpoint, count) = endpoint_count(bytes)?;
                set.endpoint_counts.insert(endpoint, count);
            }
            _ => {}
        }
    }
    Some(set)
}

fn profile(message: &[u8]) -> Option<Encoded> {
    let (mut kind, mut format, mut id) = (None, None, None);
    let (mut bytes, mut labels, mut time_nanos, mut duration_nanos) = (Vec::new(), Vec::new(), 0, 0);
    for field in Fields::new(message) {
        match field.ok()? {
            (1, Value::Bytes(name)) => kind = Kind::from_name(str::from_utf8(name).ok()?),
            (2, Value::Bytes(name)) => format = Format::of_extension(str::from_utf8(name).ok()?),
            (3, Value::Bytes(profile)) => bytes = profile.to_vec(),
            (4, Value::Varint(value)) => time_nanos = value.cast_signed(),
            (5, Value::Varint(value)) => duration_nanos = value.cast_signed(),
            (6, Value::Bytes(bytes)) => labels.push(read_pair(bytes)?),
            (7, Value::Bytes(bytes)) => id = bytes.try_into().ok().map(ProfileId::from_bytes),
            _ => {}
        }
    }
    Some(Encoded { kind: kind?, format: format?, bytes, time_nanos, duration_nanos, labels, id: id? })
}

fn endpoint_count(message: &[u8]) -> Option<(String, u64)> {
    let (mut endpoint, mut count) = (String::new(), 0);
    for field in Fields::new(message) {
        match field.ok()? {
            (1, Value::Bytes(text)) => endpoint = str::from_utf8(text).ok()?.to_string(),
            (2, Value::Varint(value)) => count = value,
            _ => {}
        }
    }
    Some((endpoint, count))
}

fn read_pair(message: &[u8]) -> Option<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in Fields::new(message) {
        match field.ok()? {
            (1, Value::Bytes(text)) => key = str::from_utf8(text).ok()?.to_string(),
            (2, Value::Bytes(text)) => value = str::from_utf8(text).ok()?.to_string(),
            _ => {}
        }
    }
    Some((key, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn example() -> Set {
        let profiles = [Kind::Cpu, Kind::Heap].map(|kind| {
            let mut encoded = Encoded::pprof(kind, &Profile::new(kind));
            encoded.labels = vec![("trace".into(), "ä".into()), (String::new(), "x".into())];
            encoded.time_nanos = 1_700_000_000_000_000_001;
            encoded
        });
        let tags = [("service", "shop"), ("env", "")].map(|(key, value)| (key.into(), value.into())).into();
        Set {
            tags,
            sequence: 7,
            time_nanos: 1_700_000_000_000_000_000,
            duration_nanos: -1,
            profiles: profiles.into(),
            endpoint_counts: [("GET /ä", u64::MAX), ("", 1)]
                .map(|(endpoint, count)| (endpoint.into(), count))
                .into(),
        }
    }

    #[test]
    fn a_set_reads_back_whole() {
        let set = example();
        assert_eq!(read(&write(&set)).unwrap(), set);
        assert_eq!(read(&write(&Set::default())).unwrap(), Set::default());
        for format in Format::ALL {
            assert_eq!(Format::of_extension(format.extension()), Some(format));
        }
    }

    /// Of a version that counted no requests, byte for byte: what waits on disk outlives an update, and the way back.
    #[test]
    fn what_an_older_version_has_kept_is_read() {
        const OLD: &str = "657665727365743124c8d26646000000000000000a0f0a0773657276696365120473686f701007180120022a2d\
            0a03637075120570622e677a1a01782001280232060a016b1201763a10000102030405060708090a0b0c0d0e0f";
        let digits = OLD.as_bytes().chunks(2).map(|two| str::from_utf8(two).unwrap());
        let old: Vec<u8> = digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
        let profile = Encoded {
            kind: Kind::Cpu,
            format: Format::Pprof,
            bytes: b"x".to_vec(),
            time_nanos: 1,
            duration_nanos: 2,
            labels: vec![("k".into(), "v".into())],
            id: ProfileId::from_bytes(std::array::from_fn(|at| at as u8)),
        };
        let tags = [("service".to_string(), "shop".to_string())].into();
        let (time_nanos, duration_nanos, profiles) = (1, 2, vec![profile]);
        let set = Set { tags, sequence: 7, time_nanos, duration_nanos, profiles, ..Set::default() };
        assert_eq!(read(&old).unwrap(), set);
        assert_eq!(write(&set), old, "without counts it is what that version wrote");
    }

    /// Each bit of each byte, each length, and bytes that come behind.
    #[test]
    fn every_byte_that_changed_is_found() {
        let bytes = write(&example());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(read(&changed).is_err(), "byte {at}, bit {bit}");
            }
            assert!(read(&bytes[..at]).is_err(), "cut to {at}");
        }
        assert!(read(&[bytes.as_slice(), b"\0"].concat()).is_err());
        assert!(read(&vec![0; 4096]).is_err(), "a file that a crash has left without its data");
    }

    /// A check that is right says nothing about who wrote it.
    #[test]
    fn no_message_makes_it_panic() {
        let message = write(&example())[HEAD..].to_vec();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut bent = message.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (seed >> 33) as usize % bent.len();
                bent[at] = (seed >> 20) as u8;
            }
            let _ = set(&bent);
        }
    }
}
