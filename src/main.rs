//! A web app that signs users in with Microsoft Entra ID and calls
//! Microsoft Graph as them. It is a sample to be read: each handler in
//! `routes` does every step of the protocol in its own body, and nothing
//! here decides who gets in.

// <ms_docref_import_modules>
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use actix_session::SessionMiddleware;
use actix_session::config::BrowserSession;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::cookie::{Key, SameSite};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::{Error, InternalError};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::Value;
use tera::{Context, Tera};
use tracing::{error, info, warn};
use url::Url;

use crate::session_store::SessionStore;
use crate::settings::Settings;
// </ms_docref_import_modules>

#[cfg(feature = "demo-tenant")]
mod demo_tenant;
mod json_highlight;
mod log;
mod routes;
mod session_store;
mod settings;

/// JSON is many small pieces of memory, and this allocator is quick with
/// them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// For `/style.css`: everything of a page comes from this app.
const STYLE: &str = include_str!("../templates/style.css");

/// On every answer. Nothing but our own stylesheet is loaded, nothing is
/// kept by caches, no address is passed on, and no other site may put a
/// page of ours into a frame (RFC 9700 section 4.16).
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; \
         base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Linux's error number for an address family that the kernel was built
/// without; the standard library has no name for it.
const EAFNOSUPPORT: i32 = 97;

/// Exits with 2 if the app cannot start, after one line on stderr for each
/// reason.
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reasons) => {
            for reason in reasons {
                eprintln!("rust-webapp: {reason}");
            }
            ExitCode::from(2)
        }
    }
}

