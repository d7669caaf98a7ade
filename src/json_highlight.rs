//! The template filter that colours JSON.

use tera::{Kwargs, State, TeraResult, Value, escape_html};

/// The template filter that colours a JSON text: it puts a span around each
/// key (class `k`), string (`s`), number (`n`), `true` or `false` (`b`) and
/// `null` (`z`). All else is only escaped, so what comes out is safe HTML
/// whatever goes in.
pub fn json_highlight(json: &str, _: Kwargs, _: &State) -> TeraResult<Value> {
    let mut html = Vec::with_capacity(4 * json.len());
    let mut rest = json;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_alphanumeric()) {
        let (punctuation, tokens) = rest.split_at(start);
        escape_html(punctuation, &mut html)?;

        // A string ends at the first quote that no backslash escapes, any other
        // token where a separator follows.
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
