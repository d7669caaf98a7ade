//! The client for all requests to Microsoft Entra ID and to Microsoft Graph.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::redirect::Policy;
use reqwest::{Client, NoProxy, Proxy};

use crate::settings::Settings;

/// Addresses that are never asked for through a proxy, with the syntax of NO_PROXY.
const THIS_COMPUTER: &str = "localhost,127.0.0.0/8,::1";

/// Makes one client, so that all requests share its connections.
pub fn build(settings: &Settings) -> anyhow::Result<Client> {
    // Without redirects, a request with a secret or a token goes only to the address that
    // it is for. reqwest would send requests to this computer to a proxy too.
    let mut client =
        Client::builder().timeout(Duration::from_secs(15)).redirect(Policy::none()).no_proxy();
    // http is allowed only on this computer. It needs neither CA certificates nor a proxy.
    if !settings.authority.starts_with("https:") && settings.endpoint.scheme() != "https" {
        return Ok(client.tls_certs_only([]).build()?);
    }
    if let Some(proxy) = https_proxy()? {
        client = client.proxy(proxy);
    }
    client.build().context(
        "the app cannot make a client for https; if CA certificates are missing, install the \
         package `ca-certificates`, or set SSL_CERT_FILE to a PEM file with CA certificates",
    )
}

/// The proxy for https. Its address may contain a password. Do not show it.
fn https_proxy() -> anyhow::Result<Option<Proxy>> {
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let Some((name, address)) = names.into_iter().find_map(|name| Some((name, variable(name)?)))
    else {
        return Ok(None);
    };
    let accepted = "accepted is the address of an HTTP proxy, such as http://proxy.example:8080";
    let scheme = address.split_once("://").map_or("http", |(scheme, _)| scheme);
    let is_http = ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str());
    ensure!(is_http, "{name}: this app cannot use a {scheme} proxy; {accepted}");
    let proxy = Proxy::https(&address).ok().with_context(|| format!("{name}: {accepted}"))?;
    let listed = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
    Ok(Some(proxy.no_proxy(NoProxy::from_string(&format!("{THIS_COMPUTER},{listed}")))))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
