//! The token cache is MSAL's own: MSAL for Python reads what this app
//! writes, this app reads what MSAL writes, and the same answers of the
//! token endpoint leave the same cache.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::prelude::*;
use serde_json::{Value, json};

use crate::authorities::*;
use crate::harness::*;
use crate::platform::*;
use crate::token_cache::*;

/// MSAL for Python, in a process of its own (msal_bridge.py).
struct Msal {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What MSAL did.
struct Done {
    /// What each step returned.
    results: Vec<Value>,
    /// The requests it sent, after that for the metadata.
    sent: Vec<Value>,
    /// Its cache after that, as it serialized it.
    cache: String,
}

impl Done {
    /// The cache as JSON.
    fn cache(&self) -> Value {
        serde_json::from_str(&self.cache).unwrap()
    }

    /// The refresh tokens that it tried.
    fn refresh_tokens(&self) -> Vec<&str> {
        self.sent.iter().filter_map(|request| request["form"]["refresh_token"].as_str()).collect()
    }
}

impl Msal {
    fn start() -> Self {
        let mut process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/msal-venv/bin/python"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/msal_bridge.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python with msal");
        let (commands, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, commands, answers }
    }

    /// Lets MSAL take these steps at this platform, with this cache, at this
    /// second.
    fn run(&mut self, platform: &Platform, cache: &Value, now: i64, steps: &[&str], more: Value) -> Done {
        let authority = platform.authority();
        let mut command = json!({
            "origin": authority.rsplit_once('/').unwrap().0,
            "authority": authority.replace("http://", "https://"),
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "redirect_uri": "http://localhost:5000/auth/redirect",
            "scopes": [SCOPE],
            "cache": cache.to_string(),
            "now": now,
            "steps": steps,
        });
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        writeln!(self.commands, "{command}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).expect("MSAL raised what is above");
        let mut take = |field: &str| match answer[field].take() {
            Value::Array(values) => values,
            _ => panic!("no {field}"),
        };
        let (results, sent) = (take("results"), take("sent"));
        Done { results, sent, cache: answer["cache"].as_str().unwrap().to_owned() }
    }
}

impl Drop for Msal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The only access token that a cache has.
#[track_caller]
fn access_token(cache: &Value) -> &Value {
    let entries = cache["AccessToken"].as_object().unwrap();
    assert_eq!(entries.len(), 1, "{cache:#}");
    entries.values().next().unwrap()
}

/// The value of a time of MSAL's: seconds, as a string.
#[track_caller]
fn time(entry: &Value, field: &str) -> i64 {
    entry[field].as_str().unwrap_or_else(|| panic!("no {field} in {entry}")).parse().unwrap()
}

/// From now on edits the answers of the token endpoint, and notes them as
/// they are sent.
fn edit_and_note(platform: &Platform, edit: fn(&mut Value)) -> Arc<Mutex<Vec<Value>>> {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let noted = answers.clone();
    platform.on(Endpoint::Token, move |answer| {
        edit(&mut answer.json);
        noted.lock().unwrap().push(answer.json.clone());
    });
    answers
}

/// From now on the token endpoint answers every request with this.
fn replay(platform: &Platform, tokens: &Value) {
    let tokens = tokens.clone();
    platform.on(Endpoint::Token, move |answer| {
        answer.status = 200;
        answer.json = tokens.clone();
    });
}

/// Makes the access token old: three minutes are left, so that it is
/// refreshed.
fn age(cache: &mut Value) {
    for entry in cache["AccessToken"].as_object_mut().unwrap().values_mut() {
        for (field, ago) in [("cached_at", 3420), ("expires_on", 3420), ("extended_expires_on", 3420)] {
            entry[field] = (time(entry, field) - ago).to_string().into();
        }
    }
}

/// How one sign-in and one refresh differ from the usual ones.
struct Case {
    name: &'static str,
    /// Edits the claims of the id tokens.
    claims: fn(&mut Value),
    /// Edits the answer to the code.
    sign_in: fn(&mut Value),
    /// Edits the cache before the refresh.
    cache: fn(&mut Value),
    /// Edits the answer to the refresh token; null if there is none.
    refresh: fn(&mut Value),
}

const AS_USUAL: Case = Case { name: "as usual", claims: |_| {}, sign_in: |_| {}, cache: |_| {}, refresh: |_| {} };

fn remove(value: &mut Value, field: &str) {
    value.as_object_mut().unwrap().remove(field).unwrap_or_else(|| panic!("no {field}"));
}

fn client_info(tokens: &mut Value, client_info: Value) {
    tokens["client_info"] = BASE64_URL_SAFE_NO_PAD.encode(client_info.to_string()).into();
}

/// The only entry of a section.
fn only<'a>(cache: &'a mut Value, section: &str) -> &'a mut Value {
    let entries = cache[section].as_object_mut().unwrap();
    assert_eq!(entries.len(), 1);
    entries.values_mut().next().unwrap()
}

