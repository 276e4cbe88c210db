//! Which proxy a server is reached by: the option's, or the one that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`
//! name for all programs, read as curl and Go read them.

use std::net::IpAddr;

use super::ambient::Lookup;
use super::http::base64;
use crate::options::{ProxyChoice, Url, proxy_url};

/// The variables that are read here.
pub(super) const VARIABLES: [&str; 9] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUEST_METHOD",
];

/// The proxy for this server, if any. What is wrong with the environment's is for a warning: it must not keep a program from
/// starting.
pub(super) fn of(url: &Url, choice: &ProxyChoice, var: Lookup<'_>) -> Result<Option<Url>, String> {
    let address = url.host.parse::<IpAddr>().ok();
    // A proxy's loopback is another machine's.
    if url.socket.is_some() || url.host == "localhost" || address.is_some_and(|address| address.is_loopback())
    {
        return Ok(None);
    }
    let first = |names: &[&str]| names.iter().find_map(|name| Some((name.to_string(), var(name)?)));
    let is_left_out =
        || first(&["NO_PROXY", "no_proxy"]).is_some_and(|(_, list)| is_listed(&list, url, address));
    match choice {
        ProxyChoice::Off => Ok(None),
        ProxyChoice::At(_) | ProxyChoice::Environment if is_left_out() => Ok(None),
        ProxyChoice::At(proxy) => Ok(Some(proxy.clone())),
        ProxyChoice::Environment => {
            // Whoever runs below a web server has the variable of that name from a client's header `Proxy`.
            let is_cgi = var("REQUEST_METHOD").is_some();
            let found = match (url.is_secure, is_cgi) {
                (true, _) => first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
                (false, false) => first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
                (false, true) => first(&["http_proxy", "ALL_PROXY", "all_proxy"]),
            };
            let Some((name, text)) = found else { return Ok(None) };
            proxy_url(&text).map(Some).map_err(|_| {
                format!("{name} is not used: it is neither http://host:port nor https://host:port, the sorts of proxies that everprof knows")
            })
        }
    }
}

/// What no error may show of a URL's user: who has no password is a token himself.
pub(super) fn secrets(url: &Url) -> Vec<String> {
    let secrets = |(user, password): &(String, String)| {
        let secret = if password.is_empty() { user } else { password };
        vec![secret.clone(), base64(format!("{user}:{password}").as_bytes())]
    };
    url.user.as_ref().map_or_else(Vec::new, secrets)
}

/// Whether a list such as `.example.com,10.0.0.0/8,host:8080` has this server.
fn is_listed(list: &str, url: &Url, address: Option<IpAddr>) -> bool {
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
            return is_within(address, network, bits);
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (entry, None),
        };
        if port.is_some_and(|port: u16| port != url.port) {
            return false;
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if let Ok(entry) = host.parse::<IpAddr>() {
            return address == Some(entry);
        }
        let domain = host.trim_start_matches('*').trim_start_matches('.');
        !domain.is_empty()
            && (url.host == domain || url.host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
    })
}

fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    // Both as numbers of 128 bits, with what is counted at their top.
    let (address, network) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits()) << 96, u128::from(network.to_bits()) << 96)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits()),
        _ => return false,
    };
    let rest = 128_u32.saturating_sub(bits);
    rest >= 128 || address >> rest == network >> rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::ambient::Kept;
    use super::*;

    /// By the variables as they are kept, which are to be all that are read.
    fn proxy(is_secure: bool, place: &str, choice: &ProxyChoice, vars: &[(&str, &str)]) -> Option<String> {
        let kept = Kept::new(&VARIABLES, &|name| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string())
        });
        of(&Url::parse(is_secure, place).unwrap(), choice, &|name| kept.var(name))
            .unwrap()
            .map(|url| url.text())
    }

    #[test]
    fn the_environment_names_a_proxy_for_each_scheme() {
        let environment = ProxyChoice::Environment;
        let vars = [
            ("HTTPS_PROXY", "http://s:1"),
            ("http_proxy", "h:2"),
            ("NO_PROXY", ".near.example,10.0.0.0/8,x:81"),
        ];
        for (is_secure, place, expected) in [
            (true, "far.example", Some("http://s:1/")),
            (false, "far.example", Some("http://h:2/")),
            (true, "a.near.example", None),
            (true, "near.example", None),
            (true, "notnear.example", Some("http://s:1/")),
            (true, "10.1.2.3", None),
            (true, "11.1.2.3", Some("http://s:1/")),
            (false, "x:81", None),
            (false, "x:82", Some("http://h:2/")),
            (true, "localhost", None),
            (true, "127.0.0.1", None),
            (true, "[::1]", None),
        ] {
            assert_eq!(proxy(is_secure, place, &environment, &vars).as_deref(), expected, "{place}");
        }
        let cgi = [("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(proxy(false, "far.example", &environment, &cgi), None);
        assert_eq!(proxy(false, "far.example", &environment, &cgi[..1]).as_deref(), Some("http://evil:1/"));
        let all = [("ALL_PROXY", "http://a:3"), ("NO_PROXY", "*")];
        assert_eq!(proxy(true, "far.example", &environment, &all), None);
        assert_eq!(proxy(true, "far.example", &environment, &all[..1]).as_deref(), Some("http://a:3/"));
        assert_eq!(proxy(true, "[fd00::2]", &environment, &[all[0], ("NO_PROXY", "fd00::/8")]), None);
    }

    #[test]
    fn an_option_wins_and_a_wrong_variable_is_named() {
        let own = ProxyChoice::At(Url::parse(false, "own:9").unwrap());
        let vars = [("HTTPS_PROXY", "http://s:1"), ("no_proxy", "near.example")];
        assert_eq!(proxy(true, "far.example", &own, &vars).as_deref(), Some("http://own:9/"));
        assert_eq!(proxy(true, "near.example", &own, &vars), None);
        assert_eq!(proxy(true, "far.example", &ProxyChoice::Off, &vars), None);
        let wrong = of(&Url::parse(true, "far.example").unwrap(), &ProxyChoice::Environment, &|name| {
            (name == "HTTPS_PROXY").then(|| "socks5://ann:pw@p".to_string())
        });
        assert!(
            wrong.as_ref().is_err_and(|wrong| wrong.contains("HTTPS_PROXY") && !wrong.contains("pw")),
            "{wrong:?}"
        );
    }
}
