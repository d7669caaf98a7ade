//! What the page shows of one message: its fields, and what is inside them.

use actix_web::cookie::time::OffsetDateTime;
use base64::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::agreement::{Agreement, Place};
use super::jwt::{Jwt, open_jwt};
use super::parameters::{PARAMETERS, Parameter};
use crate::events::Message;
use crate::tenant::TENANT_ID;
use crate::wire::{Fields, find, text_of, timestamp};

/// A table, or a text.
#[derive(Serialize, Default)]
pub struct Table {
    caption: String,
    /// The number of the part of a JWT.
    part: Option<usize>,
    rows: Vec<Row>,
    json: Option<String>,
    jwt: Vec<String>,
    note: Option<String>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    value: String,
    time: Option<String>,
    meaning: &'static str,
    specification: &'static str,
    link: String,
    agreement: Option<Agreement>,
}

/// A value that must agree with an earlier one.
#[derive(Serialize)]
pub struct Check {
    name: String,
    agreement: Agreement,
}

impl Table {
    pub fn checks(&self) -> impl Iterator<Item = Check> {
        self.rows.iter().filter_map(|row| {
            Some(Check { name: row.name.clone(), agreement: row.agreement.clone()? })
        })
    }
}

/// The first line, without the ID of the tenant, which is long.
pub fn short(first_line: &str) -> String {
    first_line.replace(TENANT_ID, "…")
}

/// The fields of a message, and what is inside them.
pub fn tables(message: &Message, place: &Place<'_>) -> Vec<Table> {
    let (mut rows, mut inside) = (Vec::new(), Vec::new());
    for (name, value) in &message.fields {
        let tables = tables_of_field(&message.fields, place, name, value);
        let is_long = value.len() > 150 && !tables.is_empty();
        rows.push(row(place, message.title, name, if is_long { "see below" } else { value }));
        inside.extend(tables);
    }
    let main = Table { caption: message.title.to_owned(), rows, ..Table::default() };
    [main].into_iter().chain(inside).collect()
}

/// The parts of a JWT, the parameters of a header, or JSON.
fn tables_of_field(fields: &Fields, place: &Place<'_>, name: &str, value: &str) -> Vec<Table> {
    if let Some(Jwt { header, claims }) = open_jwt(value) {
        let key = header["kid"].as_str().or(header["x5t#S256"].as_str()).unwrap_or("unknown");
        let forgery = place.message().and_then(|message| message.forgery);
        let is_forged = name == "id_token" && forgery.is_some_and(|note| note.starts_with('✗'));
        let mark =
            if is_forged { "✗ Not a signature of the tenant. The header says: " } else { "" };
        let note = format!("{mark}Signature: {} with key {key}", text_of(&header["alg"]));
        let jwt = value.split('.').map(str::to_owned).collect();
        let of_part = |number, part: &str, object: &Value| Table {
            caption: format!("{part} of {name}"),
            part: Some(number),
            rows: rows(place, name, object),
            ..Table::default()
        };
        return vec![
            Table { caption: name.to_owned(), jwt, ..Table::default() },
            of_part(1, "Header", &header),
            Table { note: Some(note), ..of_part(2, "Claims", &claims) },
        ];
    }
    match (name, serde_json::from_str(value)) {
        ("keys", Ok(Value::Array(keys))) => keys
            .iter()
            .map(|key| Table {
                caption: "A signing key".to_owned(),
                rows: rows(place, "keys", key),
                ..Table::default()
            })
            .collect(),
        (_, Ok(object @ Value::Object(_))) => vec![json_table(format!("{name}, as JSON"), &object)],
        ("WWW-Authenticate", _) => {
            let parameters = challenge_parameters(fields);
            let claims =
                find(&parameters, "claims").and_then(|text| BASE64_STANDARD.decode(text).ok());
            let claims: Option<Value> = claims.and_then(|json| serde_json::from_slice(&json).ok());
            let rows = parameters.iter().map(|(part, value)| row(place, name, part, value));
            let caption = "Parameters of WWW-Authenticate".to_owned();
            let mut tables = vec![Table { caption, rows: rows.collect(), ..Table::default() }];
            let caption = "claims, decoded from Base64".to_owned();
            tables.extend(claims.map(|claims| json_table(caption, &claims)));
            tables
        }
        _ => Vec::new(),
    }
}

fn json_table(caption: String, value: &Value) -> Table {
    Table { caption, json: serde_json::to_string_pretty(value).ok(), ..Table::default() }
}

/// The parameters of the header WWW-Authenticate.
fn challenge_parameters(fields: &Fields) -> Fields {
    let header = find(fields, "WWW-Authenticate").unwrap_or_default();
    let parameters = header.trim_start_matches("Bearer ").split(", ");
    parameters
        .filter_map(|parameter| parameter.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

fn rows(place: &Place<'_>, inside: &str, object: &Value) -> Vec<Row> {
    let members = object.as_object().into_iter().flatten();
    members.map(|(name, value)| row(place, inside, name, &text_of(value))).collect()
}

/// One parameter with its meaning. `inside` is the message or field where it is, because some names
/// have two meanings.
fn row(place: &Place<'_>, inside: &str, name: &str, value: &str) -> Row {
    let names = [&format!("{inside} {name}"), name, inside];
    let known = names.iter().find_map(|name| PARAMETERS.iter().find(|known| known.name == *name));
    let unknown =
        Parameter { name: "", meaning: "This sample does not use it.", specification: "" };
    let Parameter { meaning, specification, .. } = known.unwrap_or(&unknown);
    let rfc = specification.strip_prefix("RFC ").and_then(|rfc| rfc.split_once(" section "));
    let link = match rfc {
        Some((rfc, section)) => {
            format!("https://www.rfc-editor.org/rfc/rfc{rfc}#section-{section}")
        }
        None if specification.starts_with("OIDC Core ") => {
            "https://openid.net/specs/openid-connect-core-1_0.html".to_owned()
        }
        None => String::new(),
    };
    let time = ["exp", "iat", "nbf"].contains(&name).then(|| value.parse().ok()).flatten();
    let time = time.and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
    Row {
        id: place.row_id(inside, name),
        name: name.to_owned(),
        value: value.to_owned(),
        time: time.map(timestamp),
        meaning,
        specification,
        link,
        agreement: place.agreement(inside, name, value),
    }
}
