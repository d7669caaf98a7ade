//! Proxies and CA certificates: what the environment of the app says about them.

use std::fs;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::harness::*;
use crate::platform::*;

/// A proxy that closes each connection, and what its clients sent.
struct Proxy {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 1_000];
                let length = stream.read(&mut request).await.unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                received.lock().unwrap().push(request);
            }
        });
        Self { address, requests }
    }

    /// Settings that send everything to this proxy.
    fn everything(&self) -> Vec<(&'static str, &str)> {
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"];
        names.map(|name| (name, self.address.as_str())).to_vec()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// The settings of a tenant elsewhere.
fn tenant(authority: &str) -> Vec<(&'static str, &str)> {
    let credential = ("CLIENT_CREDENTIAL", "hidden-secret-0");
    vec![("CLIENT_ID", CLIENT_ID), credential, ("AUTHORITY", authority)]
}

/// A file with a CA certificate.
fn ca_file(folder: &TempDir) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let path = folder.path().join("ca.pem");
    fs::write(&path, certificate.pem()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Starts the app, which must refuse to start with one line.
async fn refused(settings: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    let ca_file = ca_file(&folder);
    let settings = [&[("SSL_CERT_FILE", ca_file.as_str())], settings].concat();
    let mut lines = refusal(folder.path(), &settings).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

/// reqwest #2152
#[tokio::test]
async fn nothing_for_this_computer_goes_to_a_proxy() {
    let proxy = Proxy::start().await;
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&proxy.everything()).await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    // The same if Microsoft Graph is elsewhere.
    let folder = TempDir::new().unwrap();
    let ca_file = ca_file(&folder);
    let graph = [("ENDPOINT", "https://graph.example.invalid/"), ("SSL_CERT_FILE", &ca_file)];
    platform.signed_in(&[&proxy.everything()[..], &graph].concat()).await;
    for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
        // Nothing listens on this port.
        let authority = format!("https://{host}:1/contoso");
        let settings = [proxy.everything(), tenant(&authority), vec![("NO_PROXY", "x.example")]];
        let line = refused(&settings.concat()).await;
        assert!(line.contains("is not available, check the spelling and the network"), "{line}");
    }
    assert_eq!(proxy.requests(), [""; 0]);
}

#[tokio::test]
async fn https_for_other_computers_goes_to_the_proxy_unless_no_proxy_names_them() {
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let proxy = Proxy::start().await;
        let tenant = tenant("https://login.example.invalid/contoso");
        let settings = [&tenant[..], &[(name, proxy.address.as_str())]].concat();
        refused(&settings).await;
        let requests = proxy.requests();
        let connect = "CONNECT login.example.invalid:443 HTTP/1.1\r\n";
        assert!(requests.len() == 1 && requests[0].starts_with(connect), "{name}: {requests:?}");
        refused(&[&settings[..], &[("NO_PROXY", "a.example, example.invalid")]].concat()).await;
        assert_eq!(proxy.requests().len(), 1, "{name}: {requests:?}");
    }
    // An empty variable does not count.
    let proxy = Proxy::start().await;
    let tenant = tenant("https://login.example.invalid/contoso");
    let settings = [("HTTPS_PROXY", ""), ("ALL_PROXY", proxy.address.as_str())];
    refused(&[&tenant[..], &settings].concat()).await;
    assert_eq!(proxy.requests().len(), 1);
}

#[tokio::test]
async fn a_proxy_that_the_app_cannot_use_is_named_without_its_password() {
    let tenant = tenant("https://login.example.invalid/contoso");
    for (name, address, problem) in [
        ("ALL_PROXY", "socks5://user:hidden-secret@127.0.0.1:1080", "cannot use a socks5 proxy"),
        ("HTTPS_PROXY", "SOCKS5H://127.0.0.1:1080", "cannot use a SOCKS5H proxy"),
        ("https_proxy", "socks4://127.0.0.1", "cannot use a socks4 proxy"),
        ("HTTPS_PROXY", "http://:hidden-secret", "accepted is the address of an HTTP proxy"),
    ] {
        let line = refused(&[&tenant[..], &[(name, address)]].concat()).await;
        // On Windows, the names of variables have no case.
        let start = format!("rust-webapp: {name}: ").to_lowercase();
        let is_named = line.to_lowercase().starts_with(&start);
        assert!(is_named && line.contains(problem), "{line}");
    }
    // It does not matter if everything is on this computer.
    let socks = ("ALL_PROXY", "socks5://127.0.0.1:1080");
    Platform::start().await.signed_in(&[socks]).await;
    #[cfg(feature = "demo-tenant")]
    App::start(&[socks]).await;
}

/// reqwest #2988. Windows and macOS always have CA certificates.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_ca_certificates_a_tenant_gets_a_hint_and_what_is_on_this_computer_works() {
    let folder = TempDir::new().unwrap();
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    for file in [empty.to_str().unwrap(), "no-such-file.pem"] {
        let none = [("SSL_CERT_FILE", file), ("SSL_CERT_DIR", "no-such-folder")];
        let tenant = tenant("https://login.example.invalid/contoso");
        let line = refusal(folder.path(), &[&tenant[..], &none].concat()).await.concat();
        for hint in ["if CA certificates are missing", "`ca-certificates`", "set SSL_CERT_FILE"] {
            assert!(line.contains(hint), "{line}");
        }
        Platform::start().await.signed_in(&none).await;
        #[cfg(feature = "demo-tenant")]
        App::start(&none).await;
    }
}
