//! Every wrong setting is answered with one clear line, and the right ones
//! are used as they are.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::harness::*;

/// For each setting that can be wrong by itself: a wrong value, and a part
/// of what is said to be accepted.
const WRONG: [(&str, &str, &str); 38] = [
    ("AUTHORITY", "https://login.microsoftonline.com/contoso ", "without /v2.0"),
    ("AUTHORITY", "login.microsoftonline.com/contoso", "https://login.microsoftonline.com/<Directory (tenant) ID>"),
    ("AUTHORITY", "https://login.microsoftonline.com", "https://login.microsoftonline.com/<Directory (tenant) ID>"),
    ("AUTHORITY", "https://login.microsoftonline.com/", "https://login.microsoftonline.com/<Directory (tenant) ID>"),
    ("AUTHORITY", "https://login.microsoftonline.com/contoso/v2.0", "without /v2.0"),
    ("AUTHORITY", "https://login.microsoftonline.com/contoso/v2.0/", "without /v2.0"),
    ("AUTHORITY", "https://login.microsoftonline.com/contoso?p=x", "without /v2.0"),
    ("AUTHORITY", "http://login.microsoftonline.com/contoso", "https://login.microsoftonline.com/"),
    ("AUTHORITY", "https://user:password@login.microsoftonline.com/contoso", "https://login.microsoftonline.com/"),
    ("SCOPE", "", "one or more delegated permissions"),
    ("SCOPE", " ", "one or more delegated permissions"),
    ("SCOPE", "https://graph.microsoft.com/User.Read openid", "openid, profile and offline_access are added anyway"),
    ("ENDPOINT", "", "an https address"),
    ("ENDPOINT", "http://graph.microsoft.com/v1.0/me", "an https address"),
    ("ENDPOINT", "graph.microsoft.com", "an https address"),
    ("LISTEN_HOST", "", "a host name or IP address"),
    ("PORT", "", "0 (any free port) to 65535"),
    ("PORT", "65536", "0 (any free port) to 65535"),
    ("PORT", "-1", "0 (any free port) to 65535"),
    ("PORT", "http", "0 (any free port) to 65535"),
    ("REDIRECT_URI", "http://app.example.com/auth/redirect", "an https address (http for this machine only)"),
    ("REDIRECT_URI", "https://app.example.com/", "with the path /auth/redirect"),
    ("REDIRECT_URI", "https://app.example.com/auth/redirect/", "with the path /auth/redirect"),
    ("REDIRECT_URI", "https://app.example.com/auth/redirect?a=b", "nothing after it"),
    ("REDIRECT_URI", "https://app.example.com/auth/redirect ", "nothing after it"),
    ("REDIRECT_URI", "/auth/redirect", "an https address"),
    ("SECRET_KEY", "0123456789012345678901234567890", "at least 32 bytes"),
    ("SESSION_TYPE", "", "filesystem or redis"),
    ("SESSION_TYPE", "memcached", "filesystem or redis"),
    ("SESSION_FILE_DIR", "", "a folder"),
    ("SESSION_REDIS", "http://user:redis-password@127.0.0.1", "redis://host:port"),
    ("SESSION_REDIS", "", "redis://host:port"),
    ("PERMANENT_SESSION_LIFETIME", "0", "seconds from 1 to 31536000"),
    ("PERMANENT_SESSION_LIFETIME", "1 day", "seconds from 1 to 31536000"),
    ("SSO_LOGOUT", "yes", "true or false"),
    ("SSO_LOGOUT", "", "true or false"),
    ("DEMO_TOKEN_LIFETIME", "0", "seconds from 1 to 86400"),
    ("DEMO_TOKEN_LIFETIME", "86401", "seconds from 1 to 86400"),
];

/// Keys whose values must not be shown.
const SECRETS: [&str; 3] = ["CLIENT_CREDENTIAL", "SECRET_KEY", "SESSION_REDIS"];

/// An app registration that is complete, at an identity platform that does
/// not exist.
const REGISTRATION: [(&str, &str); 3] = [
    ("CLIENT_ID", "11111111-2222-4333-8444-555555555555"),
    ("CLIENT_CREDENTIAL", "the-value-of-a-client-secret"),
    ("AUTHORITY", "https://login.demo.invalid/contoso"),
];

/// Runs the app until it ends by itself.
fn run(folder: &Path, settings: &[(&str, &str)]) -> Output {
    let mut command = command(folder, settings);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            process.kill().unwrap();
            panic!("the app started with {settings:?}: {:?}", process.wait_with_output());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    process.wait_with_output().unwrap()
}

