//! What AUTHORITY may be: tenants by id and by domain, all tenants,
//! national clouds, Azure AD B2C and External ID, each at the host names
//! and paths that it really has. A proxy of the test leads to all of them.

use std::sync::Arc;

use base64::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs};

use crate::harness::*;
use crate::platform::*;

/// An identity platform by its addresses, in which `{t}` is the tenant's
/// id.
pub struct Authority {
    /// The setting.
    pub authority: &'static str,
    /// Where its metadata must be asked for.
    metadata: &'static str,
    /// What its endpoints' addresses begin with, by its metadata.
    endpoints: &'static str,
    /// Its issuer, by its metadata.
    issuer: &'static str,
    /// The environment of its tokens in the token cache, and their realm.
    cached_as: (&'static str, &'static str),
}

pub const AUTHORITIES: &[Authority] = &[
    // A tenant by its id.
    Authority {
        authority: "https://login.microsoftonline.com/{t}",
        metadata: "https://login.microsoftonline.com/{t}/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.com/{t}",
        issuer: "https://login.microsoftonline.com/{t}/v2.0",
        cached_as: ("login.microsoftonline.com", "{t}"),
    },
    // With a slash too many.
    Authority {
        authority: "https://login.microsoftonline.com/{t}/",
        metadata: "https://login.microsoftonline.com/{t}/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.com/{t}",
        issuer: "https://login.microsoftonline.com/{t}/v2.0",
        cached_as: ("login.microsoftonline.com", "{t}"),
    },
    // By its domain, in whose place the id stands in all answers.
    Authority {
        authority: "https://Login.MicrosoftOnline.com/Fabrikam.onmicrosoft.com",
        metadata: "https://login.microsoftonline.com/Fabrikam.onmicrosoft.com/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.com/{t}",
        issuer: "https://login.microsoftonline.com/{t}/v2.0",
        cached_as: ("login.microsoftonline.com", "{t}"),
    },
    // All tenants and personal accounts: the issuer has a gap.
    Authority {
        authority: "https://login.microsoftonline.com/common",
        metadata: "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.com/common",
        issuer: "https://login.microsoftonline.com/{tenantid}/v2.0",
        cached_as: ("login.microsoftonline.com", "common"),
    },
    Authority {
        authority: "https://login.microsoftonline.com/organizations/",
        metadata: "https://login.microsoftonline.com/organizations/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.com/organizations",
        issuer: "https://login.microsoftonline.com/{tenantid}/v2.0",
        cached_as: ("login.microsoftonline.com", "organizations"),
    },
    // Personal accounts, which are a tenant.
    Authority {
        authority: "https://login.microsoftonline.com/consumers",
        metadata: "https://login.microsoftonline.com/consumers/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.com/consumers",
        issuer: "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
        cached_as: ("login.microsoftonline.com", "consumers"),
    },
    // National clouds.
    Authority {
        authority: "https://login.microsoftonline.us/fabrikam.onmicrosoft.us",
        metadata: "https://login.microsoftonline.us/fabrikam.onmicrosoft.us/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.microsoftonline.us/{t}",
        issuer: "https://login.microsoftonline.us/{t}/v2.0",
        cached_as: ("login.microsoftonline.us", "{t}"),
    },
    Authority {
        authority: "https://login.partner.microsoftonline.cn/common",
        metadata: "https://login.partner.microsoftonline.cn/common/v2.0/.well-known/openid-configuration",
        endpoints: "https://login.partner.microsoftonline.cn/common",
        issuer: "https://login.partner.microsoftonline.cn/{tenantid}/v2.0",
        cached_as: ("login.partner.microsoftonline.cn", "common"),
    },
    // Azure AD B2C: the user flow is part of the path, and the issuer ends
    // with a slash.
    Authority {
        authority: "https://fabrikam.b2clogin.com/fabrikam.onmicrosoft.com/b2c_1_signin",
        metadata: "https://fabrikam.b2clogin.com/fabrikam.onmicrosoft.com/b2c_1_signin/v2.0/.well-known/openid-configuration",
        endpoints: "https://fabrikam.b2clogin.com/fabrikam.onmicrosoft.com/b2c_1_signin",
        issuer: "https://fabrikam.b2clogin.com/{t}/v2.0/",
        cached_as: ("fabrikam.b2clogin.com", "fabrikam.onmicrosoft.com"),
    },
    Authority {
        authority: "https://fabrikam.b2clogin.com/{t}/B2C_1_SignIn/",
        metadata: "https://fabrikam.b2clogin.com/{t}/B2C_1_SignIn/v2.0/.well-known/openid-configuration",
        endpoints: "https://fabrikam.b2clogin.com/{t}/b2c_1_signin",
        issuer: "https://fabrikam.b2clogin.com/{t}/v2.0/",
        cached_as: ("fabrikam.b2clogin.com", "{t}"),
    },
    // External ID: the issuer's host has the tenant's id in place of its name.
    Authority {
        authority: "https://fabrikam.ciamlogin.com/{t}",
        metadata: "https://fabrikam.ciamlogin.com/{t}/v2.0/.well-known/openid-configuration",
        endpoints: "https://fabrikam.ciamlogin.com/{t}",
        issuer: "https://{t}.ciamlogin.com/{t}/v2.0",
        cached_as: ("fabrikam.ciamlogin.com", "{t}"),
    },
    Authority {
        authority: "https://fabrikam.ciamlogin.com/fabrikam.onmicrosoft.com",
        metadata: "https://fabrikam.ciamlogin.com/fabrikam.onmicrosoft.com/v2.0/.well-known/openid-configuration",
        endpoints: "https://fabrikam.ciamlogin.com/{t}",
        issuer: "https://{t}.ciamlogin.com/{t}/v2.0",
        cached_as: ("fabrikam.ciamlogin.com", "{t}"),
    },
];