const CASES: &[Case] = &[
    AS_USUAL,
    // Whose tokens they are.
    Case {
        name: "no client_info",
        sign_in: |tokens| remove(tokens, "client_info"),
        refresh: |tokens| remove(tokens, "client_info"),
        ..AS_USUAL
    },
    Case {
        name: "client_info without utid",
        sign_in: |tokens| client_info(tokens, json!({ "uid": "some-uid" })),
        refresh: |tokens| client_info(tokens, json!({ "uid": "some-uid" })),
        ..AS_USUAL
    },
    Case {
        name: "client_info in base64's other alphabet, padded, with a line feed in it",
        sign_in: |tokens| {
            let json = "{\"uid\":\"~~~???~~~???\",\"utid\":\"a-tenant\"}\n";
            tokens["client_info"] = BASE64_STANDARD.encode(json).into();
            assert!(["+", "/", "="].iter().all(|byte| tokens["client_info"].as_str().unwrap().contains(byte)));
        },
        refresh: |tokens| client_info(tokens, json!({ "uid": "~~~???~~~???", "utid": "a-tenant" })),
        ..AS_USUAL
    },
    Case {
        name: "capitals in client_info, which keys have not and fields have",
        sign_in: |tokens| client_info(tokens, json!({ "uid": "ABC-Ä", "utid": "DEF" })),
        refresh: |tokens| client_info(tokens, json!({ "uid": "ABC-Ä", "utid": "DEF" })),
        ..AS_USUAL
    },
    Case { name: "no oid", claims: |claims| remove(claims, "oid"), ..AS_USUAL },
    Case {
        name: "upn, no preferred_username",
        claims: |claims| {
            remove(claims, "preferred_username");
            claims["upn"] = "cleo.upn@platform.example".into();
        },
        ..AS_USUAL
    },
    Case {
        name: "neither upn nor preferred_username",
        claims: |claims| remove(claims, "preferred_username"),
        ..AS_USUAL
    },
    Case {
        name: "an empty preferred_username beside a upn",
        claims: |claims| {
            claims["preferred_username"] = "".into();
            claims["upn"] = "cleo.upn@platform.example".into();
        },
        ..AS_USUAL
    },
    Case {
        name: "a null preferred_username beside a upn",
        claims: |claims| {
            claims["preferred_username"] = Value::Null;
            claims["upn"] = "cleo.upn@platform.example".into();
        },
        ..AS_USUAL
    },
    Case {
        name: "letters of the world in the username",
        claims: |claims| claims["preferred_username"] = "Zoë.Σ@platform.example".into(),
        ..AS_USUAL
    },
    // How long they are good.
    Case {
        name: "refresh_in",
        sign_in: |tokens| tokens["refresh_in"] = 1800.into(),
        refresh: |tokens| tokens["refresh_in"] = 1700.into(),
        ..AS_USUAL
    },
    Case {
        name: "refresh_in as a string",
        sign_in: |tokens| tokens["refresh_in"] = "1800".into(),
        refresh: |tokens| tokens["refresh_in"] = "1700".into(),
        ..AS_USUAL
    },
    Case { name: "refresh_in at the sign-in only", sign_in: |tokens| tokens["refresh_in"] = 1800.into(), ..AS_USUAL },
    Case {
        name: "another ext_expires_in",
        sign_in: |tokens| tokens["ext_expires_in"] = 7200.into(),
        refresh: |tokens| tokens["ext_expires_in"] = "7100".into(),
        ..AS_USUAL
    },
    Case {
        name: "no ext_expires_in",
        sign_in: |tokens| remove(tokens, "ext_expires_in"),
        refresh: |tokens| remove(tokens, "ext_expires_in"),
        ..AS_USUAL
    },
    Case {
        name: "times as strings",
        sign_in: |tokens| {
            tokens["expires_in"] = "3599".into();
            tokens["ext_expires_in"] = "3598".into();
        },
        refresh: |tokens| tokens["expires_in"] = " 3597 ".into(),
        ..AS_USUAL
    },
    Case {
        name: "times with a fraction",
        sign_in: |tokens| tokens["expires_in"] = json!(3599.0),
        refresh: |tokens| tokens["expires_in"] = json!(3598.7),
        ..AS_USUAL
    },
    Case {
        name: "expires_on, no expires_in",
        sign_in: |tokens| {
            remove(tokens, "expires_in");
            tokens["expires_on"] = (now() + 3000).into();
        },
        refresh: |tokens| {
            remove(tokens, "expires_in");
            tokens["expires_on"] = (now() + 2900).to_string().into();
        },
        ..AS_USUAL
    },
    Case {
        name: "no expires_in at all",
        sign_in: |tokens| {
            remove(tokens, "expires_in");
            remove(tokens, "ext_expires_in");
        },
        refresh: |tokens| remove(tokens, "expires_in"),
        ..AS_USUAL
    },
    // What they are for.
    Case {
        name: "no scope",
        sign_in: |tokens| remove(tokens, "scope"),
        refresh: |tokens| remove(tokens, "scope"),
        ..AS_USUAL
    },
    Case {
        name: "an empty scope",
        sign_in: |tokens| tokens["scope"] = "".into(),
        refresh: |tokens| tokens["scope"] = "".into(),
        ..AS_USUAL
    },
    Case {
        name: "scopes in any order, capitals and white space",
        sign_in: |tokens| tokens["scope"] = format!("profile  email {SCOPE} Zebra openid\tZebra").into(),
        refresh: |tokens| tokens["scope"] = format!("openid profile Zebra email {SCOPE} Zebra").into(),
        ..AS_USUAL
    },
    Case {
        name: "other scopes at the refresh",
        refresh: |tokens| tokens["scope"] = format!("{SCOPE} Mail.Read openid profile").into(),
        ..AS_USUAL
    },
    Case { name: "token_type in small letters", sign_in: |tokens| tokens["token_type"] = "bearer".into(), ..AS_USUAL },
    // What comes with them.
    Case { name: "no refresh token at the refresh", refresh: |tokens| remove(tokens, "refresh_token"), ..AS_USUAL },
    Case { name: "no id token at the refresh", refresh: |tokens| remove(tokens, "id_token"), ..AS_USUAL },
    Case {
        name: "foci",
        sign_in: |tokens| tokens["foci"] = "1".into(),
        refresh: |tokens| tokens["foci"] = "1".into(),
        ..AS_USUAL
    },
    Case { name: "foci at the sign-in only", sign_in: |tokens| tokens["foci"] = "1".into(), ..AS_USUAL },
    Case { name: "foci at the refresh only", refresh: |tokens| tokens["foci"] = 1.into(), ..AS_USUAL },
    // What was there before.
    Case {
        name: "an access token that has expired, beside one for other scopes that has not",
        cache: |cache| {
            let entry = only(cache, "AccessToken").clone();
            for (target, expires_on) in [("A", now() - 60), ("B", now() + 1000)] {
                let mut entry = entry.clone();
                entry["target"] = target.into();
                entry["expires_on"] = expires_on.to_string().into();
                let [user, client, realm] = ["home_account_id", "client_id", "realm"].map(|name| entry[name].as_str());
                let (user, client, realm) = (user.unwrap(), client.unwrap(), realm.unwrap());
                let key = format!("{user}-127.0.0.1-accesstoken-{client}-{realm}-{target}").to_lowercase();
                cache["AccessToken"][key] = entry;
            }
        },
        ..AS_USUAL
    },
    Case {
        name: "sections and fields that nobody knows",
        cache: |cache| {
            cache["Unknown"] = json!({ "an entry": { "a field": [1, 2.5, null] } });
            cache["Version"] = 3.into();
            cache["List"] = json!(["one", {}]);
            for section in ["AccessToken", "Account", "AppMetadata", "IdToken", "RefreshToken"] {
                only(cache, section)["unknown"] = json!({ "deep": ["\u{1F511}"] });
            }
        },
        ..AS_USUAL
    },
    Case {
        name: "a refresh token under a key and with a target of somebody else's making",
        cache: |cache| {
            let mut entry = only(cache, "RefreshToken").clone();
            entry["target"] = Value::Null;
            cache["RefreshToken"] = json!({ "some key": entry });
        },
        ..AS_USUAL
    },
    Case { name: "no section for id tokens", cache: |cache| remove(cache, "IdToken"), ..AS_USUAL },
];

