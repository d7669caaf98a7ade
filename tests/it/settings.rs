//! The settings: where they come from, and what the app says about wrong ones.

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::sync::{Arc, LazyLock};

use base64::prelude::*;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{Certificate, CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::*;
use crate::platform::*;

const FILE: &str = "default_settings.toml";

/// A complete app registration. The app refuses other settings before it asks for metadata.
const REGISTRATION: [(&str, &str); 3] = [
    ("CLIENT_ID", CLIENT_ID),
    ("CLIENT_CREDENTIAL", "hidden-secret-0"),
    ("AUTHORITY", "https://login.example.invalid/contoso"),
];

/// Keys with wrong values, and a part of what the app says is accepted.
const WRONG_VALUES: [(&str, &[&str], &str); 21] = [
    ("CLIENT_ID", &[" e4a6f813-70c9-4d2b-b5e1-3c98d07a26f4", "my-app"], "which is a GUID"),
    ("CLIENT_CREDENTIAL", &["hidden-secret "], "the Value of a client secret"),
    ("CLIENT_CREDENTIAL", &["e4a6f813-70c9-4d2b-b5e1-3c98d07a26f4"], "Secret ID; use the Value"),
    (
        "AUTHORITY",
        &[
            "https://login.microsoftonline.com/contoso ",
            "login.microsoftonline.com/contoso",
            "https://login.microsoftonline.com",
            "https://login.microsoftonline.com/",
            "https://login.microsoftonline.com/contoso?p=x",
            "https://login.microsoftonline.com/contoso#x",
            "http://login.microsoftonline.com/contoso",
            "https://name:password@login.microsoftonline.com/contoso",
        ],
        "https://login.microsoftonline.com/<Directory (tenant) ID>",
    ),
    (
        "AUTHORITY",
        &[
            "https://login.microsoftonline.com/contoso/v2.0",
            "https://login.microsoftonline.com/contoso/v2.0/",
        ],
        "without /v2.0",
    ),
    (
        "AUTHORITY",
        &[
            "https://login.microsoftonline.com/common",
            "https://login.microsoftonline.com/organizations",
            "https://login.microsoftonline.com/consumers/",
            "https://login.microsoftonline.com/Consumers",
            "https://login.example.com/common/b2c_1_policy",
            // QuickMail #233
            "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad",
            "https://login.microsoftonline.com/9188040D-6C67-4C5B-B112-36A304B66DAD/",
        ],
        "users of other tenants",
    ),
    ("SCOPE", &["", " "], "delegated permissions"),
    ("ENDPOINT", &["", "graph.microsoft.com/v1.0/me"], "an https address"),
    ("ENDPOINT", &["http://graph.microsoft.com/v1.0/me"], "http on this computer"),
    (
        "LISTEN_HOST",
        &["", "::1", "[::1]", "fe80::1", "http://localhost", "localhost:5000", "my host"],
        "a host name or an IP address (IPv6 in brackets); for ::1",
    ),
    ("PORT", &["", "65536", "-1", "http"], "a number from 0 (any free port) to 65535"),
    (
        "REDIRECT_URI",
        &[
            "/auth/redirect",
            "http://app.example.com/auth/redirect",
            "https://app.example.com/",
            "https://app.example.com/auth/redirect/",
            "https://app.example.com/auth/redirect?a=b",
            "https://app.example.com/auth/redirect ",
            "https://App.example.com/auth/redirect",
            "https://app.example.com:443/auth/redirect",
        ],
        "the registered https address (http on this computer) with the path /auth/redirect",
    ),
    ("SECRET_KEY", &["hidden-secret-of-31-bytes-12345"], "empty, or at least 32 bytes"),
    ("SESSION_TYPE", &["", "memcached", "Redis"], "filesystem, or redis in"),
    ("SESSION_FILE_DIR", &[""], "a folder"),
    ("SESSION_REDIS", &["", "redis://", "redis://127.0.0.1:port"], "redis://host:port"),
    ("SESSION_REDIS", &["http://user:hidden-secret@127.0.0.1"], "rediss://host:port for TLS"),
    (
        "SESSION_REDIS",
        &[
            "redis://:hidden-secret#1@127.0.0.1:6379",
            "redis://user:1#hidden-secret@127.0.0.1:6379",
            "redis://user:1/hidden-secret@127.0.0.1:6379",
            "redis://user:1?hidden-secret@127.0.0.1:6379",
            "rediss://127.0.0.1:6379#insecure",
        ],
        "in a password, write @ as %40, # as %23",
    ),
    (
        "PERMANENT_SESSION_LIFETIME",
        &["0", "31536001", "-1", "1 day"],
        "seconds from 1 to 31536000 (a year)",
    ),
    ("SSO_LOGOUT", &["", "yes", "1"], "true or false"),
    ("DEMO_TOKEN_LIFETIME", &["0", "86401", "3600.5"], "seconds from 1 to 86400 (a day)"),
];

/// Starts the app with these files and settings, which it must refuse. Returns the lines on
/// stderr.
async fn refused(files: &[(&str, &str)], settings: &[(&str, &str)]) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let lines = refusal(folder.path(), settings).await;
    assert!(!folder.path().join("sessions").exists(), "the folder exists: {lines:?}");
    let without_prefix = |line: &String| line.strip_prefix("rust-webapp: ").unwrap().to_owned();
    lines.iter().map(without_prefix).collect()
}

