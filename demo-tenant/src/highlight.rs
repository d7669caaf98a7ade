//! Colors Rust code: comments, texts, keywords, numbers and labels.

const KEYWORDS: [&str; 30] = [
    "as", "async", "await", "break", "const", "continue", "crate", "else", "enum", "false", "fn",
    "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref",
    "return", "self", "static", "struct", "true", "use", "while",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Comment,
    Text,
    Keyword,
    Number,
    /// A lifetime, or the name of a block.
    Label,
    Other,
}

#[derive(PartialEq, Eq, Debug)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
}

/// Splits code. All tokens together are the code.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (kind, length) = if rest.starts_with("//") {
            (Kind::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if let Some(length) = length_of_text(rest) {
            (Kind::Text, length)
        } else if first == '\'' {
            length_after_quote(rest)
        } else if first.is_ascii_digit() {
            (Kind::Number, word)
        } else if word > 0 {
            let is_keyword = KEYWORDS.contains(&&rest[..word]);
            (if is_keyword { Kind::Keyword } else { Kind::Other }, word)
        } else {
            (Kind::Other, first.len_utf8())
        };
        let (text, after) = rest.split_at(length);
        tokens.push(Token { kind, text });
        rest = after;
    }
    tokens
}

/// The length of a text literal at the start, if there is one.
fn length_of_text(code: &str) -> Option<usize> {
    let after_prefix = code.trim_start_matches(['b', 'r']);
    let prefix = code.len() - after_prefix.len();
    let hashes = after_prefix.len() - after_prefix.trim_start_matches('#').len();
    if prefix > 2 || !after_prefix[hashes..].starts_with('"') || (prefix == 0 && hashes > 0) {
        return None;
    }
    let start = prefix + hashes + 1;
    if code[..prefix].contains('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(start + code[start..].find(&end)? + end.len());
    }
    let mut is_escaped = false;
    for (position, c) in code[start..].char_indices() {
        match c {
            '"' if !is_escaped => return Some(start + position + 1),
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    None
}

/// A character such as `'x'` or `'\n'`, or a label such as `'needs_sign_in`.
fn length_after_quote(code: &str) -> (Kind, usize) {
    let character = code[1..].char_indices().skip(if code[1..].starts_with('\\') { 2 } else { 1 });
    match character.clone().next() {
        Some((position, '\'')) => (Kind::Text, position + 2),
        _ => {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            (Kind::Label, 1 + code[1..].find(|c| !is_name(c)).unwrap_or(code.len() - 1))
        }
    }
}

/// Each line of the code as HTML.
pub fn highlight(code: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for Token { kind, text } in tokens(code) {
        let class = match kind {
            Kind::Comment => "c",
            Kind::Text => "s",
            Kind::Keyword => "k",
            Kind::Number => "n",
            Kind::Label => "l",
            Kind::Other => "",
        };
        for (number, part) in text.split('\n').enumerate() {
            if number > 0 {
                lines.push(String::new());
            }
            let Some(line) = lines.last_mut() else { continue };
            let part = part.trim_end_matches('\r');
            let escaped = part.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            // The indent stays outside, so that it can be removed.
            let after_indent = escaped.trim_start();
            line.push_str(&escaped[..escaped.len() - after_indent.len()]);
            if class.is_empty() || after_indent.is_empty() {
                line.push_str(after_indent);
            } else {
                line.push_str(&format!("<span class=\"{class}\">{after_indent}</span>"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found_and_nothing_is_lost() {
        let code = "// a \"comment\"\nlet x = 'a: { r#\"te\"xt\"# } + \"a \\\" // b\";\nif c == '\\n' && d == '\"' { 4_0 }";
        let found = tokens(code);
        assert_eq!(found.iter().map(|token| token.text).collect::<String>(), code);
        let of = |kind| -> Vec<&str> {
            found.iter().filter(|token| token.kind == kind).map(|token| token.text).collect()
        };
        assert_eq!(of(Kind::Comment), ["// a \"comment\""]);
        assert_eq!(of(Kind::Text), ["r#\"te\"xt\"#", "\"a \\\" // b\"", "'\\n'", "'\"'"]);
        assert_eq!(of(Kind::Keyword), ["let", "if"]);
        assert_eq!((of(Kind::Number), of(Kind::Label)), (vec!["4_0"], vec!["'a"]));
    }

    #[test]
    fn a_text_of_several_lines_is_colored_on_each_and_escaped() {
        let lines = highlight("f(\"<a \\\n    &b\")");
        assert_eq!(
            lines,
            ["f(<span class=\"s\">\"&lt;a \\</span>", "    <span class=\"s\">&amp;b\"</span>)"]
        );
    }
}
