//! The template filter that colors JSON.

use std::io::Write as _;

use serde_json::{Deserializer, Value};
use tera::{Kwargs, State, TeraResult, escape_html};

/// Puts a span around each part of a JSON text: key (class `k`), string (`s`), number (`n`),
/// `true` or `false` (`b`), and `null` (`z`). Escapes everything, so that the result is safe
/// HTML.
pub fn json_highlight(json: &str, _: Kwargs, _: &State) -> TeraResult<tera::Value> {
    let mut html = Vec::new();
    let mut rest = json;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_alphanumeric()) {
        let (punctuation, tokens) = rest.split_at(start);
        let mut values = Deserializer::from_str(tokens).into_iter::<Value>();
        let Some(Ok(value)) = values.next() else { break };
        let (token, after) = tokens.split_at(values.byte_offset());
        let class = match value {
            Value::String(_) if after.starts_with(':') => "k",
            Value::String(_) => "s",
            Value::Bool(_) => "b",
            Value::Null => "z",
            _ => "n",
        };
        escape_html(punctuation, &mut html)?;
        write!(html, "<span class=\"{class}\">")?;
        escape_html(token, &mut html)?;
        write!(html, "</span>")?;
        rest = after;
    }
    escape_html(rest, &mut html)?;
    Ok(tera::Value::safe_string(&String::from_utf8(html)?))
}
