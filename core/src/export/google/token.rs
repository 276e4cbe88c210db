//! The token that requests carry.

use std::fmt;
use std::time::Duration;

use super::text;
use crate::encode::json;

/// A token and how long it is good for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) value: String,
    pub(super) lifetime: Duration,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token([hidden], {:?})", self.lifetime)
    }
}

/// The token of an answer. An error shows nothing of it.
pub(super) fn read(answer: &str) -> Result<Token, String> {
    const LONGEST: u64 = 24 * 3600;
    let wrong = || "the answer is no token".to_string();
    let answer = json::parse(answer).ok_or_else(wrong)?;
    let value = text(&answer, "access_token").ok_or_else(wrong)?;
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let seconds = answer.get("expires_in").and_then(json::Value::integer).unwrap_or_default();
    let lifetime = Duration::from_secs(u64::try_from(seconds).unwrap_or_default().min(LONGEST));
    Ok(Token { value: value.to_string(), lifetime })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_never_shown() {
        let token =
            read(r#"{"access_token": "ya29.sesame", "expires_in": 3599, "token_type": "Bearer"}"#).unwrap();
        assert_eq!((token.value.as_str(), token.lifetime.as_secs()), ("ya29.sesame", 3599));
        assert!(!format!("{token:?}").contains("sesame"));
        for wrong in ["sesame", "{}", r#"{"access_token": "ses\name"}"#, r#"{"access_token": ""}"#] {
            assert!(!read(wrong).unwrap_err().contains("sesame"), "{wrong}");
        }
    }
}
