//! Attacks on the app. The demo tenant plays all parts: it opens the pages of the running app with
//! browsers of its own, as attacker and as victim. After each attack follows a control: nearly the
//! same requests, which must succeed. Without it, an error would prove little.

mod browser;

use anyhow::Context as _;
use base64::prelude::*;
use serde_json::Value;
use url::Url;

use self::browser::{Answer, Browser, CONTROL};
use crate::directory::{ADA, BEN, Forgery};
use crate::tenant::{Attempt, Tenant};

pub struct Attack {
    pub name: &'static str,
    pub title: &'static str,
    /// What an attacker gains if it works, and what the attacker has.
    pub goal: &'static str,
    pub does: &'static str,
    pub control: &'static str,
    /// The block that refuses.
    pub marker: &'static str,
    /// A part of the error of the library or of the tenant. Empty if the block is enough.
    pub error: &'static str,
    pub step: usize,
    /// Whom the second browser plays.
    other_browser: &'static str,
}

const VICTIM: &str = "the victim's browser";

#[rustfmt::skip]
pub const ATTACKS: [Attack; 9] = [
    Attack { name: "link", title: "Sign you in to the attacker's account", step: 6, other_browser: VICTIM,
        marker: "find_auth_code_flow", error: "",
        goal: "The attacker sends you a link. If it works, you use the app as Ben without \
               noticing, and the attacker can later read what you entered.",
        does: "The attacker starts a sign-in, signs in as Ben, and keeps the link with the code. \
               The victim's browser opens the link. It has no cookie for this state.",
        control: "The attacker's own browser opens the same link." },
    Attack { name: "code", title: "Use a stolen code", step: 7, other_browser: VICTIM, marker: "redeem_auth_code", error: "AADSTS501481",
        goal: "The attacker has a code of Ada, for example from a log of addresses. If it works, \
               the attacker is signed in as Ada.",
        does: "The attacker starts a sign-in of their own and puts Ada's code into it. Its \
               code_verifier does not fit the code, so the tenant refuses the code.",
        control: "Ada's browser redeems a new code." },
    Attack { name: "nonce", title: "Replay an old ID token", step: 8, other_browser: VICTIM, marker: "check_nonce", error: "",
        goal: "The attacker has an old ID token of Ada. If it works in a new sign-in, the \
               attacker is signed in as Ada.",
        does: "The attacker signs in, and the old token takes the place of the new one. Its \
               signature is right, its nonce is that of another sign-in.",
        control: "The app accepted the same token in its own sign-in." },
    Attack { name: "role", title: "Add a role to an ID token", step: 8, other_browser: CONTROL, marker: "validate_id_token", error: "InvalidSignature",
        goal: "Ben writes the role admin into his ID token. If it works, he opens the page for \
               administrators.",
        does: "The demo tenant plays an attacker who gets between tenant and app. It adds the \
               claim roles, and the signature stays.",
        control: "The tenant itself signs the same claims. With them, /admin opens." },
    Attack { name: "none", title: "Remove the signature (alg: none)", step: 8, other_browser: CONTROL,
        marker: "id_token_header", error: "",
        goal: "The header of a token names the algorithm of its signature. If the app believes \
               the header, anyone can write a token without a signature.",
        does: "The header says alg: none, the claims have the role admin, and there is no signature.",
        control: "The tenant itself signs the same claims. With them, /admin opens." },
    Attack { name: "hmac", title: "Sign with the public key (alg: HS256)", step: 8, other_browser: CONTROL,
        marker: "validate_id_token", error: "InvalidAlgorithm",
        goal: "The public key is known to everyone. If the app takes it for the secret of \
               another algorithm, everyone can sign a token.",
        does: "The header says alg: HS256, and the public key is the secret of the signature.",
        control: "The tenant itself signs the same claims. With them, /admin opens." },
    Attack { name: "twice", title: "Use a code twice", step: 7, other_browser: VICTIM, marker: "redeem_auth_code", error: "AADSTS54005",
        goal: "The attacker has the address and the cookies of a finished sign-in, for example \
               from a backup of the browser. If it works, the attacker is signed in too.",
        does: "The attacker opens the same address with the same cookies again. The tenant \
               refuses a code that was used.",
        control: "The first use, in the victim's browser." },
    Attack { name: "issuer", title: "Answer in the name of another tenant", step: 6, other_browser: VICTIM,
        marker: "response_issuer", error: "",
        goal: "An app that knows several tenants could send the code of one to another, which \
               belongs to the attacker. The response can name its issuer to stop this.",
        does: "The link with the code gets the parameter iss with another issuer.",
        control: "The same link with the issuer of this tenant." },
    Attack { name: "return", title: "Lead you to another site after the sign-in", step: 9, other_browser: CONTROL,
        marker: "redirect_after_sign_in", error: "",
        goal: "After a real sign-in, you would trust a page that asks for your password again. \
               The attacker can change a cookie of the app, for example from another app on this \
               host.",
        does: "In the cookie of the sign-in, the address of the page becomes //evil.example, \
               which browsers take for another host.",
        control: "The same sign-in with the cookie unchanged leads to the page." },
];

