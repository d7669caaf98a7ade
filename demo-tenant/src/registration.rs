//! The app registration: docs/app_registration.json, in the format of the resource `application`
//! of Microsoft Graph. The same file creates the registration in a real tenant.

use anyhow::Context as _;
use serde::Deserialize;
use url::Url;

const FILE: &str = include_str!("../../docs/app_registration.json");

/// Microsoft Graph, which has the same client ID in every tenant, and its permission User.Read.
pub const MICROSOFT_GRAPH: &str = "00000003-0000-0000-c000-000000000000";
const USER_READ: &str = "e1fe6dd8-ba31-4d61-89e7-88639da4683d";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppRegistration {
    pub display_name: String,
    web: Web,
    required_resource_access: Vec<Resource>,
    app_roles: Vec<AppRole>,
    optional_claims: OptionalClaims,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Web {
    redirect_uris: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource_app_id: String,
    resource_access: Vec<Permission>,
}

#[derive(Deserialize)]
struct Permission {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppRole {
    value: String,
    is_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OptionalClaims {
    id_token: Vec<OptionalClaim>,
}

#[derive(Deserialize)]
struct OptionalClaim {
    name: String,
}

impl AppRegistration {
    /// Reads the file. Also registers the addresses of an app that is not at `localhost`.
    pub fn load(redirect_uri: &Url) -> anyhow::Result<Self> {
        let registration: Self = serde_json::from_str(FILE).context("app_registration.json")?;
        Ok(registration.with(redirect_uri)?)
    }

    fn with(mut self, redirect_uri: &Url) -> Result<Self, url::ParseError> {
        for uri in [redirect_uri.clone(), redirect_uri.join("/")?] {
            if self.redirect_uri(uri.as_str()).is_none() {
                self.web.redirect_uris.push(uri.into());
            }
        }
        Ok(self)
    }

    /// The redirect URI `uri`, if it is registered. It is compared as text, without the port of
    /// localhost.
    pub fn redirect_uri(&self, uri: &str) -> Option<Url> {
        let known = self.web.redirect_uris.iter().map(|known| without_port(known));
        let is_registered = known.into_iter().any(|known| known == without_port(uri));
        Url::parse(uri).ok().filter(|_| is_registered)
    }

    pub fn redirect_uris(&self) -> &[String] {
        &self.web.redirect_uris
    }

    /// Whether the app can ask for this scope. A permission has a short and a full form.
    pub fn has_scope(&self, scope: &str) -> bool {
        let permission = scope.strip_prefix("https://graph.microsoft.com/").unwrap_or(scope);
        let is_openid = ["openid", "profile", "email", "offline_access"].contains(&scope);
        is_openid || permission == "User.Read" && self.has_user_read()
    }

    fn has_user_read(&self) -> bool {
        self.required_resource_access
            .iter()
            .filter(|resource| resource.resource_app_id == MICROSOFT_GRAPH)
            .any(|resource| resource.resource_access.iter().any(|access| access.id == USER_READ))
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.app_roles.iter().any(|known| known.is_enabled && known.value == role)
    }

    /// Whether ID tokens contain this optional claim.
    pub fn has_optional_claim(&self, name: &str) -> bool {
        self.optional_claims.id_token.iter().any(|claim| claim.name == name)
    }
}

fn without_port(uri: &str) -> String {
    match uri.strip_prefix("http://localhost:") {
        Some(rest) => {
            format!("http://localhost{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => uri.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn load(redirect_uri: &str) -> AppRegistration {
        AppRegistration::load(&redirect_uri.parse().unwrap()).unwrap()
    }

    #[test]
    fn only_the_port_of_localhost_does_not_count() {
        let registration = load("http://localhost:5000/auth/redirect");
        for (uri, is_registered) in [
            ("http://localhost:5000/auth/redirect", true),
            ("http://localhost/auth/redirect", true),
            ("http://localhost:1/", true),
            ("http://localhost:5000/Auth/redirect", false),
            ("http://localhost:5000/auth/redirect/", false),
            ("http://localhost:5000/graph", false),
            ("http://127.0.0.1:5000/auth/redirect", false),
            ("https://localhost:5000/auth/redirect", false),
            ("http://localhost:1@evil.example/auth/redirect", false),
            ("http://localhost.evil.example/auth/redirect", false),
        ] {
            assert_eq!(registration.redirect_uri(uri).is_some(), is_registered, "{uri}");
        }
        let registration = load("http://127.0.0.1:5000/auth/redirect");
        assert!(registration.redirect_uri("http://127.0.0.1:5000/").is_some());
        assert!(registration.redirect_uri("http://127.0.0.1:5001/").is_none());
    }

    #[test]
    fn scopes_roles_and_claims_come_from_the_file() {
        let mut registration = load("http://localhost:5000/auth/redirect");
        for scope in ["openid", "User.Read", "https://graph.microsoft.com/User.Read"] {
            assert!(registration.has_scope(scope), "{scope}");
        }
        for scope in ["", "Mail.Read", "https://graph.microsoft.com/openid", "user.read"] {
            assert!(!registration.has_scope(scope), "{scope}");
        }
        assert!(registration.has_role("admin") && !registration.has_role("Admin"));
        assert!(registration.has_optional_claim("login_hint"));
        registration.app_roles[0].is_enabled = false;
        registration.optional_claims.id_token.clear();
        registration.required_resource_access.clear();
        assert!(!registration.has_role("admin") && !registration.has_scope("User.Read"));
        assert!(!registration.has_optional_claim("login_hint"));
    }
}
