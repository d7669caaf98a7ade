//! Where sessions live: in files (files.rs), or in Redis (redis.rs).
//!
//! The browser has only the session ID. actix-session loads the session before a handler
//! runs, and writes back all of its values after that. Two rules hold in both stores:
//! - An update does not bring back a session that was deleted since. A sign-out wins.
//! - A session ends at a fixed time after the sign-in. A visit does not extend it.

use std::collections::{BTreeMap, HashMap};

use actix_session::storage::SessionKey;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tracing::warn;

pub mod files;
#[cfg(feature = "redis")]
pub mod redis;

/// The values of a session as actix-session has them. Each value is JSON text.
type State = HashMap<String, String>;

/// The values of a session as JSON, which people and tools can read.
type Values = BTreeMap<String, Box<RawValue>>;

fn to_values(state: State) -> serde_json::Result<Values> {
    state.into_iter().map(|(key, json)| Ok((key, RawValue::from_string(json)?))).collect()
}

fn to_state(values: Values) -> State {
    values.into_iter().map(|(key, value)| (key, value.get().to_owned())).collect()
}

/// Parses a session. One that is damaged is treated as missing. The log gets the place of
/// the error and no values, because these may be tokens.
fn parse<T: DeserializeOwned>(name: &str, json: &[u8]) -> Option<T> {
    let session = serde_json::from_slice(json).inspect_err(|err| {
        let (line, column) = (err.line(), err.column());
        warn!("{name} is damaged at line {line}, column {column}, and is treated as missing");
    });
    session.ok()
}

/// The name of a session in the store. It is a hash: a copy of the store has no session ID.
fn name_of(key: &SessionKey) -> String {
    format!("session-{:x}", Sha256::digest(key.as_ref()))
}
