//! Who may ask: who has the token, where there is one; and no page in somebody's browser.

use std::net::IpAddr;

use super::head::Head;
use crate::options::Secret;
use crate::pull::Answer;

/// Refuses a request, or lets it pass.
pub(super) fn check(head: &Head, token: &Secret, is_loopback: bool) -> Result<(), Answer> {
    if token.is_set() {
        let given = head.authorization.as_deref().and_then(given);
        if !given.is_some_and(|given| token.is(&given)) {
            let reason = "the pull side asks for its token: Authorization: Bearer TOKEN, or TOKEN as the password of the URL";
            return Err(
                Answer::error(401, reason).with("WWW-Authenticate", "Basic realm=\"everprof\", Bearer")
            );
        }
    }
    // Also with the token, which browsers send along once somebody has typed it.
    if head.is_cross_site {
        return Err(Answer::error(403, "a page of another site asks for this"));
    }
    // The name of somebody else that leads to this machine is how his page reads what is not his (DNS rebinding).
    if !token.is_set() && is_loopback && head.host.as_deref().is_some_and(|host| !is_own(host)) {
        return Err(Answer::error(
            403,
            "Host is neither an address nor localhost: ask for http://localhost, or set serve_token to come by other names",
        ));
    }
    Ok(())
}

/// The secret of a `Bearer`, or the password of a `Basic`, which is how URLs and browsers tell it.
fn given(authorization: &[u8]) -> Option<Vec<u8>> {
    let space = authorization.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&authorization[..space], authorization[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let pair = base64(rest)?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let mut out = Vec::with_capacity(digits * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for byte in &text[..digits] {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// Whether a browser that was told this name can only be on this machine: an address, or localhost.
fn is_own(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::head::parse;
    use super::*;
    use crate::options::Options;

    fn status(headers: &str, token: &str, is_loopback: bool) -> u16 {
        let mut options = Options::default();
        options.set("serve_token", token).unwrap();
        let head = parse(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()).unwrap();
        check(&head, &options.serve_token, is_loopback).map_or_else(|answer| answer.status, |()| 200)
    }

    #[test]
    fn a_token_is_asked_for_in_the_ways_that_clients_have() {
        for (authorization, wanted) in [
            ("", 401),
            ("Authorization: Bearer open-sesame\r\n", 200),
            ("authorization: bearer  open-sesame\r\n", 200),
            ("Authorization: Bearer open-sesam\r\n", 401),
            ("Authorization: open-sesame\r\n", 401),
            ("Authorization: Bearer\r\n", 401),
            // x:open-sesame, :open-sesame, open-sesame, and what is not base64.
            ("Authorization: Basic eDpvcGVuLXNlc2FtZQ==\r\n", 200),
            ("Authorization: Basic Om9wZW4tc2VzYW1l\r\n", 200),
            ("Authorization: Basic b3Blbi1zZXNhbWU=\r\n", 401),
            ("Authorization: Basic %%%\r\n", 401),
        ] {
            assert_eq!(
                status(&format!("Host: evil.example\r\n{authorization}"), "open-sesame", true),
                wanted,
                "{authorization}"
            );
        }
    }

    #[test]
    fn pages_of_others_read_nothing() {
        for (host, wanted) in [
            ("127.0.0.1:6060", 200),
            ("[::1]:6060", 200),
            ("localhost", 200),
            ("LOCALHOST.:1", 200),
            ("shop.localhost:1", 200),
            ("evil.example", 403),
            ("evil.example:6060", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 403),
        ] {
            assert_eq!(status(&format!("Host: {host}\r\n"), "", true), wanted, "{host}");
        }
        assert_eq!(status("Host: shop.internal\r\n", "", false), 200);
        let cross = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: ";
        assert_eq!(status(&format!("{cross}no-cors\r\n"), "", false), 403);
        assert_eq!(status(&format!("{cross}navigate\r\n"), "", true), 200);
        assert_eq!(status(&format!("{cross}navigate\r\nSec-Fetch-Dest: document\r\n"), "", true), 200);
        assert_eq!(status(&format!("{cross}navigate\r\nSec-Fetch-Dest: iframe\r\n"), "", true), 403);
        let known = "Authorization: Basic eDpvcGVuLXNlc2FtZQ==\r\n";
        assert_eq!(status(&format!("{cross}no-cors\r\n{known}"), "open-sesame", true), 403);
        assert_eq!(status(&format!("{cross}no-cors\r\n"), "open-sesame", true), 401);
    }
}
