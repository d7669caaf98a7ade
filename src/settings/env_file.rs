//! Reads `.env`. A value arrives as it is written. No character has a special meaning.
//!
//! The crates dotenvy, dotenvs and dotenv-parser replace `$name`, read `\` as an escape, or
//! cut a value at `#`. A client secret can contain these characters.

use std::fs;
use std::io::ErrorKind;

/// Puts the values of `.env` into the environment, where RUST_LOG and SSL_CERT_FILE work
/// too. A variable that exists already remains. Returns what is wrong with the file.
pub fn load() -> Vec<String> {
    let text = match read_text(".env") {
        Ok(text) => text,
        Err(err) => return vec![err],
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut errors = Vec::new();
    // The first value of a key remains. In a shell the last one wins, so begin with that.
    for (index, line) in lines.iter().enumerate().rev() {
        if let Err(err) = load_line(line.trim_ascii()) {
            errors.insert(0, format!(".env, line {}: {err}", index + 1));
        }
    }
    errors
}

/// Puts the value in a line into the environment, unless the line is empty or a comment.
fn load_line(line: &str) -> Result<(), &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    if line.contains(|letter: char| letter.is_control() && letter != '\t') {
        return Err("this line contains a control character; remove it");
    }
    let (key, value) = line.split_once('=').unwrap_or_default();
    let value = without_quotes(value.trim_ascii())?;
    // dotenvy sets the variable, which would be unsafe code here. With these escapes,
    // dotenvy keeps the value.
    let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('$', r"\$");
    dotenvy::from_read(format!("{key}=\"{value}\"").as_bytes())
        .map_err(|_| "this is not KEY=value; begin a comment with #")
}

fn without_quotes(value: &str) -> Result<&str, &'static str> {
    let Some(quote) = value.chars().next().filter(|first| ['\'', '"'].contains(first)) else {
        if value.starts_with('#') || value.contains(" #") || value.contains("\t#") {
            return Err("the value contains #; put it in quotes, or the comment on its own line");
        }
        return Ok(value);
    };
    let (value, rest) =
        value[1..].rsplit_once(quote).ok_or("the quotes do not end; add a quote")?;
    let is_comment = rest.starts_with([' ', '\t']) && rest.trim_ascii().starts_with('#');
    if value.contains(quote) || !(rest.is_empty() || is_comment) {
        return Err("it is not clear where the quotes end; use the other kind, ' or \"");
    }
    Ok(value)
}

/// The text of a file, which is empty if there is none. The error has one line.
pub fn read_text(path: &str) -> Result<String, String> {
    let bytes = match fs::read(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(String::new()),
        bytes => bytes.map_err(|err| format!("{path}: {err}"))?,
    };
    // PowerShell 5 writes UTF-16 with `>`. One of the two bytes of a Latin letter is zero.
    if bytes.contains(&0) {
        return Err(format!("{path} is encoded in UTF-16; save it as UTF-8"));
    }
    let text = str::from_utf8(&bytes).map_err(|err| {
        let line = bytes[..err.valid_up_to()].split(|byte| *byte == b'\n').count();
        format!("{path}, line {line}: this is not UTF-8; save the file as UTF-8")
    })?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}