// <ms_docref_create_and_initialize_app>
#[actix_web::main]
async fn run() -> Result<(), Vec<String>> {
    let mut settings = Settings::load()?;

    // To the end of this function, or the last lines would be lost.
    let _log = log::start();

    let listeners = listen(&settings.listen_host, settings.port).map_err(|reason| vec![reason])?;
    let port = listeners[0].local_addr().map_or(settings.port, |address| address.port());
    // In a URL an IPv6 address stands in brackets.
    let host = settings.listen_host.trim_matches(['[', ']']);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("http://{host}:{port}");
    if settings.redirect_uri.is_empty() {
        settings.redirect_uri = format!("{address}/auth/redirect");
    }

    // The templates are part of the program; `cargo run` sees to it that they
    // are the newest.
    let mut templates = Tera::new();
    templates.register_filter("json_highlight", json_highlight::json_highlight);
    let loaded = templates.add_raw_templates([
        ("layout.html", include_str!("../templates/layout.html")),
        ("public/index.html", include_str!("../templates/public/index.html")),
        ("authenticated/graph.html", include_str!("../templates/authenticated/graph.html")),
        ("authenticated/admin.html", include_str!("../templates/authenticated/admin.html")),
        ("error.html", include_str!("../templates/error.html")),
    ]);
    loaded.map_err(|err| vec![format!("templates: {err}")])?;

    // One client for all calls, so that connections are shared. It follows no
    // redirects: the answer to a request that carries a secret or a token
    // comes from the address that it was sent to, or it is none.
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(15))
        .redirect(reqwest::redirect::Policy::none());
    // The demo tenant is on this machine, and a proxy is elsewhere.
    let http = if settings.in_demo_tenant() { http.no_proxy() } else { http };
    let http = http.build().map_err(|err| vec![format!("no HTTP client: {err}")])?;

    #[cfg(feature = "demo-tenant")]
    if settings.in_demo_tenant() {
        let listeners = listen("localhost", port.saturating_add(1)).or_else(|_| listen("localhost", 0));
        let tenant = listeners
            .and_then(|listeners| {
                let token_lifetime = settings.demo_token_lifetime.into();
                demo_tenant::start(listeners, &settings.redirect_uri, token_lifetime).map_err(|err| err.to_string())
            })
            .map_err(|err| vec![format!("the demo tenant cannot start: {err}")])?;
        actix_web::rt::spawn(tenant.server);
        info!("no app registration in the settings: using the demo tenant {}", tenant.authority);
        info!(
            "it runs on this computer, with two invented users and no passwords; README.md says how to use a real one"
        );
        templates.global_context().insert("demo_tenant", &tenant.authority);
        settings.client_id = tenant.client_id;
        settings.client_credential = tenant.client_credential;
        settings.authority = tenant.authority;
        settings.endpoint = tenant.endpoint;
    }

    // <ms_docref_openid_metadata>
    // What the identity platform says of itself (OpenID Connect Discovery 1.0
    // section 4): its endpoints, its keys, its name. As MSAL's client does,
    // the app asks once, at start, so that a wrong AUTHORITY shows here and
    // not at the first sign-in.
    let authority = settings.authority.as_str();
    let wrong = |what: &str| vec![format!("AUTHORITY = {authority:?}: {what}")];
    let metadata_url = format!("{authority}/v2.0/.well-known/openid-configuration");
    let mut tries = 0;
    let metadata: Value = loop {
        tries += 1;
        let sent = async {
            let response = http.get(&metadata_url).timeout(Duration::from_secs(5)).send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.bytes().await?))
        };
        let (may_pass, failure) = match sent.await {
            Ok((200, body)) => match serde_json::from_slice(&body) {
                Ok(metadata) => break metadata,
                Err(_) => (true, "it answered, but not with OpenID metadata".to_owned()),
            },
            // "No such tenant" stays so, however often one asks.
            Ok((status, body)) => {
                let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
                let description = answer["error_description"].as_str().unwrap_or_default();
                (status == 429 || status >= 500, format!("it answered {status}, {description:?}"))
            }
            // The last source says what went wrong: the name, the connection, the
            // certificate, the time limit.
            Err(err) => {
                let mut cause: &dyn std::error::Error = &err;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                (true, format!("it cannot be reached: {cause}; check its spelling and the network"))
            }
        };
        if !may_pass || tries == 3 {
            return Err(wrong(&format!("{failure}; {metadata_url} must work in a browser")));
        }
        warn!("AUTHORITY: {failure:?}, trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    // Its name must be that of AUTHORITY (section 4.3), or, as Microsoft
    // writes it, have the tenant's id, a GUID, in place of its domain, or the
    // gap {tenantid} for all tenants. External ID has the tenant's id in the
    // host name too.
    let issuer = metadata["issuer"].as_str().unwrap_or_default();
    let (Ok(asked), Ok(named)) = (Url::parse(authority), Url::parse(issuer)) else {
        return Err(wrong(&format!("its metadata names no issuer: {issuer:?}")));
    };
    let is_external_id = |url: &Url| url.host_str().is_some_and(|host| host.ends_with(".ciamlogin.com"));
    let is_sibling =
        is_external_id(&asked) && is_external_id(&named) && (named.scheme(), named.port()) == ("https", None);
    let path = issuer.splitn(4, '/').nth(3).unwrap_or_default().trim_end_matches('/');
    let is_tenant = path.strip_suffix("/v2.0").is_some_and(|tenant| {
        let is_hex_or_hyphen = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        let is_guid = tenant.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && tenant.bytes().all(is_hex_or_hyphen);
        is_guid || tenant == "{tenantid}"
    });
    let is_of_tenant = is_tenant && (asked.origin() == named.origin() || is_sibling);
    if issuer.trim_end_matches('/') != format!("{authority}/v2.0") && !is_of_tenant {
        return Err(wrong(&format!("its metadata is that of another issuer, {issuer:?}")));
    }
    // Secrets, codes and tokens go to these addresses, and keys come from
    // there.
    for endpoint in ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"] {
        let address = &metadata[endpoint];
        let is_left_out = endpoint == "end_session_endpoint" && address.is_null();
        let address = address.as_str().map_or_else(|| address.to_string(), str::to_owned);
        if !settings::is_https_or_loopback(&address) && !is_left_out {
            return Err(wrong(&format!("the {endpoint} in its metadata is no https address: {address:?}")));
        }
    }
    settings.openid_metadata = metadata;
    info!("OpenID metadata loaded; the app registration must have the redirect URI {}", settings.redirect_uri);
    // </ms_docref_openid_metadata>

    let sessions = SessionStore::open(&settings).await.map_err(|reason| vec![reason])?;
    let is_https = settings.redirect_uri.starts_with("https:");
    let cookie_key = if settings.secret_key.is_empty() {
        info!("SECRET_KEY is empty: a key was made for this run, and a restart signs everyone out");
        Key::generate()
    } else {
        Key::derive_from(settings.secret_key.as_bytes())
    };
    let lifetime = settings.permanent_session_lifetime;
    info!("open {address} in a browser, Ctrl+C stops the app");

    let mut server = HttpServer::new(move || {
        // The cookie holds the session id and nothing else. Browsers send it only
        // to this host (__Host-, RFC 6265bis section 4.1.3), out of scripts'
        // reach, and with links from elsewhere, such as the redirect from the
        // identity platform, but not with other sites' forms (SameSite=Lax). All
        // ports of localhost share cookies, hence the name.
        let session_middleware = SessionMiddleware::builder(sessions.clone(), cookie_key.clone())
            .cookie_name(if is_https { "__Host-rust-webapp-session" } else { "rust-webapp-session" }.to_owned())
            .cookie_content_security(actix_session::config::CookieContentSecurity::Signed)
            .cookie_http_only(true)
            .cookie_same_site(SameSite::Lax)
            .cookie_secure(is_https)
            .session_lifecycle(
                BrowserSession::default().state_ttl(actix_web::cookie::time::Duration::seconds(lifetime.into())),
            )
            .build();
        // Each worker has its own copies: if workers counted their references in the
        // same place, a page would take several percent longer. The client's copies
        // share its connections.
        App::new()
            .app_data(web::Data::new(settings.clone()))
            .app_data(web::Data::new(http.clone()))
            .app_data(web::Data::new(templates.clone()))
            .wrap(from_fn(present))
            .service(web::resource("/style.css").get(async || {
                HttpResponse::Ok()
                    .content_type("text/css; charset=utf-8")
                    .insert_header((header::CACHE_CONTROL, "max-age=3600"))
                    .body(STYLE)
            }))
            .service(
                web::scope("")
                    .wrap(session_middleware)
                    .service(web::resource("/").get(routes::index::index))
                    .service(web::resource("/graph").get(routes::graph::graph))
                    .service(web::resource("/admin").get(routes::admin::admin))
                    .service(web::resource("/auth/redirect").get(routes::auth_redirect::authorized))
                    .service(web::resource("/logout").get(routes::logout::logout)),
            )
    });
    for listener in listeners {
        server = server.listen(listener).map_err(|err| vec![format!("cannot listen: {err}")])?;
    }
    server.run().await.map_err(|err| vec![format!("the server stopped: {err}")])
}
// </ms_docref_create_and_initialize_app>

