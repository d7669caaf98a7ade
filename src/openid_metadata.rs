//! The OpenID metadata of the tenant.

use anyhow::{Context as _, Result, anyhow, ensure};
use reqwest::Client;
use url::Url;

use crate::protocol::OpenIdMetadata;
use crate::settings::{PERSONAL_ACCOUNTS, Settings, is_https_or_loopback};

// <ms_docref_openid_metadata>
/// Asks AUTHORITY for its OpenID metadata (OpenID Connect Discovery 1.0 section 4) at the
/// start, so that a wrong AUTHORITY shows now and not at the first sign-in.
pub async fn load(http: &Client, settings: &Settings) -> Result<OpenIdMetadata> {
    let metadata = request(http, settings).await;
    metadata.with_context(|| format!("AUTHORITY = {:?}", settings.authority))
}

async fn request(http: &Client, settings: &Settings) -> Result<OpenIdMetadata> {
    let address = format!("{}/v2.0/.well-known/openid-configuration", settings.authority);
    // For an app with signing keys of its own, the response names these keys.
    let url = Url::parse_with_params(&address, [("appid", &settings.client_id)])?;
    let unavailable = || format!("{url} is not available, check the spelling and the network");
    let response = http.get(url.clone()).send().await.with_context(unavailable)?;
    let status = response.status();
    let body = response.text().await.with_context(unavailable)?;
    let metadata: OpenIdMetadata = serde_json::from_str(&body).map_err(|err| {
        // An error of Microsoft Entra ID says what is wrong.
        let error: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let description = error["error_description"].as_str().unwrap_or("no OpenID metadata");
        anyhow!("{url} answered {status}: {description:?} ({err})")
    })?;

    // With several tenants, an administrator of any tenant could assign the role admin.
    let issuer = &metadata.issuer;
    let is_for_many = issuer.contains("{tenantid}") || issuer.contains(PERSONAL_ACCOUNTS);
    ensure!(!is_for_many, "this is not one tenant; accepted is the address of one tenant");
    // The issuer must have the host of AUTHORITY (section 4.3). With a custom domain as
    // AUTHORITY, the issuer still has a host of Microsoft.
    let issuer_url = Url::parse(issuer).context("the issuer in the metadata is not a URL")?;
    let is_issuer = issuer_url.origin() == url.origin() || is_microsoft(&issuer_url);
    ensure!(is_issuer, "the metadata is for another issuer, {issuer:?}");
    // The app sends secrets, codes and tokens to these addresses.
    let OpenIdMetadata { authorization_endpoint, token_endpoint, jwks_uri, .. } = &metadata;
    let endpoints = [authorization_endpoint, token_endpoint, jwks_uri];
    for endpoint in endpoints.into_iter().chain(&metadata.end_session_endpoint) {
        ensure!(is_https_or_loopback(endpoint), "an endpoint is not https: {endpoint}");
    }
    Ok(metadata)
}
// </ms_docref_openid_metadata>

/// Whether Microsoft alone decides what is at `url`: its hosts for all tenants in each cloud, and
/// those of External ID and Azure AD B2C.
fn is_microsoft(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let clouds = [
        "login.microsoftonline.com",
        "login.microsoftonline.us",
        "login.partner.microsoftonline.cn",
        "login.sovcloud-identity.fr",
        "login.sovcloud-identity.de",
        "login.sovcloud-identity.sg",
    ];
    let is_host = clouds.contains(&host)
        || [".ciamlogin.com", ".b2clogin.com"].iter().any(|domain| host.ends_with(domain));
    url.scheme() == "https" && url.port().is_none() && is_host
}
