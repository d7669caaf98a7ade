//! The addresses where the app listens.

use std::net::TcpListener;

use anyhow::{Context as _, Result};

/// Listens on `host`. For localhost, listens on both of its addresses, because a browser may use
/// either.
pub fn bind(host: &str, port: u16) -> Result<Vec<TcpListener>> {
    if !host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![bind_one(host, port)?]);
    }
    let ipv4 = bind_one("127.0.0.1", port)?;
    // A computer without IPv6 cannot bind any port of it.
    if TcpListener::bind("[::1]:0").is_err() {
        return Ok(vec![ipv4]);
    }
    let ipv6 = bind_one("[::1]", ipv4.local_addr()?.port())?;
    Ok(vec![ipv4, ipv6])
}

fn bind_one(host: &str, port: u16) -> Result<TcpListener> {
    TcpListener::bind(format!("{host}:{port}")).with_context(|| {
        format!(
            "LISTEN_HOST = {host:?}, PORT = {port}: the app cannot listen here; if another program \
             uses this port, choose another one"
        )
    })
}