/// The same for one wrong setting, which must give one line.
async fn refused_with_one_line(files: &[(&str, &str)], settings: &[(&str, &str)]) -> String {
    let mut lines = refused(files, settings).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[tokio::test]
async fn a_wrong_value_gives_one_line_with_key_value_and_what_is_accepted() {
    for (key, values, accepted) in WRONG_VALUES {
        for value in values {
            let in_toml = format!("{key} = {value:?}\n");
            let in_env = format!("{key}='{value}'\n");
            let is_secret = ["CLIENT_CREDENTIAL", "SECRET_KEY", "SESSION_REDIS"].contains(&key);
            // The harness sets PORT in the environment, which wins.
            let environment: &[_] = if key == "PORT" { &[(key, *value)] } else { &[] };
            for file in [(FILE, in_toml.as_str()), (".env", &in_env)] {
                let line = refused_with_one_line(&[file], environment).await;
                let (start, end) = line.split_once(": accepted is ").expect(&line);
                let shown = format!("{key} = {value:?}");
                let is_shown = if is_secret { start == key } else { start == shown };
                assert!(is_shown && end.contains(accepted), "{line}");
            }
        }
    }
    let keys: HashSet<_> = WRONG_VALUES.map(|(key, ..)| key.to_owned()).into();
    assert_eq!(keys, default_settings().keys().cloned().collect(), "a key without wrong values");
}

#[tokio::test]
async fn a_wrong_value_with_line_breaks_still_gives_one_line() {
    let line = refused_with_one_line(&[], &[("PORT", "1\nrust-webapp: \u{1b}[31mforged\r")]).await;
    assert!(line.starts_with("PORT = \"1\\nrust-webapp: \\u"), "{line}");
    assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line}");
}

