//! The markers that articles quote the code by, and the copies that must
//! stay copies.

use std::collections::BTreeMap;
use std::fs;

/// Every marked block of every file. One that vanishes here blanks an
/// article, silently.
const MARKERS: [(&str, &[&str]); 6] = [
    ("src/main.rs", &["ms_docref_import_modules", "ms_docref_create_and_initialize_app", "ms_docref_openid_metadata"]),
    ("src/routes/index.rs", &["ms_docref_unprotected_app_route"]),
    (
        "src/routes/graph.rs",
        &[
            "ms_docref_require_authentication",
            "ms_docref_acquire_token",
            "ms_docref_cache_tokens",
            "ms_docref_call_ms_graph",
            "ms_docref_build_auth_code_flow",
        ],
    ),
    (
        "src/routes/admin.rs",
        &[
            "ms_docref_require_authentication",
            "ms_docref_require_admin_role_authNZ",
            "ms_docref_display_admin_view_content",
            "ms_docref_build_auth_code_flow",
        ],
    ),
    (
        "src/routes/auth_redirect.rs",
        &["ms_docref_redeem_auth_code", "ms_docref_validate_id_token", "ms_docref_cache_tokens"],
    ),
    ("src/routes/logout.rs", &["ms_docref_logout_user"]),
];

/// The blocks that stand in more than one route file, which is the point of
/// the sample.
const REPEATED: [&str; 3] =
    ["ms_docref_build_auth_code_flow", "ms_docref_cache_tokens", "ms_docref_require_authentication"];

/// Reads the marked blocks of a file as documentation builders do, with
/// every line's indent taken off.
///
/// # Errors
/// The line and what is wrong there: those builders put in nothing, or the
/// wrong thing, without a word.
fn blocks(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut finished: Vec<(String, Vec<String>)> = Vec::new();
    let mut order = Vec::new();
    let mut open: Vec<(String, Vec<String>)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let at = at + 1;
        let line = line.trim();
        if !line.contains("<ms_docref") && !line.contains("</ms_docref") {
            open.iter_mut().for_each(|(_, block)| block.push(line.to_owned()));
            continue;
        }
        let tag = line.strip_prefix("// <").and_then(|tag| tag.strip_suffix('>'));
        let tag = tag.ok_or(format!("line {at}: not alone on its line: {line}"))?;
        let (is_end, name) = tag.strip_prefix('/').map_or((false, tag), |name| (true, name));
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
            return Err(format!("line {at}: no name: {name:?}"));
        }
        if is_end {
            let (started, block) = open.pop().ok_or(format!("line {at}: {name} is not open"))?;
            if !started.eq_ignore_ascii_case(name) {
                return Err(format!("line {at}: {name} ends where {started} is open"));
            }
            finished.push((started, block));
        } else {
            if order.iter().any(|known: &String| known.eq_ignore_ascii_case(name)) {
                return Err(format!("line {at}: {name} is there twice"));
            }
            order.push(name.to_owned());
            open.push((name.to_owned(), Vec::new()));
        }
    }
    if let Some((name, _)) = open.pop() {
        return Err(format!("{name} is not closed"));
    }
    finished.sort_by_key(|(name, _)| order.iter().position(|known| known == name));
    Ok(finished)
}

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// What counts of a block when it is compared: all but white space, and
/// commas that only end a list. A comment counts too.
fn essence(block: &[String]) -> String {
    // A comment's lines may break elsewhere where the indent is another one.
    let text: Vec<&str> = block.iter().map(|line| line.strip_prefix("//").unwrap_or(line)).collect();
    let text: String = text.concat().split_whitespace().collect();
    [",)", ",]", ",}"].iter().fold(text, |text, end| text.replace(end, &end[1..]))
}

#[test]
fn every_marker_is_in_place_and_no_other() {
    for (file, names) in MARKERS {
        let found: Vec<String> = blocks(&read(file)).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, names, "{file}");
    }
    let marked = MARKERS.map(|(file, _)| file);
    let others =
        ["src/settings.rs", "src/session_store.rs", "src/log.rs", "src/json_highlight.rs", "src/routes/mod.rs"];
    for file in others {
        assert!(!marked.contains(&file) && blocks(&read(file)).unwrap().is_empty(), "{file}");
    }
}

#[test]
fn blocks_of_the_same_name_are_the_same_text() {
    let mut copies: BTreeMap<String, Vec<(&str, String)>> = BTreeMap::new();
    for (file, _) in MARKERS {
        for (name, block) in blocks(&read(file)).unwrap() {
            copies.entry(name).or_default().push((file, essence(&block)));
        }
    }
    copies.retain(|_, copies| copies.len() > 1);
    assert_eq!(copies.keys().collect::<Vec<_>>(), REPEATED);
    for (name, copies) in copies {
        for (file, text) in &copies {
            assert_eq!(*text, copies[0].1, "{name} in {file} is not what it is in {}", copies[0].0);
            assert!(text.len() > 100, "{name} in {file} is empty");
        }
    }
}

#[test]
fn a_route_file_stands_alone() {
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/routes")).unwrap() {
        let path = entry.unwrap().path();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let names_ours = line.contains("crate::") || line.contains("super::");
            assert!(!names_ours || line == "use crate::settings::Settings;", "{path:?}: {line}");
        }
    }
}

#[test]
fn slips_with_markers_are_found() {
    let slips = [
        ("// <ms_docref_require authentication>\n// </ms_docref_require authentication>", "no name"),
        ("// <ms_docref_a>\n// <ms_docref_b>\n// </ms_docref_a>\n// </ms_docref_b>", "ends where"),
        ("// <ms_docref_a>\nlet a = 1;", "not closed"),
        ("// <ms_docref_a>\n// </ms_docref_a>\n// <ms_docref_A>\n// </ms_docref_A>", "twice"),
        ("// </ms_docref_a>", "not open"),
        ("let a = 1; // <ms_docref_a>\n// </ms_docref_a>", "not alone"),
    ];
    for (text, slip) in slips {
        assert!(blocks(text).unwrap_err().contains(slip), "{text}");
    }
    let nested =
        blocks("// <ms_docref_a>\nlet a = 1;\n// <ms_docref_b>\n  let b = 2;\n// </ms_docref_B>\n// </ms_docref_a>");
    let text = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = [("ms_docref_a", text(&["let a = 1;", "let b = 2;"])), ("ms_docref_b", text(&["let b = 2;"]))];
    assert_eq!(nested.unwrap(), expected.map(|(name, block)| (name.to_owned(), block)));
}