/// Binds `host`: all its addresses on one port, and for localhost those of
/// both families that the machine has.
///
/// # Errors
/// One line that names the setting and what to do.
fn listen(host: &str, port: u16) -> Result<Vec<TcpListener>, String> {
    let addresses: Vec<SocketAddr> = if host.eq_ignore_ascii_case("localhost") {
        vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
    } else {
        match (host.trim_matches(['[', ']']), port).to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(err) => {
                return Err(format!("LISTEN_HOST = {host:?}: {err}; accepted is a name or address of this machine"));
            }
        }
    };
    // With PORT 0 the first address gets any free port, which may be taken on
    // the second one.
    let mut tries = 0;
    'port: loop {
        tries += 1;
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in &addresses {
            let mut address = *address;
            if let Some(first) = listeners.first().and_then(|first| first.local_addr().ok()) {
                address.set_port(first.port());
            }
            match TcpListener::bind(address) {
                Ok(listener) => listeners.push(listener),
                Err(err) if err.kind() == io::ErrorKind::AddrInUse && port == 0 && tries < 100 => {
                    continue 'port;
                }
                Err(err) if err.kind() == io::ErrorKind::AddrInUse => {
                    return Err(format!(
                        "PORT = {port}: another program uses it on {}; end that program or choose another PORT, which \
                         must then be in the registered redirect URI too (on macOS, AirPlay Receiver uses 5000)",
                        address.ip()
                    ));
                }
                // A machine without IPv6, or without IPv4, has one address less.
                Err(err) if err.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(err) if err.raw_os_error() == Some(EAFNOSUPPORT) => {}
                Err(err) => return Err(format!("LISTEN_HOST = {host:?}, PORT = {port}: {err}")),
            }
        }
        if listeners.is_empty() {
            return Err(format!("LISTEN_HOST = {host:?}: this machine has no such address"));
        }
        return Ok(listeners);
    }
}