/// Runs the app with settings that it must refuse, and returns the lines
/// that say so.
#[track_caller]
fn refused(folder: &Path, settings: &[(&str, &str)]) -> Vec<String> {
    let output = run(folder, settings);
    let (log, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(2), "{errors}{log}");
    assert!(!log.contains("open http"), "it had started: {log}");
    assert!(!folder.join("sessions").exists(), "it had made its sessions folder");
    assert!(errors.ends_with('\n'), "{errors:?}");
    for (key, value) in settings {
        assert!(
            !SECRETS.contains(key) || value.len() < 8 || !format!("{errors}{log}").contains(value),
            "{errors}{log}"
        );
    }
    let line = |line: &str| {
        line.strip_prefix("rust-webapp: ").unwrap_or_else(|| panic!("not a line of its own: {errors:?}")).to_owned()
    };
    errors.lines().map(line).collect()
}

/// The same, for one wrong setting, before anything has started.
#[track_caller]
fn refused_with_one_line(folder: &Path, settings: &[(&str, &str)]) -> String {
    let lines = refused(folder, settings);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.into_iter().next().unwrap()
}

/// Writes a value into a folder's default_settings.toml.
fn edit_file(folder: &Path, key: &str, value: impl Into<toml::Value>) {
    let file = folder.join("default_settings.toml");
    let line = format!("{key} = {}", json!(value.into()));
    let is_setting = |old: &&str| old.split_once(" = ").is_some_and(|(old, _)| old == key);
    let text = fs::read_to_string(&file).unwrap();
    let old = text.lines().find(is_setting).unwrap();
    fs::write(file, text.replace(&format!("\n{old}\n"), &format!("\n{line}\n"))).unwrap();
}

fn write_env(folder: &Path, settings: &[(&str, &str)]) {
    let lines: String = settings.iter().map(|(key, value)| format!("{key}='{value}'\n")).collect();
    fs::write(folder.join(".env"), lines).unwrap();
}

#[test]
fn the_settings_file_has_the_keys_and_defaults_of_the_documentation() {
    let expected = r#"
        CLIENT_ID = ""
        CLIENT_CREDENTIAL = ""
        AUTHORITY = ""
        SCOPE = "https://graph.microsoft.com/User.Read"
        ENDPOINT = "https://graph.microsoft.com/v1.0/me"
        LISTEN_HOST = "localhost"
        PORT = 5000
        REDIRECT_URI = ""
        SECRET_KEY = ""
        SESSION_TYPE = "filesystem"
        SESSION_FILE_DIR = "sessions"
        SESSION_REDIS = "redis://127.0.0.1:6379"
        PERMANENT_SESSION_LIFETIME = 86400
        SSO_LOGOUT = false
        DEMO_TOKEN_LIFETIME = 3600
    "#;
    assert_eq!(toml_settings(), expected.parse().unwrap());
}

#[test]
fn a_wrong_value_gets_one_line_with_key_value_source_and_what_is_accepted() {
    for (key, value, accepted) in WRONG {
        // The others of the registration, so that only this one is wrong.
        let others = if key == "AUTHORITY" { &REGISTRATION[..2] } else { &[] };
        for source in ["environment", ".env", "default_settings.toml"] {
            let folder = folder();
            let mut settings = others.to_vec();
            match source {
                "environment" => settings.push((key, value)),
                ".env" => write_env(folder.path(), &[(key, value)]),
                _ => edit_file(folder.path(), key, value),
            }
            let line = refused_with_one_line(folder.path(), &settings);
            let shown = if SECRETS.contains(&key) { String::new() } else { format!(" = {value:?}") };
            assert!(line.starts_with(&format!("{key}{shown} ({source}): accepted is ")), "{line}");
            assert!(line.contains(accepted), "{key} = {value:?}: {line}");
            assert!(!SECRETS.contains(&key) || value.is_empty() || !line.contains(value), "{line}");
        }
    }
}