#[tokio::test]
#[ignore = "needs Python with msal: python3 -m venv target/msal-venv && target/msal-venv/bin/pip install msal"]
async fn the_same_answers_leave_the_same_cache() {
    let mut msal = Msal::start();
    for case in CASES {
        let platform = Platform::start().await;
        let claims = case.claims;
        platform.id_token(move |id_token| claims(&mut id_token.claims));
        let app = platform.app(&[]).await;
        let browser = app.browser();

        let answers = edit_and_note(&platform, case.sign_in);
        let callback = platform.sign_in(&app, &browser, "/graph").await;
        assert_eq!(callback.status, 302, "{}: {}", case.name, callback.body);
        let signed_in = app.token_cache();
        let at = time(access_token(&signed_in), "cached_at");
        replay(&platform, &for_msal(&answers.lock().unwrap()[0]));
        let steps = ["acquire_token_by_authorization_code"];
        let theirs = msal.run(&platform, &json!({}), at, &steps, json!({ "code": "any" }));
        show(case, "sign-in", &signed_in, &theirs.cache());

        app.edit_token_cache(age);
        app.edit_token_cache(case.cache);
        let aged = app.token_cache();
        let answers = edit_and_note(&platform, case.refresh);
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.status, 200, "{}: {}", case.name, page.body);
        let refreshed = app.token_cache();
        let answer = answers.lock().unwrap()[0].clone();
        let entries = refreshed["AccessToken"].as_object().unwrap();
        let entry = entries.values().find(|entry| entry["secret"] == answer["access_token"]).unwrap();
        replay(&platform, &for_msal(&answer));
        let theirs = msal.run(&platform, &aged, time(entry, "cached_at"), &["acquire_token_silent"], json!({}));
        assert_eq!(theirs.results[0]["access_token"], answer["access_token"], "{}", case.name);
        show(case, "refresh", &refreshed, &theirs.cache());
    }
}