/// Issuers that are not that of the authority beside them.
const IMPOSTORS: &[(&str, &str)] = &[
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com/{t}"),
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com/{t}/v1.0"),
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com/{t}/v2.0/more"),
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com/{t}0/v2.0"),
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com//v2.0"),
    ("https://login.microsoftonline.com/{t}", "http://login.microsoftonline.com/{t}/v2.0"),
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com:8443/{t}/v2.0"),
    ("https://login.microsoftonline.com/{t}", "https://login.microsoftonline.com.evil.example/{t}/v2.0"),
    ("https://login.microsoftonline.com/{t}", "https://sts.windows.net/{t}/"),
    ("https://login.microsoftonline.com/{t}", "https://{t}.ciamlogin.com/{t}/v2.0"),
    ("https://login.microsoftonline.com/common", "https://login.microsoftonline.com/{tenantid}x/v2.0"),
    ("https://login.microsoftonline.com/common", "https://{tenantid}.microsoftonline.com/common/v2.0"),
    ("https://login.microsoftonline.com/fabrikam.com", "https://login.microsoftonline.com/contoso.com/v2.0"),
    ("https://login.microsoftonline.us/{t}", "https://login.microsoftonline.com/{t}/v2.0"),
    ("https://fabrikam.b2clogin.com/fabrikam.onmicrosoft.com/b2c_1_signin", "https://contoso.b2clogin.com/{t}/v2.0/"),
    (
        "https://fabrikam.b2clogin.com/fabrikam.onmicrosoft.com/b2c_1_signin",
        "https://fabrikam.b2clogin.com/{t}/b2c_1_up/v2.0/",
    ),
    ("https://fabrikam.ciamlogin.com/{t}", "https://{t}.evilciamlogin.com/{t}/v2.0"),
    ("https://fabrikam.ciamlogin.com/{t}", "https://{t}.ciamlogin.com.evil.example/{t}/v2.0"),
    ("https://fabrikam.ciamlogin.com/{t}", "https://{t}.ciamlogin.com:8443/{t}/v2.0"),
    ("https://fabrikam.ciamlogin.com/{t}", "http://{t}.ciamlogin.com/{t}/v2.0"),
    ("https://fabrikam.ciamlogin.com/{t}", "https://{t}.ciamlogin.com/contoso/v2.0"),
];

/// With the tenant's id.
pub fn full(address: &str) -> String {
    address.replace("{t}", TENANT_ID)
}

/// A proxy (CONNECT, RFC 9110 section 9.3.6) behind which each https host
/// is one platform, and the certificate to trust for that.
pub struct Internet {
    proxy: String,
    folder: TempDir,
}

impl Internet {
    pub async fn of(platform: &Platform) -> Self {
        let hosts = ["*.microsoftonline.com", "*.microsoftonline.us", "*.partner.microsoftonline.cn", "*.b2clogin.com"];
        let hosts: Vec<_> = hosts.into_iter().chain(["*.ciamlogin.com"]).map(str::to_owned).collect();
        let certified = rcgen::generate_simple_self_signed(hosts).unwrap();
        let folder = TempDir::new().unwrap();
        let base64 = BASE64_STANDARD.encode(certified.cert.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        std::fs::write(folder.path().join("roots.pem"), pem).unwrap();
        let key = certified.signing_key.serialize_der().try_into().unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let target = platform.endpoint();
        let target = target.split('/').nth(2).unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (tls, target) = (tls.clone(), target.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(from.read_u8().await?);
                    }
                    from.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                    let mut from = tls.accept(from).await?;
                    copy_bidirectional(&mut from, &mut TcpStream::connect(target).await?).await
                });
            }
        });
        Self { proxy, folder }
    }

    /// The environment that leads there.
    fn environment(&self) -> [(&'static str, String); 2] {
        let roots = self.folder.path().join("roots.pem");
        [("HTTPS_PROXY", self.proxy.clone()), ("SSL_CERT_FILE", roots.to_str().unwrap().to_owned())]
    }
}