#[tokio::test]
async fn each_of_several_wrong_values_gives_a_line() {
    let files =
        [(FILE, "SESSION_TYPE = \"memory\"\nPROT = 5001\n"), (".env", "SSO_LOGOUT=on\nPORT=1\n")];
    let mut lines = refused(&files, &[("PORT", "x"), ("SECRET_KEY", "hidden-secret")]).await;
    lines.sort_unstable();
    let starts = [
        "PORT = \"x\": accepted is",
        "PROT: this key is unknown",
        "SECRET_KEY: accepted is",
        "SESSION_TYPE = \"memory\": accepted is",
        "SSO_LOGOUT = \"on\": accepted is",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[tokio::test]
async fn a_file_that_the_app_cannot_use_gives_one_line_without_a_secret() {
    for (file, text, start) in [
        // A value of another type.
        (FILE, "DEMO_TOKEN_LIFETIME = 60.5", "DEMO_TOKEN_LIFETIME = \"60.5\": accepted"),
        (FILE, "SSO_LOGOUT = 1", "SSO_LOGOUT = \"1\": accepted is"),
        (FILE, "SCOPE = [\"User.Read\"]", "SCOPE: accepted is a single value"),
        (
            FILE,
            "CLIENT_CREDENTIAL = [\"hidden-secret\"]",
            "CLIENT_CREDENTIAL: accepted is a single",
        ),
        (FILE, "[SECRET_KEY]\nkey = \"hidden-secret\"", "SECRET_KEY: accepted is a single value"),
        // An unknown key.
        (FILE, "CLIENT_SECRET = \"hidden-secret\"", "CLIENT_SECRET: this key is unknown"),
        (FILE, "client_id = \"x\"", "client_id: this key is unknown"),
        (FILE, "\"a\\nb\" = 1", "a\\nb: this key is unknown"),
        // Text that is not TOML, and lines that are not settings.
        (FILE, "CLIENT_CREDENTIAL = hidden-secret", "default_settings.toml: "),
        (FILE, "SECRET_KEY = \"\\hidden-secret\"", "default_settings.toml: "),
        (FILE, "PORT = 5000\nPORT = 5001", "default_settings.toml: "),
    ] {
        let line = refused_with_one_line(&[(file, text)], &[]).await;
        assert!(line.starts_with(start), "{text}: {line}");
    }
}

#[tokio::test]
async fn settings_that_do_not_fit_together_give_one_line() {
    let [client_id, credential, authority] = REGISTRATION;
    #[cfg(feature = "redis")]
    let (key, redis) = (("SECRET_KEY", SECRET_KEY), ("SESSION_TYPE", "redis"));
    let https = ("REDIRECT_URI", "https://app.example.com/auth/redirect");
    let incomplete = "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY: set all three";
    let demo =
        "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY are empty; the demo tenant lets everyone in";
    let demo = if cfg!(feature = "demo-tenant") { demo } else { incomplete };
    for (settings, start) in [
        (vec![client_id], incomplete),
        (vec![credential], incomplete),
        (vec![authority], incomplete),
        (vec![client_id, credential], incomplete),
        (vec![client_id, authority], incomplete),
        (vec![credential, authority], incomplete),
        (vec![https], demo),
        #[cfg(feature = "redis")]
        (vec![redis, key], demo),
        (vec![https, ("LISTEN_HOST", "0.0.0.0")], demo),
        (vec![https, ("LISTEN_HOST", "[::]")], demo),
        (vec![https, ("LISTEN_HOST", "localhost.example.com")], demo),
        (
            vec![client_id, credential, authority, ("LISTEN_HOST", "0.0.0.0")],
            "REDIRECT_URI: set the registered address, because LISTEN_HOST is not localhost",
        ),
        #[cfg(feature = "redis")]
        (
            vec![client_id, credential, authority, redis],
            "SECRET_KEY: set one; with SESSION_TYPE = \"redis\" all processes need",
        ),
    ] {
        let line = refused_with_one_line(&[], &settings).await;
        assert!(line.starts_with(start), "{settings:?}: {line}");
    }
}

#[tokio::test]
async fn a_setting_that_this_computer_cannot_use_gives_one_line() {
    let ipv4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = ipv4.local_addr().unwrap().port().to_string();
    let in_use =
        |host| format!("LISTEN_HOST = {host:?}, PORT = {port}: the app cannot listen here");
    let https = ("REDIRECT_URI", "https://app.example.com/auth/redirect");
    let at = |host| [&REGISTRATION[..], &[("LISTEN_HOST", host), https]].concat();
    for (settings, start) in [
        ([&at("localhost"), &[("PORT", port.as_str())][..]].concat(), &*in_use("127.0.0.1")),
        ([&at("127.0.0.1"), &[("PORT", port.as_str())][..]].concat(), &in_use("127.0.0.1")),
        // An address for documentation (RFC 5737), and a name that never exists (RFC 6761).
        (at("192.0.2.77"), "LISTEN_HOST = \"192.0.2.77\", PORT = 0: "),
        (at("app.example.invalid"), "LISTEN_HOST = \"app.example.invalid\", PORT = 0: "),
        (
            [&at("localhost"), &[("RUST_LOG", "rust_webapp=loud")][..]].concat(),
            "RUST_LOG = \"rust_webapp=loud\": accepted is a level",
        ),
    ] {
        let line = refused_with_one_line(&[], &settings).await;
        assert!(line.starts_with(start), "{settings:?}: {line}");
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let sessions = [("SESSION_FILE_DIR", "file/sessions")];
    let platform = Platform::start().await;
    let lines = platform.refused_by_the_app_in(folder.path(), &sessions).await;
    let start = "rust-webapp: SESSION_FILE_DIR = \"file/sessions\": accepted is a folder";
    assert!(lines.len() == 1 && lines[0].starts_with(start), "{lines:?}");
    if let Ok(ipv6) = TcpListener::bind("[::1]:0") {
        let port = ipv6.local_addr().unwrap().port().to_string();
        let settings = [&REGISTRATION[..], &[("PORT", &port)]].concat();
        let line = refused_with_one_line(&[], &settings).await;
        assert!(line.starts_with(&format!("LISTEN_HOST = \"[::1]\", PORT = {port}: ")), "{line}");
    }
}

#[cfg(not(feature = "redis"))]
#[tokio::test]
async fn a_build_without_redis_names_the_feature() {
    let redis = [("SESSION_TYPE", "redis"), ("SECRET_KEY", SECRET_KEY)];
    let line = refused_with_one_line(&[], &[&REGISTRATION[..], &redis].concat()).await;
    assert!(line.ends_with("redis in a build with `--features redis`"), "{line}");
}

#[tokio::test]
async fn the_environment_wins_over_env_and_env_over_the_file_and_the_file_over_the_defaults() {
    let platform = Platform::start().await;
    let folder = Arc::new(TempDir::new().unwrap());
    // Each round adds a source. The values of the sources before it remain.
    for (source, scope) in [
        ("defaults", "https://graph.microsoft.com/User.Read"),
        (FILE, "From.File"),
        (".env", "From.DotEnv"),
        ("environment", "From.Environment"),
    ] {
        if [FILE, ".env"].contains(&source) {
            fs::write(folder.path().join(source), format!("SCOPE=\"{scope}\"\n")).unwrap();
        }
        let environment: &[_] = if source == "environment" { &[("SCOPE", scope)] } else { &[] };
        let app = platform.app_in(folder.clone(), environment).await;
        let authorize = app.browser().get(app.at("/graph")).await;
        let requested = authorize.location_parameter("scope");
        assert_eq!(requested, Some(format!("openid profile offline_access {scope}")), "{source}");
    }
}

/// Lines of `.env`, and the value of SCOPE that must arrive.
const VALUES: [(&str, &str); 27] = [
    // dotenvy #93, motdotla/dotenv #852
    ("SCOPE=me?$select=displayName,mail", "me?$select=displayName,mail"),
    ("SCOPE=\"me?$select=displayName,mail\"", "me?$select=displayName,mail"),
    ("SCOPE='me?$select=displayName,mail'", "me?$select=displayName,mail"),
    ("SCOPE=a${PATH}b$PATH$$", "a${PATH}b$PATH$$"),
    // motdotla/dotenv #322
    ("SCOPE=last ", "last"),
    ("SCOPE=last \r\n", "last"),
    // The same kind: characters that have a meaning in a shell.
    ("SCOPE=a#b#", "a#b#"),
    ("SCOPE='a #b'", "a #b"),
    ("SCOPE=\"a # b\"", "a # b"),
    ("SCOPE=a b  c", "a b  c"),
    ("SCOPE=a\\b\\n\\\\c\\", "a\\b\\n\\\\c\\"),
    ("SCOPE=\"a\\nb\\$c\\\"", "a\\nb\\$c\\"),
    ("SCOPE='a\\'", "a\\"),
    ("SCOPE=it's \"quoted\"", "it's \"quoted\""),
    ("SCOPE=\"it's\"", "it's"),
    ("SCOPE='\"a\" b'", "\"a\" b"),
    ("SCOPE=a=b=", "a=b="),
    ("SCOPE=`a`!&|;<>*?~%25{}[]()^", "`a`!&|;<>*?~%25{}[]()^"),
    ("SCOPE=\u{e4}\u{20ac}\u{1f511}", "\u{e4}\u{20ac}\u{1f511}"),
    ("  SCOPE = a\t", "a"),
    // What must stay: a byte order mark, CRLF, `export`, comments. The last of two lines wins.
    ("\u{feff}SCOPE=a", "a"),
    ("\u{feff}# a comment\r\n\r\n  # it's another\r\nSCOPE=a\r\n", "a"),
    ("export SCOPE=a", "a"),
    ("SCOPE='a' # it is a comment", "a"),
    ("SCOPE=\"a\"\t#comment\nOTHER=", "a"),
    ("SCOPE=a\nSCOPE=b\nSCOPE=c", "c"),
    ("SCOPE=\nSCOPE='c'\n#SCOPE=d", "c"),
];

#[tokio::test]
async fn a_value_arrives_as_it_is_written_in_env() {
    for (text, scope) in VALUES {
        let folder = Arc::new(TempDir::new().unwrap());
        fs::write(folder.path().join(".env"), text).unwrap();
        let app = Platform::start().await.app_in(folder, &[]).await;
        let authorize = app.browser().get(app.at("/graph")).await;
        let requested = authorize.location_parameter("scope");
        assert_eq!(requested, Some(format!("openid profile offline_access {scope}")), "{text:?}");
    }
}

#[tokio::test]
async fn a_client_secret_arrives_as_it_is_written_in_env() {
    let secret = "a+b/c=d&e%25f~g%h#i j$k\\l\"m'n;\u{e4}";
    let platform = Platform::start().await;
    let mut settings = platform.settings();
    settings[1].1 = secret.to_owned();
    let folder = Arc::new(TempDir::new().unwrap());
    let lines = settings.map(|(key, value)| format!("{key}={value}\n"));
    fs::write(folder.path().join(".env"), lines.concat()).unwrap();
    let app = App::start_in(folder, &[]).await;
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(502, "Invalid client secret provided.");
    assert_eq!(platform.token_forms().await[0]["client_secret"], secret);
}

#[tokio::test]
async fn a_line_of_env_that_cannot_arrive_as_written_is_refused_with_its_number() {
    for (line, problem) in [
        ("SCOPE=hidden-secret # b", "the value contains #; put it in quotes, or the comment"),
        ("SCOPE=hidden-secret #b", "the value contains #"),
        ("SCOPE=hidden-secret\t#b", "the value contains #"),
        ("SCOPE=#hidden-secret", "the value contains #"),
        ("SCOPE='hidden-secret", "the quotes do not end; add a quote"),
        ("SCOPE=\"hidden-secret", "the quotes do not end; add a quote"),
        ("SCOPE='", "the quotes do not end; add a quote"),
        ("SCOPE='it's-a-hidden-secret'", "it is not clear where the quotes end; use the other"),
        ("SCOPE=\"a \\\"hidden-secret\\\"\"", "it is not clear where the quotes end"),
        ("SCOPE='hidden-secret' b", "it is not clear where the quotes end"),
        ("SCOPE='hidden-secret'#b", "it is not clear where the quotes end"),
        ("SCOPE='hidden-secret' # it's", "it is not clear where the quotes end"),
        ("SCOPE: hidden-secret", "this is not KEY=value; begin a comment with #"),
        ("hidden-secret", "this is not KEY=value"),
        ("=hidden-secret", "this is not KEY=value"),
        ("SCO PE=hidden-secret", "this is not KEY=value"),
        ("1SCOPE=hidden-secret", "this is not KEY=value"),
        ("SCOPE=hidden\u{1b}secret", "this line contains a control character; remove it"),
        ("SCOPE=hidden\rsecret", "this line contains a control character; remove it"),
    ] {
        let text = format!("# A comment\r\n\r\n{line}\r\nSSO_LOGOUT=true\n");
        let refusal = refused_with_one_line(&[(".env", &text)], &[]).await;
        assert!(refusal.starts_with(&format!(".env, line 3: {problem}")), "{line:?}: {refusal}");
    }
    let lines = refused(&[(".env", "a\nSSO_LOGOUT=x\n\"b\"")], &[]).await;
    let starts = [".env, line 1: ", ".env, line 3: ", "SSO_LOGOUT = \"x\": accepted is"];
    assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{lines:?}");
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[tokio::test]
async fn a_file_that_is_not_utf_8_is_refused_with_its_encoding() {
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (file, text) in [(".env", "SCOPE=a\r\n"), (FILE, "SCOPE = \"a\"\r\n")] {
        let big_endian = text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
        for (bytes, problem) in [
            (utf_16(&format!("\u{feff}{text}")), " is encoded in UTF-16; save it as UTF-8"),
            (utf_16(text), " is encoded in UTF-16; save it as UTF-8"),
            ([b"\xfe\xff", big_endian.as_slice()].concat(), " is encoded in UTF-16; save it as"),
            ([b"# \n# M\xfcller\n", text.as_bytes()].concat(), ", line 2: this is not UTF-8"),
        ] {
            let folder = TempDir::new().unwrap();
            fs::write(folder.path().join(file), bytes).unwrap();
            let lines = refusal(folder.path(), &[]).await;
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with(&format!("rust-webapp: {file}{problem}")), "{lines:?}");
        }
    }
    // A byte order mark of UTF-8 is allowed.
    let line = refused_with_one_line(&[(FILE, "\u{feff}PORT = 1\nSSO_LOGOUT = 1")], &[]).await;
    assert!(line.starts_with("SSO_LOGOUT = \"1\""), "{line}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_value_of_the_environment_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = TempDir::new().unwrap();
    let mut command = command(folder.path(), &[]);
    let output = command.env("SCOPE", std::ffi::OsStr::from_bytes(b"a\xff")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line, "rust-webapp: SCOPE: the value is not UTF-8; set it again\n");
}

/// `docker run --env-file .env` keeps the quotes (moby #46773).
#[tokio::test]
async fn quotes_around_a_value_of_the_environment_get_a_hint() {
    for (key, value) in [
        ("CLIENT_CREDENTIAL", "'hidden-secret-0'"),
        ("SECRET_KEY", "\"hidden-secret-hidden-secret-hidden-secret\""),
        ("CLIENT_ID", "\"e4a6f813-70c9-4d2b-b5e1-3c98d07a26f4\""),
        ("REDIRECT_URI", "''"),
    ] {
        let line = refused_with_one_line(&[], &[(key, value)]).await;
        let start = format!("{key}: the value has quotes around it; remove them");
        assert!(line.starts_with(&start), "{line}");
    }
    // An apostrophe is not a pair of quotes.
    let line = refused_with_one_line(&[], &[("SCOPE", "'"), ("PORT", "x'")]).await;
    assert!(line.starts_with("PORT = \"x'\": accepted is"), "{line}");
}

#[tokio::test]
async fn the_app_writes_client_id_and_authority_as_microsoft_entra_id_does() {
    let platform = Platform::start().await;
    let (client_id, authority) = (CLIENT_ID.to_uppercase(), platform.authority() + "/");
    let app = platform.app(&[("CLIENT_ID", &client_id), ("AUTHORITY", &authority)]).await;
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    assert_eq!(authorize.location_parameter("client_id").as_deref(), Some(CLIENT_ID));
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    assert_eq!(platform.token_forms().await[0]["client_id"], CLIENT_ID);
    let metadata = &platform.requests(Endpoint::Metadata).await[0].url;
    assert_eq!(metadata.query(), Some(&*format!("appid={CLIENT_ID}")));
    assert!(!metadata.path().contains("//"), "{metadata}");
}

/// RSA keys with certificates.
static RSA: LazyLock<[(KeyPair, Certificate); 2]> = LazyLock::new(|| {
    std::array::from_fn(|_| certify(KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()))
});

fn certify(key: KeyPair) -> (KeyPair, Certificate) {
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    (key, certificate)
}

#[tokio::test]
async fn a_certificate_file_that_the_app_cannot_use_gives_one_line() {
    let [(key, certificate), (other_key, _)] = &*RSA;
    let ec = certify(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let (key, certificate) = (key.serialize_pem(), certificate.pem());
    let no_key = "the file contains no private key";
    let not_a_pair = "the private key does not fit a certificate in the file";
    let not_rsa = "the private key is not RSA";
    // jsonwebtoken #373
    let is_encrypted = "the private key is encrypted; decrypt it with `openssl pkey";
    let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    // As `openssl rsa -traditional -aes256` writes it.
    let headers = "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n";
    let traditional = key.replace('\r', "");
    let traditional = traditional.replace("PRIVATE KEY-----\nM", &format!("{headers}\nM"));
    let traditional = traditional.replace("END PRIVATE", "END RSA PRIVATE");
    let with_crlf = traditional.replace('\n', "\r\n");
    for (case, text, start) in [
        ("empty", String::new(), no_key),
        ("without a key", certificate.clone(), no_key),
        ("without a certificate", key.clone(), "the file contains no certificate"),
        ("not PEM", "hidden-secret".to_owned(), no_key),
        ("cut", format!("{key}{}", &certificate[..200]), "the file contains no certificate"),
        ("another key", other_key.serialize_pem() + certificate.as_str(), not_a_pair),
        ("an EC key", ec.0.serialize_pem() + ec.1.pem().as_str(), not_rsa),
        ("an encrypted key", encrypted + certificate.as_str(), is_encrypted),
        ("an old encrypted key", traditional + certificate.as_str(), is_encrypted),
        ("the same with CRLF", with_crlf + certificate.as_str(), is_encrypted),
        ("a public key", RSA[0].0.public_key_pem() + certificate.as_str(), no_key),
    ] {
        let settings = [("CLIENT_CREDENTIAL", "file:app.pem"), REGISTRATION[0], REGISTRATION[2]];
        let line = refused_with_one_line(&[("app.pem", &text)], &settings).await;
        assert!(
            line.starts_with(&format!("CLIENT_CREDENTIAL: \"file:app.pem\": {start}")),
            "{case}: {line}"
        );
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("app.pfx"), [0x30, 0x82, 0xff, 0xfe]).unwrap();
    let settings = [("CLIENT_CREDENTIAL", "file:app.pfx"), REGISTRATION[0], REGISTRATION[2]];
    let lines = refusal(folder.path(), &settings).await.concat();
    assert!(
        lines.contains("\"file:app.pfx\": the file contains no private key; add it as PEM"),
        "{lines}"
    );
    let settings = [("CLIENT_CREDENTIAL", "file:no.pem"), REGISTRATION[0], REGISTRATION[2]];
    let line = refused_with_one_line(&[], &settings).await;
    assert!(line.starts_with("CLIENT_CREDENTIAL: \"file:no.pem\": "), "{line}");
}

#[tokio::test]
async fn with_a_certificate_the_app_signs_a_new_client_assertion_for_each_token_request() {
    let (key, certificate) = &RSA[0];
    let platform = Platform::start().await;
    let folder = Arc::new(TempDir::new().unwrap());
    // In a chain, the certificate of the app need not be the first one.
    let ca = certify(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()).1.pem();
    let pem = [ca, RSA[1].1.pem(), certificate.pem(), key.serialize_pem()].concat();
    fs::write(folder.path().join("app.pem"), pem).unwrap();
    let app = platform.app_in(folder, &[("CLIENT_CREDENTIAL", "file:app.pem")]).await;
    let browser = app.browser();
    // Three token requests: one sign-in, two refreshes.
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);

    let public_key = DecodingKey::from_rsa_pem(certificate.pem().as_bytes()).unwrap();
    let mut validation = Validation::new(Algorithm::PS256);
    validation.validate_nbf = true;
    validation.set_audience(&[format!("{}/oauth2/v2.0/token", platform.authority())]);
    validation.set_issuer(&[CLIENT_ID]);
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.der()));
    let mut ids = HashSet::new();
    let forms = platform.token_forms().await;
    let grant_types: Vec<_> = forms.iter().map(|form| form["grant_type"].as_str()).collect();
    assert_eq!(grant_types, ["authorization_code", "refresh_token", "refresh_token"]);
    for form in &forms {
        assert!(!form.contains_key("client_secret"), "{form:?}");
        let assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        assert_eq!(form["client_assertion_type"], assertion_type);
        let assertion = &form["client_assertion"];
        app.secrets.add(assertion.rsplit('.').next().unwrap());
        let token = jsonwebtoken::decode::<Value>(assertion, &public_key, &validation).unwrap();
        assert_eq!(token.header.typ.as_deref(), Some("JWT"));
        assert_eq!(token.header.x5t_s256, Some(thumbprint.clone()));
        assert_eq!(token.claims["sub"], CLIENT_ID);
        let expires_in = token.claims["exp"].as_i64().unwrap() - now();
        assert!((1..=300).contains(&expires_in), "{}", token.claims);
        assert!(token.claims["nbf"].as_i64().unwrap() <= now(), "{}", token.claims);
        assert!(ids.insert(token.claims["jti"].to_string()), "{}", token.claims);
    }
}

/// The tenant trusts the key of the cluster on which the app runs. The cluster writes a token into
/// a file, and replaces it.
#[tokio::test]
async fn with_a_federated_credential_the_app_sends_the_token_that_is_in_the_file_now() {
    let (cluster_key, certificate) = &RSA[0];
    let cluster_key = EncodingKey::from_rsa_pem(cluster_key.serialize_pem().as_bytes()).unwrap();
    let (issuer, subject) = ("https://cluster.example/", "system:serviceaccount:example:app");
    let sign = |id: &str| {
        let claims = json!({
            "iss": issuer, "sub": subject, "aud": "api://AzureADTokenExchange",
            "jti": id, "exp": now() + 3600,
        });
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &cluster_key).unwrap()
    };
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    let folder = Arc::new(TempDir::new().unwrap());
    let file = folder.path().join("token");
    fs::write(&file, sign("first") + "\n").unwrap();
    let app = platform.app_in(folder, &[("CLIENT_CREDENTIAL", "file:token")]).await;
    let browser = app.browser();
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
    fs::write(&file, sign("second")).unwrap();
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);

    let public_key = DecodingKey::from_rsa_pem(certificate.pem().as_bytes()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&["api://AzureADTokenExchange"]);
    validation.set_issuer(&[issuer]);
    let forms = platform.token_forms().await;
    assert_eq!(forms.len(), 2);
    for (form, id) in forms.iter().zip(["first", "second"]) {
        assert!(!form.contains_key("client_secret"), "{form:?}");
        let assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        assert_eq!(form["client_assertion_type"], assertion_type);
        let assertion = &form["client_assertion"];
        app.secrets.add(assertion.rsplit('.').next().unwrap());
        let token = jsonwebtoken::decode::<Value>(assertion, &public_key, &validation).unwrap();
        assert_eq!((&token.claims["jti"], &token.claims["sub"]), (&json!(id), &json!(subject)));
    }

    // Without the file, the log has the cause, and the page does not.
    fs::remove_file(&file).unwrap();
    let page = browser.get(app.at("/graph")).await;
    assert_eq!(page.status, 500);
    assert!(!page.body.contains("os error") && app.log().contains("NotFound"), "{}", page.body);
}

