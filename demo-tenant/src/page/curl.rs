//! Requests as commands that work in a terminal.

use url::form_urlencoded;

use crate::events::Message;
use crate::tenant::{CLIENT_ID, Tenant};
use crate::wire::find;

/// The command that repeats a request, or uses the tokens of a response. A code and an assertion
/// work only once, so a token request with them has no command.
pub fn command(tenant: &Tenant, message: &Message) -> Option<String> {
    let value = |name| find(&message.fields, name);
    match message.title {
        "Call to Microsoft Graph" => Some(format!(
            "curl -H 'Authorization: {}' {}/v1.0/me",
            safe(value("Authorization")?)?,
            tenant.origin
        )),
        "Refresh request" | "Token response" | "Refreshed tokens" => {
            let form = [
                ("client_id", CLIENT_ID),
                ("client_secret", &tenant.client_secret),
                ("grant_type", "refresh_token"),
                ("refresh_token", value("refresh_token")?),
            ];
            let mut command = format!("curl {}/oauth2/v2.0/token", tenant.authority);
            for (name, value) in form {
                let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
                command += &format!(" \\\n  -d '{name}={encoded}'");
            }
            Some(command)
        }
        _ => None,
    }
}

/// A value that anyone could have sent must not end the quotes of the command.
fn safe(value: &str) -> Option<&str> {
    (!value.contains(['\'', '\n'])).then_some(value)
}
