//! Where the pull side listens, and the secret that it asks for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::value::{Setting, Shape};

/// Where the pull side listens: nowhere by default.
///
/// ```
/// let mut options = everprof::Options::default();
/// for (text, meant) in [("6060", "127.0.0.1:6060"), (":0", "127.0.0.1:0"), ("0.0.0.0:6060", "0.0.0.0:6060")] {
///     options.set("serve", text).unwrap();
///     assert_eq!(options.get("serve").as_deref(), Some(meant));
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serve(Place);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Off,
    Port(SocketAddr),
    Socket(PathBuf),
}

const RIGHT: &str = "off, a port on loopback such as 6060, ADDRESS:PORT such as 0.0.0.0:6060, or unix:/path";

impl Serve {
    /// The address and port to listen on; none where it is a path, or off. Port 0 is one that the system chooses.
    pub fn port(&self) -> Option<SocketAddr> {
        match self.0 {
            Place::Port(address) => Some(address),
            _ => None,
        }
    }

    /// The path of the Unix socket to listen on; none where it is a port, or off.
    pub fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Place::Socket(path) => Some(path),
            _ => None,
        }
    }

    /// Whether nothing is served.
    pub fn is_off(&self) -> bool {
        self.0 == Place::Off
    }
}

impl Setting for Serve {
    const SHAPE: Shape = Shape::NumberOrText;

    fn accepts() -> String {
        RIGHT.to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.eq_ignore_ascii_case("off") {
            return Ok(Self(Place::Off));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return socket(path);
        }
        place(text).map(|address| Self(Place::Port(address))).ok_or_else(|| format!("give {RIGHT}"))
    }

    fn text(&self) -> String {
        match &self.0 {
            Place::Off => "off".to_string(),
            Place::Port(address) => address.to_string(),
            Place::Socket(path) => format!("unix:{}", path.display()),
        }
    }
}

/// The address of a port. Where only the port is named, it is a port of this machine for itself: what a stack tells is
/// not for everybody on the network.
fn place(text: &str) -> Option<SocketAddr> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let is_number = !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    let here = host.is_empty() || host.eq_ignore_ascii_case("localhost");
    (here && is_number).then_some(SocketAddr::new(loopback, port.parse().ok()?))
}

fn socket(path: &str) -> Result<Serve, String> {
    // What the kernel takes as the name of a socket, its end included.
    const LONGEST: usize = 107;
    if !path.starts_with('/') || path.contains(char::is_control) || path.len() > LONGEST {
        return Err(format!("give unix: and an absolute path of at most {LONGEST} bytes"));
    }
    Ok(Serve(Place::Socket(PathBuf::from(path))))
}

/// A secret: compared, and never shown. Empty where there is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// For the header of a request.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether `given` is the secret, in a time that tells nothing but the length of `given`. Nothing is right where
    /// there is no secret.
    pub fn is(&self, given: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let mut differs = u8::from(secret.len() != given.len() || secret.is_empty());
        for (place, byte) in given.iter().enumerate() {
            let wanted = secret.get(place % secret.len().max(1)).copied().unwrap_or_default();
            differs |= std::hint::black_box(byte ^ wanted);
        }
        std::hint::black_box(differs) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "[hidden]" } else { "[none]" })
    }
}

impl Setting for Secret {
    const SECRET: bool = true;

    fn accepts() -> String {
        "8 to 1024 visible ASCII characters".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let is_fit = (8..=1024).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || is_fit {
            return Ok(Self(text.to_string()));
        }
        Err(format!("give {}", Self::accepts()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback_and_everything_else_is_named() {
        for (text, meant) in [
            ("", "off"),
            ("OFF", "off"),
            ("6060", "127.0.0.1:6060"),
            (":6060", "127.0.0.1:6060"),
            ("localhost:0", "127.0.0.1:0"),
            ("127.0.0.1:6060", "127.0.0.1:6060"),
            ("[::1]:6060", "[::1]:6060"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::]:1", "[::]:1"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(Serve::parse(text).unwrap().text(), meant, "{text}");
        }
        for wrong in
            ["65536", "-1", "+1", "a:1", "*:1", "1.2.3:4", "::1:6060:", "on", "unix:", "unix:a", "http://a:1"]
        {
            assert!(Serve::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_secret_is_the_secret() {
        let secret = Secret::parse("correct-horse").unwrap();
        assert!(secret.is(b"correct-horse"));
        for wrong in ["", "correct-hors", "correct-horsf", "correct-horsecorrect-horse", "Correct-horse"] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(!Secret::default().is(b""));
        assert!(Secret::parse("short").is_err() && Secret::parse("with a space").is_err());
        assert_eq!(format!("{secret:?}"), "[hidden]");
    }
}