/// The same answer, but for what MSAL cannot read: it adds `refresh_in` to
/// a number as it is.
fn for_msal(tokens: &Value) -> Value {
    let mut tokens = tokens.clone();
    if let Some(refresh_in) = tokens["refresh_in"].as_str() {
        tokens["refresh_in"] = refresh_in.parse::<i64>().unwrap().into();
    }
    tokens
}

#[track_caller]
fn show(case: &Case, what: &str, ours: &Value, theirs: &Value) {
    if case.name == AS_USUAL.name {
        println!("{what}, this app's cache: {ours:#}\n{what}, MSAL's cache: {theirs:#}");
    }
    assert_eq!(ours, theirs, "{}, {what}: {ours:#}\nis not {theirs:#}", case.name);
    println!("{}, {what}: equal", case.name);
}

#[tokio::test]
#[ignore = "needs Python with msal: python3 -m venv target/msal-venv && target/msal-venv/bin/pip install msal"]
async fn msal_reads_what_a_sign_in_and_a_refresh_left() {
    let mut msal = Msal::start();
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    for refresh in [false, true] {
        if refresh {
            app.edit_token_cache(age);
            assert_eq!(browser.get(app.at("/graph")).await.status, 200);
            assert_eq!(platform.token_forms().await.len(), 2);
        }
        let cache = app.token_cache();
        let entry = access_token(&cache);
        let steps = ["get_accounts", "acquire_token_silent", "remove_account", "get_accounts"];
        let done = msal.run(&platform, &cache, time(entry, "cached_at") + 3300, &steps, json!({}));
        let account = json!({
            "home_account_id": format!("9b1f4c68-oid-of-the-user.{TENANT_ID}"),
            "environment": "127.0.0.1",
            "realm": TENANT_ID,
            "username": "cleo@platform.example",
            "local_account_id": "9b1f4c68-oid-of-the-user",
            "authority_type": "MSSTS",
            "account_source": "authorization_code",
        });
        assert_eq!(done.results[0], json!([account]));
        let token = json!({ "access_token": entry["secret"], "token_type": "Bearer", "expires_in": 300, "token_source": "cache" });
        assert_eq!(done.results[1], token);
        assert_eq!(done.results[3], json!([]));
        assert_eq!(done.sent, Vec::<Value>::new());
        let app_metadata = &cache["AppMetadata"];
        let left =
            json!({ "AccessToken": {}, "IdToken": {}, "RefreshToken": {}, "Account": {}, "AppMetadata": app_metadata });
        assert_eq!(done.cache(), left);
    }
}

