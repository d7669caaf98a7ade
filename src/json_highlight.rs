//! The template filter that colors JSON.

use tera::{Kwargs, State, TeraResult, Value, escape_html};

/// Puts a span around each part of a JSON text: key (class `k`), string (`s`), number (`n`),
/// `true` or `false` (`b`), and `null` (`z`). Escapes everything, so that the result is safe
/// HTML.
pub fn json_highlight(json: &str, _: Kwargs, _: &State) -> TeraResult<Value> {
    let mut html = Vec::with_capacity(4 * json.len());
    let mut rest = json;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_alphanumeric()) {
        let (punctuation, tokens) = rest.split_at(start);
        escape_html(punctuation, &mut html)?;

        // A string ends at the first quote without a backslash before it. Any other token ends
        // at a separator.
        let mut escaped = false;
        let closing_quote = |c| {
            let closing = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closing
        };
        let end = match tokens.strip_prefix('"') {
            Some(string) => string.find(closing_quote).map(|quote| quote + 2),
            None => tokens.find([',', ']', '}', ' ', '\n']),
        };
        let (token, after) = tokens.split_at(end.unwrap_or(tokens.len()));
        let class = match token.as_bytes() {
            [b'"', ..] if after.starts_with(':') => "k",
            [b'"', ..] => "s",
            [b't' | b'f', ..] => "b",
            [b'n', ..] => "z",
            _ => "n",
        };
        for part in ["<span class=\"", class, "\">"] {
            html.extend_from_slice(part.as_bytes());
        }
        escape_html(token, &mut html)?;
        html.extend_from_slice(b"</span>");
        rest = after;
    }
    escape_html(rest, &mut html)?;
    Ok(Value::safe_string(&String::from_utf8(html)?))
}