#[tokio::test]
async fn rust_log_debug_logs_more_but_no_secret() {
    let platform = Platform::start().await;
    for (level, has_debug_lines) in [("info", false), ("debug", true), ("trace", true)] {
        // When the app is dropped, the harness looks for secrets in the log.
        let settings = [("RUST_LOG", level), ("SECRET_KEY", SECRET_KEY)];
        let (app, browser) = platform.signed_in(&settings).await;
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        assert_eq!(browser.get(app.at("/logout")).await.status, 302);
        assert_eq!(app.log().contains(" DEBUG "), has_debug_lines, "{level}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn rust_log_in_env_decides_what_is_logged() {
    let platform = Platform::start().await;
    let folder = TempDir::new().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = free.port().to_string();
    for (level, logs_requests) in [("error", false), ("info", true)] {
        fs::write(folder.path().join(".env"), format!("RUST_LOG={level}")).unwrap();
        let mut command = command(folder.path(), &[("PORT", &port)]);
        command.envs(platform.settings());
        let process = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        until("a start", || std::net::TcpStream::connect(free).is_ok()).await;
        let home = format!("http://localhost:{port}/");
        assert_eq!(Browser::new(Secrets::default()).get(home).await.status, 200);
        signal(process.id(), "-TERM");
        let log = String::from_utf8(process.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(log.contains("GET \"/\": 200"), logs_requests, "{log}");
        assert_eq!(log.is_empty(), !logs_requests, "{log}");
    }
}