/// Presents what the handlers answered, and decides nothing: headers, error
/// pages, the request log, and the one name among this machine's names
/// under which the session cookie will be found again.
async fn present(
    settings: web::Data<Settings>,
    templates: web::Data<Tera>,
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let request = format!("{} {:?}", req.method(), req.path());

    // The browser keeps cookies for localhost and 127.0.0.1 apart, and the
    // identity platform sends it to REDIRECT_URI's host.
    let host = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let asked = host
        .filter(|host| settings.redirect_uri.split('/').nth(2) != Some(*host))
        .and_then(|host| Url::parse(&format!("http://{host}")).ok());
    if let Some(asked) = asked
        && let Ok(mut home) = Url::parse(&settings.redirect_uri)
    {
        let is_loopback = |url: &Url| url.host_str().is_some_and(settings::is_loopback);
        // Another port is a proxy's, whose visitors are elsewhere already.
        let is_same_port = asked.port_or_known_default() == home.port_or_known_default();
        if is_loopback(&asked) && is_loopback(&home) && is_same_port && asked.host() != home.host() {
            home.set_path(req.path());
            home.set_query(req.uri().query());
            info!("{request}: redirecting from {} to the name in REDIRECT_URI", asked.host_str().unwrap_or_default());
            let mut response = HttpResponse::Found().insert_header((header::LOCATION, home.as_str())).finish();
            add_headers(response.headers_mut());
            return Ok(req.into_response(response));
        }
    }

    let error_page = |status: StatusCode, message: Option<String>| {
        let mut context = Context::new();
        context.insert("status", &status.as_u16());
        context.insert("reason", status.canonical_reason().unwrap_or("Error"));
        if let Some(message) = message {
            context.insert("message", &message);
        }
        templates.render("error.html", &context).unwrap_or_else(|err| {
            error!("error.html: {:?}", err.to_string());
            status.to_string()
        })
    };
    let cookies = req.headers().get(header::COOKIE).and_then(|sent| sent.to_str().ok()).unwrap_or_default().to_owned();
    match next.call(req).await {
        Ok(response) => {
            let status = response.status();
            let mut response = if status.is_client_error() || status.is_server_error() {
                // Only sentences that a handler wrote for the browser are shown; of any
                // other error the log has the cause.
                let message = response.response().error().and_then(|err| {
                    let text = err.as_error::<InternalError<String>>().map(ToString::to_string);
                    let message =
                        text.or_else(|| err.as_error::<InternalError<&'static str>>().map(ToString::to_string));
                    if message.is_none() {
                        error!("{request}: {:?}", err.to_string());
                    }
                    message
                });
                let page = error_page(status, message);
                response.map_body(|head, _| {
                    head.headers_mut()
                        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
                    BoxBody::new(page)
                })
            } else {
                response.map_into_boxed_body()
            };
            // A cookie that the browser has is not sent again: coming late, it would
            // undo what another tab has done since, a sign-out or a sign-in.
            let is_known = |set: &HeaderValue| {
                let pair = set.to_str().ok().and_then(|set| set.split(';').next());
                pair.is_some_and(|pair| cookies.split("; ").any(|sent| sent == pair))
            };
            if response.headers().get(header::SET_COOKIE).is_some_and(is_known) {
                response.headers_mut().remove(header::SET_COOKIE);
            }
            add_headers(response.headers_mut());
            info!("{request}: {status}");
            Ok(response)
        }
        // Handlers answer errors; what comes as one here is the session
        // middleware's, whose store has logged the cause.
        Err(err) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let page = error_page(
                status,
                Some("The sessions of this app are out of order. Try again in a minute.".to_owned()),
            );
            let mut response = HttpResponse::build(status).content_type(header::ContentType::html()).body(page);
            add_headers(response.headers_mut());
            info!("{request}: {status}");
            Err(InternalError::from_response(err, response).into())
        }
    }
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}
