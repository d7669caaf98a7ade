//! The buttons that make something go wrong.

use serde::Serialize;

use crate::faults::Fault;

/// A button: what will happen, and which steps of the app handle it.
pub struct Button {
    pub fault: Fault,
    pub label: &'static str,
    pub steps: &'static str,
    /// What to do, and what to see.
    pub effect: &'static str,
}

#[derive(Serialize)]
pub struct ButtonView {
    name: String,
    label: &'static str,
    steps: &'static str,
    effect: &'static str,
    is_active: bool,
    lasts: bool,
}

#[rustfmt::skip]
pub const BUTTONS: [Button; 10] = [
    Button { fault: Fault::Revoked, label: "Revoke all sessions", steps: "3, then 5",
        effect: "Be signed in, and open Graph Access. Microsoft Graph sends a claims challenge, and \
                 the app asks you to sign in again, as after a change of your password. Within a \
                 minute after another repeated sign-in, the app shows an error page (502)." },
    Button { fault: Fault::Expired, label: "Expire the access tokens", steps: "3, then 5",
        effect: "Be signed in, and open Graph Access. Microsoft Graph answers 401, and the app \
                 starts another sign-in. Single sign-on does not ask you. If you do this again \
                 within a minute, the app shows an error page (502), because the second sign-in \
                 has not helped." },
    Button { fault: Fault::ShortToken, label: "Issue the next access token for four minutes",
        steps: "2",
        effect: "Sign out, and open Graph Access. The token expires in less than five minutes, so \
                 the app refreshes it at once." },
    Button { fault: Fault::NoRefresh, label: "Refuse the next refresh token", steps: "2, then 5",
        effect: "Sign out, and open Graph Access. The access token is valid for four minutes. The \
                 app tries to refresh it, which fails, and asks for another sign-in." },
    Button { fault: Fault::UnknownKey, label: "Sign the next ID token with an unknown key",
        steps: "8",
        effect: "Sign out, and open Graph Access. The app does not find the key of the signature \
                 and refuses the ID token." },
    Button { fault: Fault::OtherAudience, label: "Issue the next ID token for another app",
        steps: "8",
        effect: "Sign out, and open Graph Access. The app refuses the ID token, because its \
                 audience (aud) is another app." },
    Button { fault: Fault::OtherNonce, label: "Change the nonce of the next ID token", steps: "8",
        effect: "Sign out, and open Graph Access. The app refuses the ID token, because its nonce \
                 is not the one of this sign-in." },
    Button { fault: Fault::NoRole, label: "Take Ada's role away", steps: "4",
        effect: "Sign out, and open Graph Access as Admin as Ada. The app answers 403. Until she \
                 signs out, her old ID token still has the role." },
    Button { fault: Fault::Unavailable, label: "Be unavailable for the next request",
        steps: "2, 3 or 7",
        effect: "Open Graph Access. When the app next asks for tokens or a profile, it gets 503 \
                 and shows an error page." },
    Button { fault: Fault::Slow, label: "Answer the next request too late", steps: "2, 3 or 7",
        effect: "Open Graph Access. When the app next asks for tokens or a profile, it waits \
                 for 15 seconds and shows an error page." },
];

pub fn label(fault: Fault) -> &'static str {
    BUTTONS.iter().find(|button| button.fault == fault).map_or("", |button| button.label)
}

pub fn buttons(active: Option<Fault>) -> Vec<ButtonView> {
    let view = |button: &Button| ButtonView {
        name: format!("{:?}", button.fault),
        label: button.label,
        steps: button.steps,
        effect: button.effect,
        is_active: active == Some(button.fault),
        lasts: button.fault == Fault::NoRole,
    };
    BUTTONS.iter().map(view).collect()
}