#[test]
fn a_wrong_value_stays_on_its_line_whatever_is_in_it() {
    let folder = folder();
    let line = refused_with_one_line(folder.path(), &[("PORT", "1\nrust-webapp: \u{1b}[31mforged\r")]);
    assert!(line.starts_with(r#"PORT = "1\nrust-webapp: \u{1b}[31mforged\r" (environment): "#), "{line}");
}

#[test]
fn a_value_of_another_type_gets_one_line() {
    for (key, value) in [("PORT", toml::Value::Float(5000.5)), ("SCOPE", toml::Value::Array(vec!["User.Read".into()]))]
    {
        let folder = folder();
        edit_file(folder.path(), key, value);
        let line = refused_with_one_line(folder.path(), &[]);
        assert!(line.starts_with(&format!("{key} = ")), "{line}");
        assert!(line.contains("(default_settings.toml): accepted is a text in quotes"), "{line}");
    }
    let folder = folder();
    edit_file(folder.path(), "CLIENT_CREDENTIAL", toml::Value::Array(vec!["a-secret-in-brackets".into()]));
    let line = refused_with_one_line(folder.path(), &[]);
    assert!(line.starts_with("CLIENT_CREDENTIAL (default_settings.toml): accepted is "), "{line}");
    assert!(!line.contains("a-secret-in-brackets"), "{line}");
}

#[cfg(unix)]
#[test]
fn a_value_that_is_no_text_gets_one_line() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder();
    let mut command = command(folder.path(), &[]);
    command.env("SCOPE", std::ffi::OsStr::from_bytes(b"User\xff.Read"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "rust-webapp: SCOPE = \"User\u{fffd}.Read\" (environment): accepted is text in UTF-8\n");
}

#[test]
fn several_wrong_settings_get_one_line_each_at_one_start() {
    let folder = folder();
    edit_file(folder.path(), "SESSION_TYPE", "memory");
    write_env(folder.path(), &[("SSO_LOGOUT", "on"), ("PROT", "5001")]);
    let mut lines = refused(folder.path(), &[("PORT", "x"), ("SECRET_KEY", "short")]);
    lines.sort_unstable();
    let starts = [
        r#""PROT" (.env)"#,
        r#"PORT = "x" (env"#,
        "SECRET_KEY (env",
        "SESSION_TYPE = \"memory\" (def",
        "SSO_LOGOUT = \"on\" (.env)",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn an_unknown_key_gets_one_line_with_the_known_ones() {
    let folder = folder();
    write_env(folder.path(), &[("CLIENT_SECRET", "a-secret-under-another-name")]);
    // What is missing because of it gets no line of its own.
    let line = refused_with_one_line(folder.path(), &[REGISTRATION[0], REGISTRATION[2]]);
    assert!(line.starts_with(r#""CLIENT_SECRET" (.env): unknown key; the keys are CLIENT_ID, "#), "{line}");
    assert!(!line.contains("a-secret"), "{line}");

    fs::remove_file(folder.path().join(".env")).unwrap();
    let file = folder.path().join("default_settings.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "DEBUG = true\n").unwrap();
    let line = refused_with_one_line(folder.path(), &[]);
    assert!(line.starts_with(r#""DEBUG" (default_settings.toml): unknown key; "#), "{line}");
}

#[test]
fn a_missing_key_gets_one_line() {
    for (key, _) in toml_settings() {
        let folder = folder();
        let file = folder.path().join("default_settings.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replace(&format!("\n{key} = "), &format!("\n# {key} = "))).unwrap();
        let line = refused_with_one_line(folder.path(), &[]);
        assert_eq!(line, format!("{key} is missing in default_settings.toml"));
    }
}

#[test]
fn a_missing_settings_file_gets_one_line() {
    let folder = TempDir::new().unwrap();
    let line = refused_with_one_line(folder.path(), &REGISTRATION);
    assert!(line.starts_with("default_settings.toml: "), "{line}");
    assert!(line.contains("start the app in the folder that has this file"), "{line}");
}

#[test]
fn a_settings_file_that_is_not_toml_gets_one_line() {
    for (wrong, number) in
        [("CLIENT_CREDENTIAL = the-secret-without-quotes", 2), ("PORT = 5000\nPORT = 5001", 3), ("PORT", 2)]
    {
        let folder = folder();
        fs::write(folder.path().join("default_settings.toml"), format!("# A comment.\n{wrong}\n")).unwrap();
        let line = refused_with_one_line(folder.path(), &[]);
        assert!(line.starts_with(&format!("default_settings.toml, line {number}: ")), "{line}");
        assert!(line.contains("accepted is TOML"), "{line}");
        assert!(!line.contains("the-secret"), "{line}");
    }
}

#[test]
fn an_env_file_that_cannot_be_read_gets_one_line() {
    let folder = folder();
    fs::write(folder.path().join(".env"), "CLIENT_CREDENTIAL=a secret with spaces\nPORT=x y\n").unwrap();
    let line = refused_with_one_line(folder.path(), &[]);
    assert!(line.starts_with(".env: a line cannot be read; accepted is KEY=value"), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn a_part_of_an_app_registration_gets_one_line_for_each_missing_value_that_says_where_it_is() {
    let places = [
        ("CLIENT_ID", "Application (client) ID"),
        ("CLIENT_CREDENTIAL", "Certificates & secrets"),
        ("AUTHORITY", "Directory (tenant) ID"),
    ];
    for given in 1..7 {
        let is_given = |at: &usize| given & (1 << at) != 0;
        let settings: Vec<_> = (0..3).filter(is_given).map(|at| REGISTRATION[at]).collect();
        let folder = folder();
        let lines = refused(folder.path(), &settings);
        let missing: Vec<_> = (0..3).filter(|at| !is_given(at)).map(|at| places[at]).collect();
        assert_eq!(lines.len(), missing.len(), "{lines:?}");
        for (line, (key, place)) in lines.iter().zip(missing) {
            assert!(line.starts_with(&format!("{key} is missing")) && line.contains(place), "{line}");
        }
    }
}

#[test]
fn the_demo_tenant_refuses_to_be_reached_from_elsewhere() {
    for host in ["0.0.0.0", "::", "[::]", "192.0.2.1", "localhost.example.com", "127.0.0.1.example.com"] {
        let folder = folder();
        let line = refused_with_one_line(folder.path(), &[("LISTEN_HOST", host)]);
        assert!(line.starts_with(&format!("LISTEN_HOST = {host:?}: the demo tenant ")), "{line}");
        assert!(line.contains("CLIENT_ID, CLIENT_CREDENTIAL and AUTHORITY"), "{line}");
    }
}

#[test]
fn a_redirect_uri_is_needed_where_it_cannot_be_guessed() {
    let folder = folder();
    let settings = [&REGISTRATION[..], &[("LISTEN_HOST", "0.0.0.0")]].concat();
    let line = refused_with_one_line(folder.path(), &settings);
    assert!(line.starts_with("REDIRECT_URI is missing: with LISTEN_HOST = \"0.0.0.0\""), "{line}");
    assert!(line.contains("/auth/redirect"), "{line}");
}

#[test]
fn white_space_that_was_copied_along_is_found() {
    for key in ["CLIENT_ID", "CLIENT_CREDENTIAL"] {
        let with_space =
            REGISTRATION.map(|(name, value)| (name, format!("{value}{}", if name == key { "\n" } else { "" })));
        let settings: Vec<_> = with_space.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let line = refused_with_one_line(folder().path(), &settings);
        assert!(line.starts_with(key) && line.ends_with("without white space around it"), "{line}");
    }
}

#[test]
fn redis_needs_a_secret_key() {
    let folder = folder();
    let line = refused_with_one_line(folder.path(), &[("SESSION_TYPE", "redis")]);
    assert!(line.starts_with("SECRET_KEY is missing: with SESSION_TYPE = \"redis\""), "{line}");
}

#[test]
fn a_taken_port_gets_one_line_with_the_hint_to_airplay() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for host in ["localhost", "127.0.0.1"] {
        let folder = folder();
        let line = refused_with_one_line(folder.path(), &[("PORT", &port), ("LISTEN_HOST", host)]);
        assert!(line.starts_with(&format!("PORT = {port}: another program uses it on 127.0.0.1;")), "{line}");
        assert!(line.contains("AirPlay"), "{line}");
    }
}

#[test]
fn a_port_taken_on_ipv6_alone_is_a_taken_port_too() {
    let Ok(taken) = TcpListener::bind("[::1]:0") else {
        eprintln!("not tested: this machine has no ::1");
        return;
    };
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = folder();
    let line = refused_with_one_line(folder.path(), &[("PORT", &port)]);
    assert!(line.starts_with(&format!("PORT = {port}: another program uses it on ")), "{line}");
}

#[test]
fn a_host_that_is_not_this_machine_gets_one_line() {
    // An address for documentation (RFC 5737), and a name that never exists
    // (RFC 6761).
    for host in ["192.0.2.1", "app.demo.invalid"] {
        let folder = folder();
        let settings = [
            &REGISTRATION[..],
            &[("LISTEN_HOST", host), ("PORT", "0"), ("REDIRECT_URI", "https://app.example.com/auth/redirect")],
        ];
        let line = refused_with_one_line(folder.path(), &settings.concat());
        assert!(line.starts_with(&format!("LISTEN_HOST = {host:?}: ")), "{line}");
    }
}

#[test]
fn a_sessions_folder_that_cannot_be_written_to_gets_one_line() {
    let folder = folder();
    let line =
        refused_with_one_line(folder.path(), &[("PORT", "0"), ("SESSION_FILE_DIR", "default_settings.toml/sessions")]);
    assert!(line.starts_with("SESSION_FILE_DIR = \"default_settings.toml/sessions\": "), "{line}");
    assert!(line.contains("accepted is a folder that the app may write to"), "{line}");
}

/// An identity platform that answers the request for its metadata, and the
/// settings for it.
async fn platform(answer: ResponseTemplate) -> (MockServer, String) {
    let platform = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path("/contoso/v2.0/.well-known/openid-configuration"))
        .respond_with(answer)
        .mount(&platform)
        .await;
    let authority = format!("{}/contoso", platform.uri());
    (platform, authority)
}

/// Starts the app with that answer as the metadata, which it must refuse.
async fn refused_metadata(answer: ResponseTemplate) -> (String, MockServer) {
    let (platform, authority) = platform(answer).await;
    let folder = folder();
    let settings = [("PORT", "0"), REGISTRATION[0], REGISTRATION[1], ("AUTHORITY", &authority)];
    let line = refused_with_one_line(folder.path(), &settings);
    let rest = line.strip_prefix(&format!("AUTHORITY = {authority:?}: "));
    (rest.unwrap_or_else(|| panic!("{line}")).to_owned(), platform)
}

/// Metadata with the endpoints of an address.
fn metadata(issuer: &str, endpoints: &str) -> serde_json::Value {
    json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{endpoints}/authorize"),
        "token_endpoint": format!("{endpoints}/token"),
        "jwks_uri": format!("{endpoints}/keys"),
    })
}

#[tokio::test]
async fn a_tenant_that_does_not_exist_is_named_in_the_platforms_own_words_at_once() {
    let description = "AADSTS90002: Tenant 'contoso' not found.\r\nTrace ID: 0\r\nTimestamp: 2026-01-31 12:34:56Z";
    let answer = json!({ "error": "invalid_tenant", "error_description": description });
    let (line, platform) = refused_metadata(ResponseTemplate::new(400).set_body_json(answer)).await;
    assert!(line.contains("400") && line.contains("AADSTS90002: Tenant 'contoso' not found."), "{line}");
    assert!(
        line.ends_with(&format!(
            "{}/contoso/v2.0/.well-known/openid-configuration must work in a browser",
            platform.uri()
        )),
        "{line}"
    );
    assert_eq!(platform.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_platform_in_trouble_is_asked_a_few_times() {
    for status in [429, 500, 503] {
        let (line, platform) = refused_metadata(ResponseTemplate::new(status)).await;
        assert!(line.contains(&status.to_string()), "{line}");
        assert_eq!(platform.received_requests().await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn a_platform_that_recovers_meanwhile_is_used() {
    let platform = MockServer::start().await;
    let authority = format!("{}/contoso", platform.uri());
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(503)).up_to_n_times(1).mount(&platform).await;
    let answer = ResponseTemplate::new(200).set_body_json(metadata(&format!("{authority}/v2.0"), &platform.uri()));
    Mock::given(method("GET")).respond_with(answer).mount(&platform).await;
    let app = App::start(&[REGISTRATION[0], REGISTRATION[1], ("AUTHORITY", &authority)]).await;
    assert_eq!(app.browser().get(app.at("/")).await.status, 200);
}

#[tokio::test]
async fn a_platform_that_cannot_be_reached_is_said_to_be_so() {
    // Nothing is there, and no system hands this port out as a free one.
    let port = 1;
    let authority = format!("http://127.0.0.1:{port}/contoso");
    let folder = folder();
    let settings = [("PORT", "0"), REGISTRATION[0], REGISTRATION[1], ("AUTHORITY", &authority)];
    let line = refused_with_one_line(folder.path(), &settings);
    assert!(line.starts_with(&format!("AUTHORITY = {authority:?}: it cannot be reached: ")), "{line}");
}

#[tokio::test]
async fn what_is_no_metadata_is_refused() {
    for (body, reason) in [
        ("<html><title>Sign in to the network</title></html>", "not with OpenID metadata"),
        ("[]", "names no issuer"),
        ("{}", "names no issuer"),
        (r#"{"issuer": 1}"#, "names no issuer"),
    ] {
        let (line, _) = refused_metadata(ResponseTemplate::new(200).set_body_string(body)).await;
        assert!(line.contains(reason), "{body}: {line}");
    }
    // The client follows no redirects, and says so.
    let elsewhere = ResponseTemplate::new(302).insert_header("Location", "https://login.demo.invalid/");
    let (line, _) = refused_metadata(elsewhere).await;
    assert!(line.contains("302"), "{line}");
}

#[tokio::test]
async fn metadata_of_another_issuer_is_refused() {
    let (platform, authority) = platform(ResponseTemplate::new(200)).await;
    let origin = platform.uri();
    let guid = "6f0d2b1e-5c3a-4e97-8b64-d1a7c09e3f52";
    let wrong = [
        format!("{origin}/contosO/v2.0"),
        format!("{origin}/contoso/v2.0INVALID"),
        format!("{origin}/contoso/v1.0"),
        format!("{origin}/contoso"),
        format!("{origin}/{guid}"),
        format!("{origin}/{guid}0/v2.0"),
        format!("{origin}/x/{guid}/v2.0"),
        format!("{origin}/{guid}/v2.0?a"),
        format!("{origin}/{{tenant}}/v2.0"),
        format!("https://login.demo.invalid/{guid}/v2.0"),
        "https://login.demo.invalid/{tenantid}/v2.0".to_owned(),
        format!("https://contoso.ciamlogin.com/{guid}/v2.0"),
        "not a URL".to_owned(),
    ];
    for issuer in wrong {
        platform.reset().await;
        let answer = ResponseTemplate::new(200).set_body_json(metadata(&issuer, &origin));
        Mock::given(method("GET")).respond_with(answer).mount(&platform).await;
        let folder = folder();
        let settings = [("PORT", "0"), REGISTRATION[0], REGISTRATION[1], ("AUTHORITY", &authority)];
        let line = refused_with_one_line(folder.path(), &settings);
        assert!(line.contains(&format!("{issuer:?}")), "{line}");
    }
}

#[tokio::test]
async fn the_forms_of_an_issuer_are_accepted() {
    let platform = MockServer::start().await;
    let origin = platform.uri();
    let guid = "6F0D2B1E-5c3a-4e97-8b64-d1a7c09e3f52";
    for (authority, issuer) in [
        ("/contoso", "/contoso/v2.0".to_owned()),
        ("/contoso/", "/contoso/v2.0/".to_owned()),
        ("/contoso.example.com", format!("/{guid}/v2.0")),
        ("/organizations", "/{tenantid}/v2.0".to_owned()),
    ] {
        platform.reset().await;
        let answer = ResponseTemplate::new(200).set_body_json(metadata(&format!("{origin}{issuer}"), &origin));
        let address = format!("{}/v2.0/.well-known/openid-configuration", authority.trim_end_matches('/'));
        Mock::given(method("GET")).and(path(address)).respond_with(answer).mount(&platform).await;
        let authority = format!("{origin}{authority}");
        let app = App::start(&[REGISTRATION[0], REGISTRATION[1], ("AUTHORITY", &authority)]).await;
        assert_eq!(app.browser().get(app.at("/")).await.status, 200);
    }
}

#[tokio::test]
async fn endpoints_that_are_not_https_are_refused() {
    for endpoint in ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"] {
        for address in [json!("http://login.demo.invalid/"), json!("ftp://127.0.0.1/"), json!(7), json!(null)] {
            let platform = MockServer::start().await;
            let authority = format!("{}/contoso", platform.uri());
            let mut metadata = metadata(&format!("{authority}/v2.0"), &platform.uri());
            metadata[endpoint] = address.clone();
            let answer = ResponseTemplate::new(200).set_body_json(metadata);
            Mock::given(method("GET")).respond_with(answer).mount(&platform).await;
            let settings = [REGISTRATION[0], REGISTRATION[1], ("AUTHORITY", authority.as_str())];
            if endpoint == "end_session_endpoint" && address.is_null() {
                // Not every issuer has one.
                App::start(&settings).await;
                continue;
            }
            let folder = folder();
            let line = refused_with_one_line(folder.path(), &[&settings[..], &[("PORT", "0")]].concat());
            assert!(line.starts_with(&format!("AUTHORITY = {authority:?}: the {endpoint} ")), "{line}");
            assert!(line.contains(&address.to_string()), "{line}");
        }
    }
}

#[tokio::test]
async fn the_environment_wins_over_env_and_that_over_the_file() {
    let files = Arc::new(folder());
    let has_sessions_in = |name: &str| files.path().join(name).is_dir();
    let start = async |settings: &[(&str, &str)]| {
        let app = App::start_in(Arc::clone(&files), settings).await;
        app.browser().get(app.at("/graph")).await;
    };
    edit_file(files.path(), "SESSION_FILE_DIR", "from-the-file");
    start(&[]).await;
    assert!(has_sessions_in("from-the-file"));
    write_env(files.path(), &[("SESSION_FILE_DIR", "from-env")]);
    assert!(!has_sessions_in("from-env"));
    start(&[]).await;
    assert!(has_sessions_in("from-env"));
    start(&[("SESSION_FILE_DIR", "from-the-environment")]).await;
    assert!(has_sessions_in("from-the-environment"));
    assert!(!has_sessions_in("sessions"));
}

/// Values that are refused where they are used, and values that are
/// accepted in the source that must win.
#[tokio::test]
async fn every_key_can_be_overridden() {
    let right: Vec<(String, String)> = toml_settings()
        .into_iter()
        .map(|(key, value)| (key, value.as_str().map_or_else(|| json!(value).to_string(), str::to_owned)))
        .collect();
    let right: Vec<(&str, &str)> = (right.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .filter(|(key, _)| *key != "PORT")
        .chain([("PORT", "0")])
        .collect();
    let mut wrong: Vec<(&str, &str)> = vec![("CLIENT_ID", "wrong")];
    for (key, value, _) in WRONG {
        if wrong.last().is_none_or(|(last, _)| *last != key) {
            wrong.push((key, value));
        }
    }
    wrong.push(("CLIENT_CREDENTIAL", "wrong"));
    assert_eq!(wrong.len(), right.len(), "a key has no wrong value here: {wrong:?}");

    let in_file = Arc::new(folder());
    for (key, value) in &wrong {
        edit_file(in_file.path(), key, *value);
    }
    // CLIENT_ID and CLIENT_CREDENTIAL have no wrong values of their own.
    assert_eq!(refused(in_file.path(), &[]).len(), wrong.len() - 2);
    write_env(in_file.path(), &right);
    App::start_in(Arc::clone(&in_file), &[]).await;

    let in_env = Arc::new(folder());
    write_env(in_env.path(), &wrong);
    assert_eq!(refused(in_env.path(), &[]).len(), wrong.len() - 2);
    let app = App::start_in(in_env, &right).await;
    assert_eq!(app.browser().get(app.at("/")).await.status, 200);
}

#[tokio::test]
async fn localhost_is_both_127_0_0_1_and_ipv6_on_one_port() {
    let app = App::start(&[]).await;
    let port = app.url.strip_prefix("http://localhost:").unwrap();
    assert_ne!(port, "0");
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    if !has_ipv6 {
        eprintln!("not tested: this machine has no ::1");
    }
    for address in ["127.0.0.1", "[::1]"].iter().take(1 + usize::from(has_ipv6)) {
        let request =
            app.browser().client.get(format!("http://{address}:{port}/")).header("Host", format!("localhost:{port}"));
        let page = app.browser().send(request).await;
        assert_eq!((page.status, page.title()), (200, "Home - Rust actix-web"), "{address}");
    }
}

#[tokio::test]
async fn an_address_alone_is_served_under_its_own_name() {
    for host in ["127.0.0.1", "::1", "[::1]"] {
        if host.contains(':') && TcpListener::bind("[::1]:0").is_err() {
            eprintln!("not tested: this machine has no ::1");
            continue;
        }
        let app = App::start(&[("LISTEN_HOST", host)]).await;
        let in_url = if host.contains('.') { "127.0.0.1" } else { "[::1]" };
        assert!(app.url.starts_with(&format!("http://{in_url}:")), "{}", app.url);
        let browser = app.browser();
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.location_param("redirect_uri").unwrap(), app.at("/auth/redirect"));
        assert_eq!(browser.sign_in(&app, "/graph", BEN_WITHOUT_ROLE).await.status, 200);
    }
}

/// A free port, with a free one after it, below those that systems hand out
/// for PORT 0.
fn two_free_ports() -> u16 {
    let is_free = |port: u16| {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
            && !TcpListener::bind(("::1", port)).is_err_and(|err| err.kind() == std::io::ErrorKind::AddrInUse)
    };
    let candidates = std::iter::repeat_with(|| 10_000 + rand::random::<u16>() % 20_000);
    candidates.take(1000).find(|port| is_free(*port) && is_free(port + 1)).unwrap()
}

#[tokio::test]
async fn the_demo_tenant_is_on_the_next_port_or_on_any_free_one() {
    for taken in [false, true] {
        let port = two_free_ports();
        let other_program = taken.then(|| TcpListener::bind(("127.0.0.1", port + 1)).unwrap());
        let app = App::start(&[("PORT", &port.to_string())]).await;
        assert_eq!(app.url, format!("http://localhost:{port}"));
        let authorize = app.browser().get(app.at("/graph")).await;
        let tenant = url::Url::parse(authorize.location()).unwrap();
        assert_eq!(tenant.host_str(), Some("localhost"));
        assert_eq!(tenant.port() == Some(port + 1), !taken, "{tenant} beside {port}");
        assert_eq!(app.browser().get(tenant).await.status, 200);
        drop(other_program);
    }
}

/// What a deployment does: everything from the environment, and nothing
/// written but sessions.
#[tokio::test]
async fn the_values_of_the_environment_are_the_ones_that_are_used() {
    // Characters that a form, a URL or a shell-like file would change if they
    // were not encoded, or decoded twice.
    let secret = "a+b/c=d&e%25f~g%h#i j\"k'l$m\\n;o?p!q\u{e4}";
    let client_id = "id+1/2=3&4%255~6";
    let platform = MockServer::start().await;
    let authority = format!("{}/contoso", platform.uri());
    let answer = ResponseTemplate::new(200).set_body_json(metadata(&format!("{authority}/v2.0"), &platform.uri()));
    Mock::given(method("GET")).respond_with(answer).mount(&platform).await;
    let description = "AADSTS7000215: Invalid client secret provided.";
    let answer = json!({ "error": "invalid_client", "error_description": description, "trace_id": "the-trace-id" });
    let answer = ResponseTemplate::new(401).set_body_json(answer);
    Mock::given(method("POST")).and(path("/token")).respond_with(answer).expect(1).mount(&platform).await;

    let sessions = TempDir::new().unwrap();
    let port = two_free_ports().to_string();
    let app = App::start(&[
        ("CLIENT_ID", client_id),
        ("CLIENT_CREDENTIAL", secret),
        ("AUTHORITY", &authority),
        ("SCOPE", "https://graph.microsoft.com/User.Read https://graph.microsoft.com/Mail.Read"),
        ("PORT", &port),
        ("SESSION_FILE_DIR", sessions.path().to_str().unwrap()),
        ("SECRET_KEY", "a-key-of-more-than-32-bytes-+/=&%25~"),
    ])
    .await;
    assert_eq!(app.url, format!("http://localhost:{port}"));
    let browser = app.browser();
    let home = browser.get(app.at("/")).await;
    assert!(!home.body.contains("demo tenant"), "{}", home.body);

    let authorize = browser.get(app.at("/graph")).await;
    let redirect_uri = app.at("/auth/redirect");
    let scope =
        "https://graph.microsoft.com/Mail.Read https://graph.microsoft.com/User.Read offline_access openid profile";
    assert!(authorize.location().starts_with(&format!("{}/authorize?", platform.uri())));
    assert_eq!(authorize.location_param("client_id").unwrap(), client_id);
    assert_eq!(authorize.location_param("redirect_uri").unwrap(), redirect_uri);
    assert_eq!(authorize.location_param("scope").unwrap(), scope);

    let state = authorize.location_param("state").unwrap();
    let code = "0.code+/=&%25~";
    let mut callback = url::Url::parse(&redirect_uri).unwrap();
    callback.query_pairs_mut().append_pair("code", code).append_pair("state", &state);
    let page = browser.get(callback).await;
    page.assert_error_page(502);
    for part in ["invalid_client", description, "the-trace-id", "CLIENT_CREDENTIAL"] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }

    let requests = platform.received_requests().await.unwrap();
    let redeemed = requests.iter().find(|request| request.url.path() == "/token").unwrap();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&redeemed.body).into_owned().collect();
    let field = |name: &str| {
        let values: Vec<_> = form.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0]
    };
    assert_eq!(field("client_secret"), secret);
    assert_eq!(field("client_id"), client_id);
    assert_eq!(field("code"), code);
    assert_eq!(field("redirect_uri"), redirect_uri);
    assert_eq!(field("grant_type"), "authorization_code");

    // Only the harness's log and the settings file are in the folder that the
    // app was started in.
    let mut written: Vec<_> = fs::read_dir(app.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    written.sort_unstable();
    assert_eq!(written, ["default_settings.toml", "log"]);
    assert_eq!(fs::read_dir(sessions.path()).unwrap().count(), 1);
}

/// A client secret in `.env` arrives as it is, too.
#[tokio::test]
async fn a_client_secret_in_env_is_used_as_it_is() {
    let secret = "a+b/c=d&e%25f~g%h#i j$k";
    let platform = MockServer::start().await;
    let authority = format!("{}/contoso", platform.uri());
    let answer = ResponseTemplate::new(200).set_body_json(metadata(&format!("{authority}/v2.0"), &platform.uri()));
    Mock::given(method("GET")).respond_with(answer).mount(&platform).await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(500)).mount(&platform).await;
    let files = Arc::new(folder());
    write_env(files.path(), &[("CLIENT_ID", "client-id"), ("CLIENT_CREDENTIAL", secret), ("AUTHORITY", &authority)]);
    let app = App::start_in(files, &[]).await;
    let browser = app.browser();
    let state = browser.get(app.at("/admin")).await.location_param("state").unwrap();
    browser.get(app.at(&format!("/auth/redirect?code=c&state={state}"))).await.assert_error_page(502);
    let requests = platform.received_requests().await.unwrap();
    let body = &requests.iter().find(|request| request.url.path() == "/token").unwrap().body;
    assert!(url::form_urlencoded::parse(body).any(|(name, value)| name == "client_secret" && value == secret));
}

/// One key signs the cookies of several runs, and one that is made at start
/// does not.
#[tokio::test]
async fn with_a_secret_key_a_restart_signs_nobody_out() {
    for (key, status) in [("a-key-of-32-bytes-or-more-for-the-test", 200), ("", 302)] {
        let files = Arc::new(folder());
        let app = App::start_in(Arc::clone(&files), &[("SECRET_KEY", key)]).await;
        assert_eq!(app.log().contains("SECRET_KEY is empty"), key.is_empty());
        let browser = app.browser();
        assert_eq!(browser.sign_in(&app, "/admin", ADA_WITH_THE_ROLE).await.status, 200);
        drop(app);
        let app = App::start_in(files, &[("SECRET_KEY", key)]).await;
        assert_eq!(browser.get(app.at("/admin")).await.status, status);
    }
}
