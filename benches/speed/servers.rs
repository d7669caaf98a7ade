//! What stands beside the app, each in a process of its own: the limit,
//! bare actix-web, and the smallest identity platform and Microsoft Graph
//! that lets the app sign users in. It checks nothing and keeps nothing: a
//! code is the nonce itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::web::{self, Data, Form};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::prelude::*;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, get_current_timestamp};
use serde_json::{Value, json};

pub const TENANT_ID: &str = "5a2f7c16-83d4-4b09-9e61-c0d7f4a8b352";
pub const CLIENT_ID: &str = "f3b1d895-2a6c-4e70-8d14-97c5e0a2b638";

/// Tokens of Microsoft Entra ID are about as long, and the sessions that
/// hold them.
const ACCESS_TOKEN_LENGTH: usize = 1800;
const REFRESH_TOKEN_LENGTH: usize = 1300;

/// Serves on any free port, which it prints.
async fn serve(workers: usize, configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static) {
    let server = HttpServer::new(move || App::new().configure(configure.clone())).workers(workers);
    let server = server.bind(("127.0.0.1", 0)).unwrap();
    println!("{}", server.addrs()[0]);
    server.run().await.unwrap();
}

/// The identity platform and Microsoft Graph.
#[actix_web::main]
pub async fn platform() {
    let key = Data::new(KeyPair::generate(KeySize::Rsa2048).unwrap());
    serve(1, move |app| {
        app.app_data(key.clone())
            .route(&format!("/{TENANT_ID}/v2.0/.well-known/openid-configuration"), web::get().to(metadata))
            .route("/keys", web::get().to(keys))
            .route("/token", web::post().to(token))
            .route("/v1.0/me", web::get().to(me));
    })
    .await;
}

async fn metadata(req: HttpRequest) -> HttpResponse {
    let origin = format!("http://{}", req.connection_info().host());
    HttpResponse::Ok().json(json!({
        "issuer": format!("{origin}/{TENANT_ID}/v2.0"),
        "authorization_endpoint": format!("{origin}/authorize"),
        "token_endpoint": format!("{origin}/token"),
        "jwks_uri": format!("{origin}/keys"),
    }))
}

async fn keys(key: Data<KeyPair>) -> HttpResponse {
    let key = key.public_key();
    let [n, e] = [key.modulus(), key.exponent()].map(|part| part.big_endian_without_leading_zero());
    let [n, e] = [n, e].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    HttpResponse::Ok().json(json!({ "keys": [{ "kty": "RSA", "use": "sig", "kid": "1", "n": n, "e": e }] }))
}

async fn token(req: HttpRequest, key: Data<KeyPair>, form: Form<Vec<(String, String)>>) -> HttpResponse {
    let nonce = form.iter().find(|(name, _)| name == "code").map(|(_, code)| code);
    let iat = get_current_timestamp() - 300;
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "1" });
    let claims = json!({
        "aud": CLIENT_ID,
        "iss": format!("http://{}/{TENANT_ID}/v2.0", req.connection_info().host()),
        "iat": iat,
        "nbf": iat,
        "exp": iat + 3900,
        "name": "Dora Example",
        "nonce": nonce,
        "oid": "7e4b0d92-5c18-4f36-a9e7-1d82b3c60f45",
        "preferred_username": "dora@platform.example",
        "rh": "1.AXkAFnwvWtSDCUueYcDX9KizUpXYsfNsKnBOjRSXxeCituQAAAA.",
        "roles": ["admin"],
        "sub": "JjPq3vXn0cZ5mS2tLr8yWd7uKb1hGf4eAo6iNx9RzTk",
        "tid": TENANT_ID,
        "uti": "k3V9xQm2b0uZs7LfT1cRAA",
        "ver": "2.0",
    });
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let input = format!("{header}.{claims}");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature).unwrap();
    let client_info = json!({ "uid": "7e4b0d92-5c18-4f36-a9e7-1d82b3c60f45", "utid": TENANT_ID }).to_string();
    HttpResponse::Ok().json(json!({
        "token_type": "Bearer",
        "scope": "https://graph.microsoft.com/User.Read openid profile email",
        "expires_in": 3600,
        "ext_expires_in": 3600,
        "access_token": "a".repeat(ACCESS_TOKEN_LENGTH),
        "refresh_token": "r".repeat(REFRESH_TOKEN_LENGTH),
        "id_token": format!("{input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)),
        "client_info": BASE64_URL_SAFE_NO_PAD.encode(client_info),
    }))
}

async fn me() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users/$entity",
        "businessPhones": ["+1 555 0100"],
        "displayName": "Dora Example",
        "givenName": "Dora",
        "jobTitle": "Measurer of examples",
        "mail": "dora@platform.example",
        "mobilePhone": null,
        "officeLocation": "2/0042",
        "preferredLanguage": "en-US",
        "surname": "Example",
        "userPrincipalName": "dora@platform.example",
        "id": "7e4b0d92-5c18-4f36-a9e7-1d82b3c60f45",
    }))
}

/// What a bare handler of the limit knows.
struct Limit {
    platform: String,
    http: reqwest::Client,
    key: DecodingKey,
    folder: PathBuf,
}

/// Bare actix-web: what each kind of work costs at the least.
#[actix_web::main]
pub async fn limit(platform: String, folder: PathBuf) {
    // As the app's client is.
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(15))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let jwks = http.get(format!("{platform}/keys")).send().await.unwrap().bytes().await.unwrap();
    let jwks: Value = serde_json::from_slice(&jwks).unwrap();
    let part = |name: &str| jwks["keys"][0][name].as_str().unwrap();
    let key = DecodingKey::from_rsa_components(part("n"), part("e")).unwrap();
    let limit = Data::new(Limit { platform, http, key, folder });
    let workers = std::thread::available_parallelism().unwrap().get();
    serve(workers, move |app| {
        app.app_data(limit.clone())
            .route("/page", web::get().to(page))
            .route("/graph", web::get().to(graph))
            .route("/sign-in", web::get().to(sign_in));
    })
    .await;
}

/// A page as long as the query says.
async fn page(req: HttpRequest) -> HttpResponse {
    static PAGE: [u8; 65_536] = [b'.'; 65_536];
    let length: usize = req.query_string().parse().unwrap();
    HttpResponse::Ok().content_type(ContentType::html()).body(&PAGE[..length])
}

/// The call to Microsoft Graph, and its JSON.
async fn graph(limit: Data<Limit>) -> HttpResponse {
    let access_token = "a".repeat(ACCESS_TOKEN_LENGTH);
    let response = limit.http.get(format!("{}/v1.0/me", limit.platform)).bearer_auth(access_token).send();
    let body = response.await.unwrap().bytes().await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    HttpResponse::Ok().content_type(ContentType::html()).body(serde_json::to_string_pretty(&answer).unwrap())
}

/// What no sign-in can do without: the token request, the signature, the
/// session on disk.
async fn sign_in(limit: Data<Limit>) -> HttpResponse {
    let grant = [("grant_type", "authorization_code"), ("code", "a-nonce")];
    let response = limit.http.post(format!("{}/token", limit.platform)).form(&grant).send();
    let body = response.await.unwrap().bytes().await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let mut signature_only = Validation::new(Algorithm::RS256);
    signature_only.validate_aud = false;
    jsonwebtoken::decode::<Value>(answer["id_token"].as_str().unwrap(), &limit.key, &signature_only).unwrap();
    fs::write(limit.folder.join(format!("{:032x}", rand::random::<u128>())), &body).unwrap();
    HttpResponse::Ok().body("signed in")
}