/// Has a platform say of itself that these are its endpoints, and this its
/// issuer.
fn pose_as(platform: &Platform, endpoints: &str, issuer: &str) {
    let (endpoints, issuer) = (full(endpoints), full(issuer));
    let iss = issuer.replace("{tenantid}", TENANT_ID);
    let is_b2c = endpoints.contains(".b2clogin.com");
    platform.on(Endpoint::Metadata, move |answer| {
        answer.json = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{endpoints}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{endpoints}/oauth2/v2.0/token"),
            "jwks_uri": format!("{endpoints}/discovery/v2.0/keys"),
        });
    });
    platform.id_token(move |id_token| {
        id_token.claims["iss"] = iss.clone().into();
        if is_b2c {
            let claims = id_token.claims.as_object_mut().unwrap();
            claims.retain(|name, _| !["tid", "preferred_username"].contains(&name.as_str()));
        }
    });
}

/// The app at this authority.
pub async fn app_at(authority: &Authority) -> (Platform, Internet, App) {
    let platform = Platform::start().await;
    pose_as(&platform, authority.endpoints, authority.issuer);
    let internet = Internet::of(&platform).await;
    let [proxy, roots] = internet.environment();
    let setting = full(authority.authority);
    let app = platform.app(&[("AUTHORITY", &setting), (proxy.0, &proxy.1), (roots.0, &roots.1)]).await;
    (platform, internet, app)
}

#[tokio::test]
async fn every_kind_of_authority_signs_in_and_refreshes() {
    for authority in AUTHORITIES {
        let (platform, _internet, app) = app_at(authority).await;
        let asked = async |endpoint| -> Vec<String> {
            let address = |request: &wiremock::Request| {
                format!("https://{}{}", request.headers["host"].to_str().unwrap(), request.url.path())
            };
            platform.requests(endpoint).await.iter().map(address).collect()
        };
        assert_eq!(asked(Endpoint::Metadata).await, [full(authority.metadata)]);

        let browser = app.browser();
        let authorize = browser.get(app.at("/graph")).await;
        let endpoints = full(authority.endpoints);
        assert!(authorize.location().starts_with(&format!("{endpoints}/oauth2/v2.0/authorize?")));
        let callback = browser.get(platform.callback(&authorize)).await;
        assert_eq!((callback.status, callback.location()), (302, "/graph"), "{}", callback.body);
        assert_eq!(asked(Endpoint::Keys).await, [format!("{endpoints}/discovery/v2.0/keys")]);
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        let token_endpoint = format!("{endpoints}/oauth2/v2.0/token");
        assert_eq!(asked(Endpoint::Token).await, [token_endpoint.as_str()]);

        // As MSAL names them: the authority's host, and the first part of the
        // token endpoint's path.
        let cache = app.token_cache();
        let (environment, realm) = (authority.cached_as.0, full(authority.cached_as.1));
        for (section, has_realm) in [
            ("AccessToken", true),
            ("Account", true),
            ("IdToken", true),
            ("RefreshToken", false),
            ("AppMetadata", false),
        ] {
            let [entry] = cache[section].as_object().unwrap().values().collect::<Vec<_>>()[..] else {
                panic!("{section}: {cache:#}")
            };
            assert_eq!(entry["environment"], environment, "{section}");
            assert_eq!(entry.get("realm"), has_realm.then(|| Value::from(realm.as_str())).as_ref(), "{section}");
        }

        app.edit_token_cache(|cache| cache["AccessToken"] = json!({}));
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        assert_eq!(asked(Endpoint::Token).await, [token_endpoint.as_str(), &token_endpoint]);
    }
}

#[tokio::test]
async fn metadata_of_another_issuer_is_refused() {
    let platform = Platform::start().await;
    let internet = Internet::of(&platform).await;
    let [proxy, roots] = internet.environment();
    for (authority, issuer) in IMPOSTORS {
        pose_as(&platform, authority, issuer);
        let setting = full(authority);
        let settings = [("AUTHORITY", setting.as_str()), (proxy.0, &proxy.1), (roots.0, &roots.1)];
        let stderr = platform.refused_by_the_app(&settings).await;
        let reason = format!("its metadata is that of another issuer, {:?}", full(issuer));
        assert!(stderr.contains(&reason), "{authority}: {stderr}");
    }
}

#[tokio::test]
async fn a_host_without_a_trusted_certificate_is_refused() {
    let platform = Platform::start().await;
    let internet = Internet::of(&platform).await;
    let [proxy, _] = internet.environment();
    let setting = full(AUTHORITIES[0].authority);
    let stderr = platform.refused_by_the_app(&[("AUTHORITY", &setting), (proxy.0, &proxy.1)]).await;
    assert!(stderr.contains("it cannot be reached"), "{stderr}");
    assert!(platform.requests(Endpoint::Metadata).await.is_empty());
}
