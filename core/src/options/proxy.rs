//! The proxy that requests to servers go by.

use super::url::Url;
use super::value::Setting;

/// The proxy of requests to servers: by default the one that the environment names for all programs.
///
/// ```
/// let mut options = everprof::Options::default();
/// options.set("push_proxy", "http://ann:secret@proxy:3128").unwrap();
/// assert!(format!("{options:?}").contains("http://proxy:3128"));
/// assert!(options.set("push_proxy", "socks5://proxy").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy(Choice);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    #[default]
    Environment,
    Off,
    At(Url),
}

impl Proxy {
    pub(crate) fn choice(&self) -> &Choice {
        &self.0
    }
}

const RIGHT: &str = "environment, off, or http://host:port or https://host:port, with user:password@ before the host where it \
                     asks for them";

/// The URL of a proxy, which may go without its scheme. An error says what would be right, and nothing of what was given.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let wrong = || format!("give {RIGHT}");
    let (is_secure, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, _)) if scheme.to_ascii_lowercase().starts_with("socks") => {
            return Err(format!("SOCKS is not spoken here: give {RIGHT}"));
        }
        Some(_) => return Err(wrong()),
        None => (false, text),
    };
    let url = Url::parse(is_secure, rest).map_err(|_| wrong())?;
    if url.path == "/" { Ok(url) } else { Err(wrong()) }
}

impl Setting for Proxy {
    const SECRET: bool = true;

    fn accepts() -> String {
        RIGHT.to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(match text.to_ascii_lowercase().as_str() {
            "" | "environment" => Choice::Environment,
            "off" => Choice::Off,
            _ => Choice::At(url(text)?),
        }))
    }

    fn text(&self) -> String {
        match &self.0 {
            Choice::Environment => "environment".to_string(),
            Choice::Off => "off".to_string(),
            Choice::At(url) => url.text(),
        }
    }

    fn shown(&self) -> String {
        match &self.0 {
            Choice::At(url) => url.shown(),
            _ => self.text(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_shown_without_their_secrets() {
        for (text, canonical, shown) in [
            ("", "environment", "environment"),
            ("OFF", "off", "off"),
            ("HTTP://Ann:pw@P:3128/", "http://Ann:pw@p:3128/", "http://p:3128"),
            ("10.0.0.1:8080", "http://10.0.0.1:8080/", "http://10.0.0.1:8080"),
            ("https://ann:pw@p", "https://ann:pw@p/", "https://p"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.text().as_str(), proxy.shown().as_str()), (canonical, shown));
            assert_eq!(Proxy::parse(&proxy.text()).unwrap(), proxy);
            assert!(!format!("{proxy:?}").contains("pw"));
        }
        assert!(
            Proxy::parse("socks5h://ann:pw@p").unwrap_err().starts_with("SOCKS is not spoken here: give")
        );
        for wrong in ["socks5://p", "ftp://p", "http://", "p/path", "ann:pw@p#x", "http://ann:pw@p:0"] {
            assert!(!Proxy::parse(wrong).unwrap_err().contains("pw"), "{wrong}");
        }
    }
}
