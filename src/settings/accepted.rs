//! What the app accepts as the value of each setting.

use std::net::IpAddr;
use std::path::PathBuf;

use actix_web::cookie::Key;
use anyhow::{Context as _, Result, bail, ensure};
use url::{Host, Position, Url};

use super::SessionType;
use crate::protocol::ClientCredential;

/// The tenant of all personal Microsoft accounts. Another name of it is `consumers`.
pub const PERSONAL_ACCOUNTS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

pub fn client_id(text: &str) -> Result<String> {
    let accepted = "accepted is the Application (client) ID, which is a GUID";
    ensure!(text.is_empty() || is_guid(text), accepted);
    Ok(text.to_ascii_lowercase())
}

pub fn client_credential(client_id: &str, text: &str) -> Result<ClientCredential> {
    ensure!(
        text.trim() == text && !is_guid(text),
        "accepted is the Value of a client secret (a GUID is the Secret ID; use the Value), or \
         file: and the path of a PEM file or a token file"
    );
    ClientCredential::load(client_id, text)
}

pub fn authority(text: &str) -> Result<String> {
    let is_one_tenant = |url: Url| {
        let path = url.path().trim_matches('/').to_ascii_lowercase();
        let refused = ["", "v2.0", "common", "organizations", "consumers", PERSONAL_ACCOUNTS];
        path.split('/').all(|part| !refused.contains(&part))
    };
    ensure!(
        text.is_empty() || base_url(text).is_some_and(is_one_tenant),
        "accepted is https://login.microsoftonline.com/<Directory (tenant) ID>, without /v2.0; \
         with common, organizations, consumers or the tenant of personal accounts, users of other \
         tenants could sign in, and their administrators could assign the role admin"
    );
    Ok(text.trim_end_matches('/').to_owned())
}

pub fn scope(text: &str) -> Result<String> {
    ensure!(!text.trim().is_empty(), "accepted is delegated permissions, separated by spaces");
    Ok(text.to_owned())
}

pub fn endpoint(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(is_https_or_loopback);
    url.context("accepted is an https address, or http on this computer")
}

pub fn listen_host(text: &str) -> Result<String> {
    ensure!(
        Host::parse(text).is_ok_and(|host| host.to_string() != "[::1]"),
        "accepted is a host name or an IP address (IPv6 in brackets); for ::1, which Microsoft \
         Entra ID does not accept in a redirect URI, use localhost"
    );
    Ok(text.to_owned())
}

pub fn port(text: &str) -> Result<u16> {
    text.parse().ok().context("accepted is a number from 0 (any free port) to 65535")
}

pub fn redirect_uri(text: &str) -> Result<Option<Url>> {
    let url = base_url(text).filter(|url| url.path() == "/auth/redirect");
    ensure!(
        text.is_empty() || url.is_some(),
        "accepted is empty, or the registered https address (http on this computer) with the path \
         /auth/redirect"
    );
    Ok(url)
}

pub fn secret_key(text: &str) -> Result<Key> {
    match text.len() {
        0 => Ok(Key::generate()),
        1..32 => bail!("accepted is empty, or at least 32 bytes"),
        _ => Ok(Key::derive_from(text.as_bytes())),
    }
}

pub fn session_type(text: &str) -> Result<SessionType> {
    match text {
        "filesystem" => Ok(SessionType::Filesystem),
        #[cfg(feature = "redis")]
        "redis" => Ok(SessionType::Redis),
        _ => bail!("accepted is filesystem, or redis in a build with `--features redis`"),
    }
}

pub fn session_file_dir(text: &str) -> Result<PathBuf> {
    ensure!(!text.is_empty(), "accepted is a folder");
    Ok(text.into())
}

pub fn session_redis(text: &str) -> Result<String> {
    // A `#`, `/` or `?` in the password would end the host.
    let is_redis = |url: Url| {
        let rest = &url[Position::BeforePath..];
        ["redis", "rediss"].contains(&url.scheme()) && url.has_host() && !rest.contains(['@', '#'])
    };
    ensure!(
        Url::parse(text).is_ok_and(is_redis),
        "accepted is redis://host:port, or rediss://host:port for TLS; in a password, write @ as \
         %40, # as %23, / as %2F, ? as %3F and % as %25"
    );
    Ok(text.to_owned())
}

pub fn sso_logout(text: &str) -> Result<bool> {
    text.parse().ok().context("accepted is true or false")
}

pub fn permanent_session_lifetime(text: &str) -> Result<u32> {
    let seconds = text.parse().ok().filter(|seconds| (1..=31_536_000).contains(seconds));
    seconds.context("accepted is seconds from 1 to 31536000 (a year)")
}

pub fn demo_token_lifetime(text: &str) -> Result<u32> {
    let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.context("accepted is seconds from 1 to 86400 (a day)")
}

/// Whether `host`, a name or an IP address, is this computer.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether it is safe to send secrets and tokens to `url`: with TLS, or on this computer
/// (RFC 6749 sections 3.1.2.1 and 3.2).
pub fn is_https_or_loopback(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && url.host_str().is_some_and(is_loopback))
}

fn is_guid(text: &str) -> bool {
    let parts = text.split('-').map(str::len);
    parts.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// The address in `text`, if the app can add a path to it and it is written as browsers write it.
/// Microsoft Entra ID compares redirect URIs as text.
fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_base = url.as_str() == text && !text.contains(['?', '#', '@']);
    (is_base && is_https_or_loopback(&url)).then_some(url)
}
