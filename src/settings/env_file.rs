//! Reads `.env`. A value arrives as it is written: no character in it has a special meaning.
//!
//! dotenvy 0.15, dotenvs 0.2 and dotenv-parser 0.1 change values. They replace `$name`, read `\`
//! as an escape, or cut a value at `#`. A client secret can contain these characters.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Puts the values of `.env` into the environment, where RUST_LOG and SSL_CERT_FILE work too. A
/// variable that exists already remains. Returns what is wrong with the file.
pub fn load() -> Vec<String> {
    let text = match read_text(".env") {
        Ok(text) => text,
        Err(err) => return vec![err],
    };
    let mut errors = Vec::new();
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match parse(line) {
            Ok(pair) => pairs.extend(pair),
            Err(err) => errors.push(format!(".env, line {}: {err}", index + 1)),
        }
    }
    // The first value remains. In a shell the last one wins, so begin with that.
    for (key, value) in pairs.into_iter().rev() {
        // With these escapes, dotenvy keeps the value. It sets the variable, which would be
        // unsafe code here.
        let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('$', r"\$");
        if dotenvy::from_read(format!("{key}=\"{value}\"").as_bytes()).is_err() {
            errors.push(format!(".env: {key} cannot be an environment variable; rename it"));
        }
    }
    errors
}

/// The key and the value in a line, unless it is empty or a comment.
fn parse(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains(|letter: char| letter.is_control() && letter != '\t') {
        return Err("this line contains a control character; remove it");
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (key, value) = line.split_once('=').unwrap_or_default();
    let (key, value) = (key.trim_ascii(), value.trim_ascii());
    let is_in_key = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if !key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        || !key.chars().all(is_in_key)
    {
        return Err("this is not KEY=value; begin a comment with #");
    }
    let Some(quote) = value.chars().next().filter(|first| ['\'', '"'].contains(first)) else {
        if value.starts_with('#') || value.contains(" #") || value.contains("\t#") {
            return Err("the value contains #; put it in quotes, or the comment on its own line");
        }
        return Ok(Some((key, value)));
    };
    let (value, rest) =
        value[1..].rsplit_once(quote).ok_or("the quotes do not end; add a quote")?;
    let is_comment = rest.starts_with([' ', '\t']) && rest.trim_ascii().starts_with('#');
    if value.contains(quote) || !(rest.is_empty() || is_comment) {
        return Err("it is not clear where the quotes end; use the other kind, ' or \"");
    }
    Ok(Some((key, value)))
}

/// The text of a file, which is empty if there is none. The error has one line.
pub fn read_text(path: &str) -> Result<String, String> {
    let bytes = match fs::read(Path::new(path)) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(String::new()),
        bytes => bytes.map_err(|err| format!("{path}: {err}"))?,
    };
    // PowerShell 5 writes UTF-16 with `>`. There, one of the two bytes of each Latin letter is zero.
    if bytes.contains(&0) {
        return Err(format!("{path} is encoded in UTF-16; save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|err| {
        let before = &err.as_bytes()[..err.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{path}, line {line}: this is not UTF-8; save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