/// Tries an attack, and then its control.
///
/// # Errors
/// The app does not answer as expected before the attack begins.
pub async fn run(tenant: &Tenant, attack: &'static Attack) -> anyhow::Result<Attempt> {
    // A fault would end the attack or its control for another reason.
    let fault = tenant.faults.take_back();
    let mut attacker = Browser::new(tenant, "the attacker's browser")?;
    let mut victim = Browser::new(tenant, attack.other_browser)?;
    let (answer, control) = match attack.name {
        "link" => {
            let asked = attacker.open("graph").await?;
            let link = attacker.choose(&asked, &BEN).await?;
            let answer = victim.get(&link).await?;
            attacker.play_control();
            (answer, attacker.get(&link).await?)
        }
        "code" => {
            let asked = victim.open("graph").await?;
            let stolen = victim.choose(&asked, &ADA).await?;
            let own = attacker.open("graph").await?;
            let link = with(&stolen, "state", &parameter(&own, "state")?);
            let answer = attacker.get(&link).await?;
            victim.play_control();
            let asked = victim.open("graph").await?;
            let fresh = victim.choose(&asked, &ADA).await?;
            (answer, victim.get(&fresh).await?)
        }
        "nonce" => {
            let asked = victim.open("graph").await?;
            let link = victim.choose(&asked, &ADA).await?;
            victim.play_control();
            let control = victim.get(&link).await?;
            let code = parameter(&link, "code")?;
            let old = tenant.codes.find(&code, |_, code| code.id_token.clone());
            let own = attacker.open("graph").await?;
            let link = attacker.choose(&own, &BEN).await?;
            forge(tenant, &link, Forgery::Replay(old.context("the code is not known")?))?;
            (attacker.get(&link).await?, control)
        }
        "role" | "none" | "hmac" => {
            let asked = attacker.open("admin").await?;
            let link = attacker.choose(&asked, &BEN).await?;
            forge(
                tenant,
                &link,
                match attack.name {
                    "role" => Forgery::Unchanged,
                    "none" => Forgery::None,
                    _ => Forgery::Hmac,
                },
            )?;
            let answer = attacker.get(&link).await?;
            let asked = victim.open("admin").await?;
            let link = victim.choose(&asked, &BEN).await?;
            forge(tenant, &link, Forgery::Right)?;
            victim.get(&link).await?;
            (answer, victim.get(&tenant.home_page.join("admin")?).await?)
        }
        "twice" => {
            let asked = victim.open("graph").await?;
            let link = victim.choose(&asked, &ADA).await?;
            attacker.copy_cookies(&victim);
            victim.play_control();
            let control = victim.get(&link).await?;
            (attacker.get(&link).await?, control)
        }
        "issuer" => {
            let asked = victim.open("graph").await?;
            let link = victim.choose(&asked, &ADA).await?;
            let answer = victim.get(&with(&link, "iss", "https://evil.example/v2.0")).await?;
            victim.play_control();
            let issuer = format!("{}/v2.0", tenant.authority);
            (answer, victim.get(&with(&link, "iss", &issuer)).await?)
        }
        _ => {
            let asked = attacker.open("graph").await?;
            let link = attacker.choose(&asked, &ADA).await?;
            attacker.change_cookies(change_return_address);
            let asked = victim.open("graph").await?;
            let control = victim.choose(&asked, &ADA).await?;
            (attacker.get(&link).await?, victim.get(&control).await?)
        }
    };
    Ok(Attempt {
        attack: attack.name,
        fault,
        visit: answer.visit,
        is_answered: answer.status < 400,
        is_led_home: attack.name == "return" && answer.is_at(tenant),
        answer: answer.to_string(),
        // A redirect to the tenant is not a success.
        has_control_succeeded: control.status < 400 && control.is_at(tenant),
        control: control.to_string(),
    })
}

/// Makes the tenant issue a forged ID token for the code in this link.
fn forge(tenant: &Tenant, link: &Url, forgery: Forgery) -> anyhow::Result<()> {
    let code = parameter(link, "code")?;
    tenant.codes.find(&code, |_, code| code.grant.forgery = Some(forgery)).context("no such code")
}

fn parameter(url: &Url, name: &str) -> anyhow::Result<String> {
    let value = url.query_pairs().find(|(known, _)| known == name);
    Ok(value.with_context(|| format!("{name} is missing"))?.1.into_owned())
}

/// The address with another value of a parameter.
fn with(url: &Url, name: &str, value: &str) -> Url {
    let mut changed = url.clone();
    let pairs = url.query_pairs().filter(|(known, _)| known != name);
    changed.query_pairs_mut().clear().extend_pairs(pairs).append_pair(name, value);
    changed
}

/// Puts another host in place of the path in a cookie, if the cookie is JSON in Base64url.
fn change_return_address(cookie: &str) -> Option<String> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(cookie).ok()?;
    let mut members: Value = serde_json::from_slice(&json).ok()?;
    for value in members.as_object_mut()?.values_mut().filter(|value| *value == "/graph") {
        *value = "//evil.example/".into();
    }
    Some(BASE64_URL_SAFE_NO_PAD.encode(members.to_string()))
}

impl Answer {
    /// Whether the answer leads to a page of the app.
    fn is_at(&self, tenant: &Tenant) -> bool {
        let home = &tenant.home_page;
        let target = home.join(&self.location);
        target.is_ok_and(|target| target.origin() == home.origin())
    }
}
