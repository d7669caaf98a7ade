//! What steps, messages and words mean, for a reader who does not know the protocol.

/// A step of the app. Number 0 stands for no step.
pub struct Step {
    pub name: &'static str,
    /// What it does, and what it stops.
    pub meaning: &'static str,
}

/// What a kind of message means.
pub struct About {
    pub title: &'static str,
    /// Who sends it to whom.
    pub route: &'static str,
    /// The file and the marker (without `ms_docref_`) that send or handle it.
    pub file: &'static str,
    pub marker: &'static str,
    pub meaning: &'static str,
}

/// A word that the page uses.
#[derive(serde::Serialize)]
pub struct Word {
    pub word: &'static str,
    pub meaning: &'static str,
}

const fn step(name: &'static str, meaning: &'static str) -> Step {
    Step { name, meaning }
}

const fn about(
    title: &'static str,
    route: &'static str,
    file: &'static str,
    marker: &'static str,
    meaning: &'static str,
) -> About {
    About { title, route, file, marker, meaning }
}

const fn word(word: &'static str, meaning: &'static str) -> Word {
    Word { word, meaning }
}

#[rustfmt::skip]
pub const STEPS: [Step; 10] = [
    step("", ""),
    step("session lookup",
        "After a sign-in, the browser sends a cookie with a session ID in each request. The app \
         looks into this session, which is on the server, for the user. This is how it recognizes \
         the request. If it finds nobody, step 5 follows."),
    step("token cache",
        "The session has an access token, which lets the app read the user's profile for about an \
         hour. If it expires soon, the app exchanges its refresh token for a new one. The user \
         sees nothing of this."),
    step("call Microsoft Graph",
        "The app asks Microsoft Graph, where Microsoft keeps the data of users, for the profile. \
         It sends the access token with the request."),
    step("role inspection",
        "The page is only for users with the app role admin, a label that the tenant gives to some \
         users of this app. The app finds the roles in the ID token of the sign-in. It stops users \
         who are signed in but not allowed to see the page."),
    step("redirect to authorize",
        "The user has to sign in, so the app sends the browser to the tenant. It makes three random \
         values: state stops a link with the code of somebody else. code_verifier, of which it \
         sends only the hash code_challenge, stops a stolen code. nonce is a second lock against \
         the same attack, and does not depend on the check of the tenant. The app keeps all \
         three in a cookie of this browser."),
    step("authorization response",
        "The browser comes back from the tenant with a code. The app accepts it only if this \
         browser has the cookie of step 5 for the same state. It stops a link that carries the \
         code of somebody else and would sign you in to an account of the attacker."),
    step("redeem the code",
        "The app exchanges the code for tokens, directly and not through the browser. It proves \
         with its client secret that it is the app, and with code_verifier that it started this \
         sign-in. The tenant compares the hash of code_verifier with code_challenge of step 5. \
         This is PKCE. It stops a stolen code that is used in another sign-in."),
    step("validate the ID token",
        "The ID token says who signed in. The app checks that the tenant signed it, that it is for \
         this app, that it has not expired, and that it contains the nonce of step 5. The \
         signature stops forged tokens, the nonce stops an old token of another sign-in."),
    step("sign in",
        "The app stores the user and the tokens in a new session on the server. The browser gets a \
         cookie with only the session ID, which step 1 looks up next time. A new session ID stops \
         an attacker who knew the old one."),
];

/// A step by its number.
pub fn step_of(number: Option<usize>) -> &'static Step {
    number.and_then(|number| STEPS.get(number)).unwrap_or(&STEPS[0])
}

const METADATA: &str = "src/openid_metadata.rs";
const GRAPH: &str = "src/routes/graph.rs";
const AUTH_REDIRECT: &str = "src/routes/auth_redirect.rs";
const LOGOUT: &str = "src/routes/logout.rs";
const APP_TO_TENANT: &str = "app → tenant";
const TENANT_TO_APP: &str = "tenant → app";
const APP_BROWSER_TENANT: &str = "app → browser → tenant";
const TENANT_BROWSER_APP: &str = "tenant → browser → app";
const TENANT_TO_BROWSER: &str = "tenant → browser";
const GRAPH_TO_APP: &str = "Microsoft Graph → app";

