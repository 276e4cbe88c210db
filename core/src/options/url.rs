//! A URL of http, https or a Unix socket, as far as somebody needs one who sends to it.
//!
//! Read once, when the options are; what does not read as one thing only is refused. What it shows of itself has neither
//! the user, nor the password, nor the query: a presigned URL is a secret from its question mark on.

use std::fmt;

use crate::pairs;

/// A place that takes HTTP requests.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) is_secure: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The port goes without saying where this is spelled; else that of the scheme is said as well, since it is another one
    /// that is taken where none is given.
    hides_port: bool,
    /// Path and query as they go on the wire, with a slash first. May hold templates, `{service}`.
    pub(crate) path: String,
    /// User and password.
    pub(crate) user: Option<(String, String)>,
    /// The path of the Unix socket that takes the place of host and port.
    pub(crate) socket: Option<String>,
}

const LONGEST: usize = 8192;

impl Url {
    /// What follows the `://`. An error says what would be right, and nothing of what was given.
    pub(crate) fn parse(is_secure: bool, text: &str) -> Result<Self, String> {
        Self::parse_at(is_secure, scheme_port(is_secure), text)
    }

    /// The same, with the port of a server of whom it is known where he listens.
    pub(crate) fn parse_at(is_secure: bool, usual: u16, text: &str) -> Result<Self, String> {
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("give a URL of visible ASCII characters, others as %XX".to_string());
        }
        if text.contains('#') {
            return Err("give a URL without a fragment, and a # in it as %23".to_string());
        }
        let end = text.find(['/', '?']).unwrap_or(text.len());
        let (authority, rest) = text.split_at(end);
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(credentials(user)?), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        let path = if rest.starts_with('/') { rest.to_string() } else { format!("/{rest}") };
        let port = port.unwrap_or(usual);
        let hides_port = usual == scheme_port(is_secure) && port == usual;
        Ok(Self { is_secure, host, port, hides_port, path, user, socket: None })
    }

    /// What follows the `unix://`: the path of a socket, and behind a colon that of the requests, as nginx and Docker spell
    /// it. HTTP goes over it without TLS.
    pub(crate) fn parse_socket(text: &str) -> Result<Self, String> {
        let wrong = || "give unix:// and the absolute path of a socket, at most 107 bytes, and a colon before the path of requests";
        let (socket, path) = text.split_once(':').unwrap_or((text, ""));
        let socket = pairs::percent_decode(socket)?;
        // The kernel's `sockaddr_un` has room for so many and the zero behind them.
        if !socket.starts_with('/')
            || socket.len() < 2
            || socket.len() > 107
            || socket.contains(char::is_control)
        {
            return Err(wrong().to_string());
        }
        let rest = Self::parse(false, &format!("localhost{path}")).map_err(|_| wrong().to_string())?;
        if !path.is_empty() && !path.starts_with('/') {
            return Err(wrong().to_string());
        }
        Ok(Self { socket: Some(socket), ..rest })
    }

    /// Host and port as they stand on the wire, in the header `Host`: that of the scheme is not said.
    pub(crate) fn authority(&self) -> String {
        self.place(self.port == scheme_port(self.is_secure))
    }

    fn place(&self, without_port: bool) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if without_port { host } else { format!("{host}:{}", self.port) }
    }

    /// Path and query apart.
    pub(crate) fn path_and_query(&self) -> (&str, Option<&str>) {
        self.path.split_once('?').map_or((self.path.as_str(), None), |(path, query)| (path, Some(query)))
    }

    /// The canonical text, secrets included.
    pub(crate) fn text(&self) -> String {
        if let Some(socket) = &self.socket {
            let path = if self.path == "/" { String::new() } else { format!(":{}", self.path) };
            return format!("unix://{}{path}", encode_path(socket));
        }
        let scheme = if self.is_secure { "https" } else { "http" };
        let user = match &self.user {
            Some((user, password)) => format!("{}:{}@", encode(user), encode(password)),
            None => String::new(),
        };
        format!("{scheme}://{user}{}{}", self.place(self.hides_port), self.path)
    }

    /// What may stand in a log: scheme, host and port, or the socket.
    pub(crate) fn shown(&self) -> String {
        if let Some(socket) = &self.socket {
            return format!("unix://{socket}");
        }
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.place(self.hides_port))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

const fn scheme_port(is_secure: bool) -> u16 {
    if is_secure { 443 } else { 80 }
}

