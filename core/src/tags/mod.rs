//! Tags: what the profiles of this process say about where they come from.

#[allow(dead_code, reason = "the sources that use the rest of it follow in this module")]
mod rules;

pub(crate) use rules::{
    MAX_USER_TAGS, MAX_VALUE_BYTES, check_key, check_value, percent_decode, percent_encode,
};
