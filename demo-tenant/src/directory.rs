//! What the tenant knows: its users, its signing key, and what it issued.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::prelude::*;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, EncodingKey};

use crate::wire::random;

pub struct User {
    pub given_name: &'static str,
    pub username: &'static str,
    pub oid: &'static str,
    pub job_title: Option<&'static str>,
    pub roles: &'static [&'static str],
}

pub static ADA: User = User {
    given_name: "Ada",
    username: "ada@demo-tenant.example",
    oid: "3d9f6a20-7b18-4c55-9e0d-f24b81c6a7e3",
    job_title: Some("Administrator of examples"),
    roles: &["admin"],
};

pub static BEN: User = User {
    given_name: "Ben",
    username: "ben@demo-tenant.example",
    oid: "c51e0b94-26fd-4a83-b7c8-09d3ea715f26",
    job_title: None,
    roles: &[],
};

pub static USERS: [&User; 2] = [&ADA, &BEN];

impl User {
    pub fn find(username: &str) -> Option<&'static Self> {
        USERS.into_iter().find(|user| user.username == username)
    }

    pub fn name(&self) -> String {
        format!("{} Example", self.given_name)
    }

    /// The claim `login_hint`. Apps do not look into it.
    pub fn login_hint(&self) -> String {
        format!("O.{}", BASE64_URL_SAFE_NO_PAD.encode(self.oid))
    }

    /// Whether the parameter `login_hint` names this user.
    pub fn is_hinted(&self, hint: &str) -> bool {
        hint.eq_ignore_ascii_case(self.username) || hint == self.login_hint()
    }
}

/// The single sign-on session of a browser.
#[derive(Clone)]
pub struct Session {
    pub user: &'static User,
    /// Whether the user passed the page of the second factor.
    pub has_second_factor: bool,
    /// The app gets this as `session_state`.
    pub sid: String,
}

/// What a user granted to the app in one sign-in.
#[derive(Clone)]
pub struct Grant {
    pub user: &'static User,
    pub scope: String,
    /// Of the authorization request, or "".
    pub nonce: String,
    pub signed_in: Instant,
    /// Whether the app declared the client capability cp1, so that it gets claims challenges.
    pub handles_challenges: bool,
    /// The requested authentication context, such as c1, that the user met with a second factor.
    pub acrs: Option<String>,
    /// How to forge the ID token, in an attack.
    pub forgery: Option<Forgery>,
}

/// An ID token in an attack. All but the first have the role `admin`.
#[derive(Clone)]
pub enum Forgery {
    /// An earlier ID token.
    Replay(String),
    /// Signed by the tenant, as a control.
    Right,
    /// With the signature of the claims without the role.
    Unchanged,
    /// `alg: none`
    None,
    /// Signed with the public key as the secret of HS256.
    Hmac,
}

impl Forgery {
    /// What the page says about the token response. With a mark if the signature is not valid.
    pub fn note(&self) -> &'static str {
        match self {
            Self::Replay(_) => {
                "Changed by the attacker on its way: an old ID token took the place of the new \
                 one. Its signature is valid."
            }
            Self::Right => {
                "For the control, the tenant itself put the role admin into the ID token."
            }
            Self::Unchanged => {
                "✗ Changed by the attacker on its way: the role admin was added. The signature \
                 does not fit the claims."
            }
            Self::None => {
                "✗ Changed by the attacker on its way: the role admin was added, and the \
                 signature was removed."
            }
            Self::Hmac => {
                "✗ Changed by the attacker on its way: the role admin was added, and the \
                 attacker signed the ID token with the public key."
            }
        }
    }
}

/// An authorization code.
#[derive(Clone)]
pub struct Code {
    pub grant: Grant,
    pub redirect_uri: String,
    pub code_challenge: String,
    pub is_redeemed: bool,
    /// The ID token that was issued for it.
    pub id_token: String,
}

/// An RSA key that signs ID tokens.
pub struct SigningKey {
    pub kid: String,
    pub private: EncodingKey,
    /// The modulus and the exponent of the public key, in Base64url.
    pub n: String,
    pub e: String,
    /// The public key in PEM.
    pub public: String,
}

impl SigningKey {
    pub fn generate() -> anyhow::Result<Self> {
        let key = KeyPair::generate(KeySize::Rsa2048)?;
        let public = key.public_key().as_der()?;
        let public = pem::encode(&pem::Pem::new("PUBLIC KEY", public.as_ref()));
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", key.as_der()?.as_ref()));
        let private = EncodingKey::from_rsa_pem(pem.as_bytes())?;
        match Jwk::from_encoding_key(&private, Algorithm::RS256)?.algorithm {
            AlgorithmParameters::RSA(numbers) => {
                Ok(Self { kid: random::<20>(), private, n: numbers.n, e: numbers.e, public })
            }
            _ => Err(anyhow!("not an RSA key")),
        }
    }
}

/// Values that were issued under names that nobody can guess. Each is kept for `lifetime`, and
/// 2,000 at most.
pub struct Issued<T> {
    lifetime: Duration,
    kept: Mutex<VecDeque<Entry<T>>>,
}

struct Entry<T> {
    issued: Instant,
    name: String,
    value: T,
}

impl<T> Issued<T> {
    pub fn new(seconds: u64) -> Self {
        Self { lifetime: Duration::from_secs(seconds), kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Entry<T>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest are in front.
        while kept.front().is_some_and(|entry| entry.issued.elapsed() >= self.lifetime) {
            kept.pop_front();
        }
        kept
    }

    pub fn issue(&self, value: T) -> String {
        let name = random::<32>();
        self.keep(&name, value);
        name
    }

    pub fn keep(&self, name: &str, value: T) {
        let mut kept = self.kept();
        if kept.len() >= 2_000 {
            kept.pop_front();
        }
        kept.push_back(Entry { issued: Instant::now(), name: name.to_owned(), value });
    }

    /// Calls `read` with the time of issue and the value, which it may change.
    pub fn find<R>(&self, name: &str, read: impl FnOnce(Instant, &mut T) -> R) -> Option<R> {
        let mut kept = self.kept();
        let entry = kept.iter_mut().find(|entry| entry.name == name)?;
        Some(read(entry.issued, &mut entry.value))
    }

    pub fn remove(&self, name: &str) {
        self.kept().retain(|entry| entry.name != name);
    }

    pub fn clear(&self) {
        self.kept().clear();
    }
}