fn credentials(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |part| match pairs::percent_decode(part) {
        Ok(part) if !part.contains(char::is_control) => Ok(part),
        _ => Err("give user and password percent-encoded, without control characters".to_string()),
    };
    let user = decode(user)?;
    // What parts user and password on the wire cannot be in the user.
    if user.contains(':') {
        return Err("give a user without a colon".to_string());
    }
    Ok((user, decode(password)?))
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || "give a host as a name, an IPv4 address or an IPv6 address in brackets".to_string();
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(wrong()),
            }
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let bracketed = place.starts_with('[');
    if host.is_empty() || host.len() > 253 || !(bracketed || host.bytes().all(is_name)) {
        return Err(wrong());
    }
    let digits = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && digits(port) => Some(number),
            _ => return Err("give a port from 1 to 65535".to_string()),
        },
    };
    Ok((host.to_ascii_lowercase(), port))
}

/// Everything that is not a letter or a digit, so that it stands for itself nowhere in a URL.
fn encode(text: &str) -> String {
    encode_but(text, b"")
}

/// The same for a path, whose usual signs stay.
fn encode_path(text: &str) -> String {
    encode_but(text, b"/.-_")
}

fn encode_but(text: &str, stay: &[u8]) -> String {
    let one = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || stay.contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, u16, String, Option<(String, String)>) {
        let url = Url::parse(false, text).unwrap();
        (url.host, url.port, url.path, url.user)
    }

    #[test]
    fn urls_have_their_parts() {
        assert_eq!(parts("a.b"), ("a.b".into(), 80, "/".into(), None));
        assert_eq!(parts("A-b:4040/x?y=z@q"), ("a-b".into(), 4040, "/x?y=z@q".into(), None));
        assert_eq!(parts("[::1]:1?q"), ("::1".into(), 1, "/?q".into(), None));
        let user = Some(("12".into(), "p@:/".into()));
        assert_eq!(parts("12:p%40%3A%2F@h"), ("h".into(), 80, "/".into(), user));
        assert_eq!(Url::parse(true, "h").unwrap().port, 443);
    }

    /// Whatever is spelled is read as it was.
    #[test]
    fn a_port_is_said_where_another_one_would_be_taken() {
        for (text, port, shown, authority) in [
            ("h", 4317, "http://h:4317", "h:4317"),
            ("h:4317", 4317, "http://h:4317", "h:4317"),
            ("h:80", 80, "http://h:80", "h"),
        ] {
            let url = Url::parse_at(false, 4317, text).unwrap();
            assert_eq!((url.port, url.shown().as_str(), url.authority().as_str()), (port, shown, authority));
            let again = Url::parse_at(false, 4317, url.text().strip_prefix("http://").unwrap()).unwrap();
            assert_eq!(again, url);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for wrong in [
            "",
            "/",
            ":80",
            "a:",
            "a:0",
            "a:+1",
            "a:65536",
            "a b",
            "a\r\nb",
            "ä",
            "a#b",
            "[::1",
            "[::1]x",
            "[a]",
            "a:1:2",
            "::1",
            "u%0a:p@h",
            "u%3Ax:p@h",
            "%zz@h",
            "a%2fb",
            "a,b",
        ] {
            assert!(Url::parse(false, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sockets_have_a_path_of_their_own_and_one_of_requests() {
        for (text, socket, path, shown) in [
            ("/run/apm.socket", "/run/apm.socket", "/", "unix:///run/apm.socket"),
            ("/run/a%3Ab%2c:/x/{kind}?k=v", "/run/a:b,", "/x/{kind}?k=v", "unix:///run/a:b,"),
        ] {
            let url = Url::parse_socket(text).unwrap();
            assert_eq!((url.socket.as_deref(), url.path.as_str()), (Some(socket), path));
            assert_eq!((url.shown().as_str(), url.host.as_str()), (shown, "localhost"));
            assert_eq!(Url::parse_socket(&url.text()["unix://".len()..]).unwrap(), url);
        }
        for wrong in [
            "",
            "/",
            "run/x",
            "/run/x:y",
            "/run/x:/a b",
            "/run/%0a",
            "/run/x:@h/",
            &format!("/{}", "x".repeat(107)),
        ] {
            assert!(Url::parse_socket(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn secrets_are_in_the_text_and_not_in_what_is_shown() {
        let url = Url::parse(true, "ann:se%40cret@h:8443/a/b?sig=xyz").unwrap();
        assert_eq!(url.text(), "https://ann:se%40cret@h:8443/a/b?sig=xyz");
        assert_eq!(Url::parse(true, &url.text()["https://".len()..]).unwrap(), url);
        assert_eq!(format!("{url:?} {}", url.shown()), "https://h:8443 https://h:8443");
    }
}