#[rustfmt::skip]
pub const MESSAGES: [About; 26] = [
    about("Metadata request", APP_TO_TENANT, METADATA, "openid_metadata",
        "When the app starts, it asks for the addresses of the tenant."),
    about("OpenID metadata", TENANT_TO_APP, METADATA, "openid_metadata",
        "The app uses these addresses until it ends. The issuer is the name of the tenant in its \
         tokens."),
    about("Metadata error", TENANT_TO_APP, METADATA, "openid_metadata",
        "The app does not start, because AUTHORITY names another tenant."),
    about("Authorization request", APP_BROWSER_TENANT, GRAPH, "build_auth_code_flow",
        "The app redirected the browser here to sign in. Anyone can read and change what is in \
         this address, so it contains no secret."),
    about("Sign-in page", TENANT_TO_BROWSER, "", "",
        "The tenant asks who you are. The app has no part in this and sees no password."),
    about("Second factor", TENANT_TO_BROWSER, "", "",
        "The app asked for a second factor with the claim acrs. A real tenant asks for a code or a \
         fingerprint here."),
    about("Choice of a user", "browser → tenant", "", "",
        "You pressed a button on the page of the tenant. A real tenant checks a password."),
    about("Redirect with the code", TENANT_BROWSER_APP, AUTH_REDIRECT, "find_auth_code_flow",
        "The tenant redirects the browser to the app with a code, which stands for this sign-in. \
         The code alone opens nothing. The app exchanges it in step 7."),
    about("Redirect with an error", TENANT_BROWSER_APP, AUTH_REDIRECT, "authorization_error",
        "The browser tells the app why it brings no code."),
    about("Error page", TENANT_TO_BROWSER, "", "",
        "The request may come from anyone, so the browser is not sent back to the app."),
    about("Token request", APP_TO_TENANT, AUTH_REDIRECT, "redeem_auth_code",
        "The app redeems the code: it exchanges the code for tokens. The browser cannot see this."),
    about("Token response", TENANT_TO_APP, AUTH_REDIRECT, "redeem_auth_code",
        "The ID token tells the app who signed in. The access token is for Microsoft Graph, the \
         refresh token for the next access token."),
    about("Token error", TENANT_TO_APP, AUTH_REDIRECT, "redeem_auth_code",
        "The app gets no tokens. AADSTS and a number name an error of Microsoft Entra ID."),
    about("Request for the signing keys", APP_TO_TENANT, AUTH_REDIRECT, "signing_keys",
        "The tenant signed the ID token with a private key. The app asks for the public key."),
    about("Signing keys", TENANT_TO_APP, AUTH_REDIRECT, "validate_id_token",
        "With the public key, the app verifies that the tenant signed the ID token."),
    about("No signing keys", TENANT_TO_APP, AUTH_REDIRECT, "signing_keys",
        "The app cannot verify the ID token."),
    about("Call to Microsoft Graph", "app → Microsoft Graph", GRAPH, "call_ms_graph",
        "The app asks for the profile of the user, with the access token."),
    about("Response of Microsoft Graph", GRAPH_TO_APP, GRAPH, "display_graph_response",
        "The profile of the user."),
    about("Claims challenge", GRAPH_TO_APP, GRAPH, "claims_challenge",
        "Microsoft Graph no longer accepts the access token, and says what the next one must \
         contain. The app starts a new sign-in that asks for this."),
    about("Error of Microsoft Graph", GRAPH_TO_APP, GRAPH, "graph_error",
        "Microsoft Graph does not send the profile. After 401, the app needs another access token."),
    about("Refresh request", APP_TO_TENANT, GRAPH, "refresh_token",
        "The access token expires soon, so the app asks for the next one with its refresh token."),
    about("Refreshed tokens", TENANT_TO_APP, GRAPH, "refresh_token",
        "The app keeps the new access token and the new refresh token."),
    about("Refresh error", TENANT_TO_APP, GRAPH, "refresh_token",
        "The app gets no new access token. The error invalid_grant means that the refresh token no \
         longer works."),
    about("Sign-out request", APP_BROWSER_TENANT, LOGOUT, "sso_logout",
        "The app has ended its own session. With SSO_LOGOUT, it ends single sign-on too."),
    about("Redirect after the sign-out", TENANT_BROWSER_APP, LOGOUT, "sso_logout",
        "The tenant forgets the user of this browser and sends the browser back to the app."),
    about("Page after the sign-out", TENANT_TO_BROWSER, "", "",
        "The request names no registered address, so the browser is not sent back."),
];

#[rustfmt::skip]
pub const WORDS: [Word; 17] = [
    word("tenant", "The directory of an organization at Microsoft, with its users and apps. Here, \
        the demo tenant plays it. Microsoft Entra ID is the service that signs its users in."),
    word("code", "What the browser brings from the tenant to the app after the sign-in. It works \
        once and for one minute."),
    word("client secret", "The password of the app at the tenant."),
    word("hash", "A short value that is computed from a text. Nobody can compute the text back."),
    word("state, nonce, PKCE", "Three protections of one sign-in. state stops a link with the code of \
        somebody else (step 6). PKCE, with code_verifier and \
        code_challenge, stops a stolen code (step 7). nonce stops the ID token \
        of another sign-in (step 8), a second lock against the same attack."),
    word("redeem", "Exchange the code for tokens."),
    word("token", "A text that the tenant issues. The ID token tells the app who signed in. The \
        access token lets the app call Microsoft Graph. The refresh token gets the next one."),
    word("JWT", "JSON Web Token, the format of the ID token: a header, the claims, and a signature \
        over both."),
    word("claim", "One statement in a token, for example the name of the user."),
    word("issuer", "The tenant that issued a token (iss). The audience (aud) is the app that it is \
        for."),
    word("Bearer", "Who bears the token may use it. Nobody asks how they got it."),
    word("scope", "What the app wants to do for the user. To consent is to allow it."),
    word("app role", "A label such as admin that the tenant gives to some users of one app."),
    word("single sign-on", "The tenant knows the browser from an earlier sign-in and does not ask \
        again."),
    word("claims challenge", "An API refuses an access token and says which claims the next one \
        must have. The app declares with cp1 that it understands this. In such a request, \
        essential means: the claim must be there."),
    word("AADSTS…", "A number of an error of Microsoft Entra ID. The numbers are real."),
    word("ms_docref_…", "The name of a marked block of code. Two comments in the source mark where \
        it begins and ends."),
];
