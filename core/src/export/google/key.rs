//! A service account's key: what it signs is exchanged for a token.
//!
//! The file is read for each token, of which there is one an hour: a key that is replaced is used then.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use super::text;
use crate::encode::json;
use crate::export::http::base64;
use crate::export::small_file::small_file;
use crate::options::Url;

const SCOPE: &str = "https://www.googleapis.com/auth/monitoring.write";
const LIFETIME: u64 = 3600;
const MOST_BYTES: u64 = 64 << 10;

/// The key of a service account.
pub(super) struct Key {
    /// Where tokens are had.
    pub(super) server: Url,
    pub(super) project: Option<String>,
    address: String,
    email: String,
    id: Option<String>,
    pem: String,
}

/// Reads the file. An error shows nothing of it.
pub(super) fn read(path: &str) -> Result<Key, String> {
    let file = small_file(path.as_ref(), MOST_BYTES)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "not UTF-8".to_string()))
        .map_err(|error| format!("GOOGLE_APPLICATION_CREDENTIALS: {path} could not be read: {error}"))?;
    parse(&file).map_err(|wrong| format!("GOOGLE_APPLICATION_CREDENTIALS: {path} {wrong}"))
}

fn parse(file: &str) -> Result<Key, String> {
    let file = json::parse(file).ok_or("is not JSON")?;
    if text(&file, "type") != Some("service_account") {
        return Err("is not the key of a service account, the one sort of credentials that everprof reads"
            .to_string());
    }
    let part = |name: &str| text(&file, name).map(str::to_string).ok_or_else(|| format!("has no {name}"));
    let address = part("token_uri")?;
    let server = match address.split_once("://") {
        Some(("https", rest)) => Url::parse(true, rest),
        // What is signed is as good as a password for an hour.
        Some(("http", rest)) => Url::parse(false, rest).and_then(|url| match url.host.as_str() {
            "localhost" | "127.0.0.1" => Ok(url),
            _ => Err(String::new()),
        }),
        _ => Err(String::new()),
    };
    let server = server.map_err(|_| "has a token_uri that is not https".to_string())?;
    let (email, pem) = (part("client_email")?, part("private_key")?);
    Ok(Key { server, address, email, pem, project: part("project_id").ok(), id: part("private_key_id").ok() })
}

impl Key {
    /// The body of the request for a token.
    pub(super) fn request(&self) -> Result<String, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        Ok(format!("grant_type={grant}&assertion={}", self.signed(now)?))
    }

    /// Who we are, signed: a JSON Web Token.
    fn signed(&self, now: u64) -> Result<String, String> {
        // Ring's own words about a key may show where in it they are; the key is not shown by any.
        let wrong = |_| "the private_key of the service account is not an RSA key in PKCS #8".to_string();
        let der = PrivatePkcs8KeyDer::from_pem_slice(self.pem.as_bytes())
            .map_err(|_| "the private_key of the service account is not PEM".to_string())?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(wrong)?;
        let id = self.id.as_ref().map_or(String::new(), |id| format!(",\"kid\":{}", json::string(id)));
        let head = format!("{{\"alg\":\"RS256\",\"typ\":\"JWT\"{id}}}");
        let claims = format!(
            "{{\"iss\":{},\"scope\":\"{SCOPE}\",\"aud\":{},\"iat\":{now},\"exp\":{}}}",
            json::string(&self.email),
            json::string(&self.address),
            now + LIFETIME
        );
        let text = format!("{}.{}", base64url(head.as_bytes()), base64url(claims.as_bytes()));
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| "the key of the service account could not sign".to_string())?;
        Ok(format!("{text}.{}", base64url(&signature)))
    }
}

fn base64url(bytes: &[u8]) -> String {
    base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}
