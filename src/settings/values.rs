//! The values of the settings as text, from all sources.

use std::collections::HashMap;
use std::env::{self, VarError};

use anyhow::Result;
use serde_json::json;
use toml::{Table, Value};

use super::env_file;

/// The file with all keys. If there is none in the working folder, this copy is used.
const FILE: &str = "default_settings.toml";
const DEFAULTS: &str = include_str!("../../default_settings.toml");

/// Messages never show these values. The last one may contain a password.
const SECRETS: [&str; 3] = ["CLIENT_CREDENTIAL", "SECRET_KEY", "SESSION_REDIS"];

/// The values by key, and one line for each thing that is wrong with them.
pub struct Values {
    defaults: Table,
    texts: HashMap<String, String>,
    pub errors: Vec<String>,
}

impl Values {
    /// Reads default_settings.toml, then `.env`, then the environment. The last wins.
    pub fn read() -> Result<Self> {
        let mut errors = env_file::load();
        let defaults: Table = DEFAULTS.parse()?;
        let mut table = defaults.clone();
        match env_file::read_text(FILE).map(|text| text.parse::<Table>()) {
            Ok(Ok(file)) => table.extend(file),
            // The whole error would show the line, which may contain a secret.
            Ok(Err(err)) => errors.push(format!("{FILE}: {}", err.message().replace('\n', " "))),
            Err(err) => errors.push(err),
        }
        let mut texts = HashMap::new();
        for (key, value) in table {
            let text = match env::var(&key) {
                _ if !defaults.contains_key(&key) => Err("this key is unknown"),
                Ok(text) if is_quoted(&text) => Err(
                    "the value has quotes around it; remove them, because `docker run --env-file` \
                     passes them on",
                ),
                Ok(text) => Ok(text),
                Err(VarError::NotUnicode(_)) => Err("the value is not UTF-8; set it again"),
                Err(VarError::NotPresent) => text_of(&value).ok_or("accepted is a single value"),
            };
            match text {
                Err(err) => errors.push(format!("{}: {err}", key.escape_debug())),
                Ok(text) => _ = texts.insert(key, text),
            }
        }
        Ok(Self { defaults, texts, errors })
    }

    /// Takes the value of a key, if `parse` accepts it. Otherwise notes an error and takes the
    /// default, so that one start finds every wrong value.
    pub fn take<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T>) -> T {
        let default = text_of(&self.defaults[key]).unwrap_or_default();
        let text = self.texts.get(key).unwrap_or(&default);
        parse(text).unwrap_or_else(|err| {
            // As JSON, a text with line breaks stays on one line.
            let is_secret = SECRETS.contains(&key);
            let shown = if is_secret { key.to_owned() } else { format!("{key} = {}", json!(text)) };
            self.errors.push(format!("{shown}: {err:#}"));
            parse(&default).expect("default_settings.toml has only accepted values")
        })
    }

    /// Whether the value of this key is empty.
    pub fn is_empty(&self, key: &str) -> bool {
        self.texts.get(key).is_none_or(String::is_empty)
    }
}

fn is_quoted(text: &str) -> bool {
    let mut quotes = ['\'', '"'].into_iter();
    text.len() > 1 && quotes.any(|quote| text.starts_with(quote) && text.ends_with(quote))
}

/// A text, a number, `true` or `false` as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Table(_) => None,
        value => Some(value.to_string()),
    }
}