#[tokio::test]
#[ignore = "needs Python with msal: python3 -m venv target/msal-venv && target/msal-venv/bin/pip install msal"]
async fn what_msal_wrote_serves_is_refreshed_and_read_by_msal_again() {
    let mut msal = Msal::start();
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;

    // MSAL signs the same user in, by its own auth code flow.
    let begun = msal.run(&platform, &json!({}), now(), &["initiate_auth_code_flow"], json!({}));
    let flow = &begun.results[0];
    let headers = [("location", flow["auth_uri"].as_str().unwrap())];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect();
    let callback = platform.callback(&Page { status: 302, headers, body: String::new() });
    let callback = url::Url::parse(&callback).unwrap();
    let auth_response: serde_json::Map<String, Value> =
        callback.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect();
    let more = json!({ "flow": flow, "auth_response": auth_response });
    let signed_in = msal.run(&platform, &json!({}), now(), &["acquire_token_by_auth_code_flow"], more);
    let tokens = &signed_in.results[0];
    assert_eq!(tokens["token_source"], "identity_provider", "{tokens}");
    app.edit_session(|session| session["token_cache"] = signed_in.cache.clone().into());

    // Its access token serves.
    let token_requests = platform.token_forms().await.len();
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(platform.token_forms().await.len(), token_requests);
    let graph_requests = platform.requests(Endpoint::Graph).await;
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    assert_eq!(graph_requests.last().unwrap().headers["authorization"], bearer.as_str());

    // Its refresh token renews it.
    app.edit_token_cache(age);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    let forms = platform.token_forms().await;
    assert_eq!(forms.len(), token_requests + 1);
    assert_eq!(forms.last().unwrap()["refresh_token"], tokens["refresh_token"].as_str().unwrap());

    // And MSAL goes on with the result.
    let cache = app.token_cache();
    let entry = access_token(&cache);
    let done = msal.run(&platform, &cache, time(entry, "cached_at"), &["acquire_token_silent"], json!({}));
    assert_eq!(done.results[0]["access_token"], entry["secret"]);
    assert_ne!(entry["secret"], tokens["access_token"]);
    assert_eq!(done.sent, Vec::<Value>::new());
}

#[tokio::test]
#[ignore = "needs Python with msal: python3 -m venv target/msal-venv && target/msal-venv/bin/pip install msal"]
async fn msal_uses_the_cache_as_this_app_does() {
    let mut msal = Msal::start();
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    platform.sign_in(&app, &app.browser(), "/graph").await;
    let signed_in = app.token_cache();
    let held = only(&mut signed_in.clone(), "RefreshToken")["secret"].clone();
    for Situation { name, edit, tried } in SITUATIONS {
        let mut cache = signed_in.clone();
        let at = time(access_token(&cache), "cached_at");
        edit(&mut cache, at);
        let user = json!({ "local_account_id": "9b1f4c68-oid-of-the-user" });
        let done = msal.run(&platform, &cache, at, &["acquire_token_silent"], user);
        let sent = done.refresh_tokens().into_iter().map(|token| if held == token { "held" } else { token });
        assert_eq!(sent.collect::<Vec<_>>(), *tried, "{name}");
        assert!(done.results[0]["access_token"].is_string(), "{name}: {}", done.results[0]);
    }

    // Past refresh_on an error leaves the old access token in use, and the
    // refused refresh token where it is.
    let mut cache = signed_in.clone();
    let at = time(access_token(&cache), "cached_at");
    only(&mut cache, "AccessToken")["refresh_on"] = (at - 1).to_string().into();
    for error in ["temporarily_unavailable", "invalid_grant"] {
        platform.on(Endpoint::Token, move |answer| answer.refuse(400, error, "AADSTS90033: Later."));
        let done = msal.run(&platform, &cache, at, &["acquire_token_silent"], json!({}));
        assert_eq!(done.refresh_tokens(), [held.as_str().unwrap()]);
        assert_eq!(done.results[0]["access_token"], access_token(&cache)["secret"]);
        assert_eq!(done.cache(), cache);
    }
}

#[tokio::test]
#[ignore = "needs Python with msal: python3 -m venv target/msal-venv && target/msal-venv/bin/pip install msal"]
async fn the_same_at_every_kind_of_authority() {
    let mut msal = Msal::start();
    for authority in AUTHORITIES {
        let (platform, _internet, app) = app_at(authority).await;
        let answers = edit_and_note(&platform, |_| {});
        platform.sign_in(&app, &app.browser(), "/graph").await;
        let ours = app.token_cache();
        let at = time(access_token(&ours), "cached_at");
        let tokens = answers.lock().unwrap()[0].clone();
        replay(&platform, &tokens);
        let setting = full(authority.authority);
        let more = json!({ "authority": setting, "code": "any" });
        let theirs = msal.run(&platform, &json!({}), at, &["acquire_token_by_authorization_code"], more);
        assert_eq!(ours, theirs.cache(), "{setting}");
        let more = json!({ "authority": setting });
        let done = msal.run(&platform, &ours, at, &["acquire_token_silent"], more);
        assert_eq!(done.results[0]["access_token"], tokens["access_token"], "{setting}");
        assert_eq!(done.sent, Vec::<Value>::new(), "{setting}");
    }
}
