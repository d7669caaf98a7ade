//! Which tokens of the cache are used, which are renewed, and what is left
//! of them: as MSAL's acquire_token_silent does it, where the sample does
//! not say otherwise. msal.rs asks MSAL itself the same.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;
use crate::platform::*;

/// A cache, and the refresh tokens that are tried with it, in this order.
pub struct Situation {
    pub name: &'static str,
    /// What is done, at this second, to the cache that a sign-in left. Its
    /// refresh token, which is good, is called "held" below; others are refused
    /// with invalid_grant.
    pub edit: fn(&mut Value, i64),
    pub tried: &'static [&'static str],
}

fn first<'a>(cache: &'a mut Value, section: &str) -> &'a mut Value {
    cache[section].as_object_mut().unwrap().values_mut().next().unwrap()
}

/// Adds an entry like the one there is, but for these fields. Entries are
/// found by their fields: any key will do.
fn add(cache: &mut Value, section: &str, fields: Value) {
    let mut entry = first(cache, section).clone();
    entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let section = cache[section].as_object_mut().unwrap();
    section.insert(format!("added {}", section.len()), entry);
}

/// Makes the access token one that has to be renewed.
fn expire(cache: &mut Value, now: i64) {
    first(cache, "AccessToken")["expires_on"] = (now - 1).to_string().into();
}

pub const SITUATIONS: &[Situation] = &[
    Situation { name: "as the sign-in left it", edit: |_, _| {}, tried: &[] },
    Situation {
        name: "a minute more than the margin",
        edit: |cache, now| first(cache, "AccessToken")["expires_on"] = (now + 360).to_string().into(),
        tried: &[],
    },
    Situation {
        name: "a second less than the margin",
        edit: |cache, now| first(cache, "AccessToken")["expires_on"] = (now + 299).to_string().into(),
        tried: &["held"],
    },
    Situation { name: "expired", edit: expire, tried: &["held"] },
    Situation {
        name: "times as numbers",
        edit: |cache, now| {
            first(cache, "AccessToken")["expires_on"] = (now + 1000).into();
            first(cache, "AccessToken")["refresh_on"] = (now + 900).into();
        },
        tried: &[],
    },
    Situation {
        name: "before refresh_on",
        edit: |cache, now| first(cache, "AccessToken")["refresh_on"] = (now + 60).to_string().into(),
        tried: &[],
    },
    Situation {
        name: "past refresh_on",
        edit: |cache, now| first(cache, "AccessToken")["refresh_on"] = (now - 1).to_string().into(),
        tried: &["held"],
    },
    // Scopes: more than asked for will do, fewer will not.
    Situation {
        name: "the very scope",
        edit: |cache, _| first(cache, "AccessToken")["target"] = SCOPE.into(),
        tried: &[],
    },
    Situation {
        name: "more scopes, in any order",
        edit: |cache, _| first(cache, "AccessToken")["target"] = format!("z {SCOPE}  A").into(),
        tried: &[],
    },
    Situation {
        name: "other scopes",
        edit: |cache, _| first(cache, "AccessToken")["target"] = "openid profile User.Read".into(),
        tried: &["held"],
    },
    Situation {
        name: "a scope that begins like it",
        edit: |cache, _| first(cache, "AccessToken")["target"] = format!("{SCOPE}.All openid").into(),
        tried: &["held"],
    },
    Situation {
        name: "the scope in other letters, among others",
        edit: |cache, _| first(cache, "AccessToken")["target"] = format!("{} openid", SCOPE.to_uppercase()).into(),
        tried: &["held"],
    },
    Situation {
        name: "no target",
        edit: |cache, _| _ = first(cache, "AccessToken").as_object_mut().unwrap().remove("target"),
        tried: &["held"],
    },
    Situation {
        name: "one for the scope behind one for another",
        edit: |cache, _| {
            add(cache, "AccessToken", json!({}));
            first(cache, "AccessToken")["target"] = "other".into();
        },
        tried: &[],
    },
    // Somebody else's.
    Situation {
        name: "another user's access token",
        edit: |cache, _| first(cache, "AccessToken")["home_account_id"] = "somebody.else".into(),
        tried: &["held"],
    },
    Situation {
        name: "another cloud's access token",
        edit: |cache, _| first(cache, "AccessToken")["environment"] = "login.microsoftonline.us".into(),
        tried: &["held"],
    },
    Situation {
        name: "another app's access token",
        edit: |cache, _| first(cache, "AccessToken")["client_id"] = "another-app".into(),
        tried: &["held"],
    },
    Situation {
        name: "another tenant's access token",
        edit: |cache, _| first(cache, "AccessToken")["realm"] = "another-tenant".into(),
        tried: &["held"],
    },
    Situation {
        name: "an access token for parameters that are not sent",
        edit: |cache, _| first(cache, "AccessToken")["ext_cache_key"] = "a-hash-of-them".into(),
        tried: &["held"],
    },
    Situation {
        name: "somebody else's tokens in front",
        edit: |cache, now| {
            for section in ["Account", "AccessToken", "RefreshToken"] {
                add(cache, section, json!({}));
            }
            first(cache, "Account")["local_account_id"] = "somebody".into();
            for section in ["Account", "AccessToken", "RefreshToken"] {
                first(cache, section)["home_account_id"] = "somebody.else".into();
            }
            first(cache, "AccessToken")["secret"] = "somebody else's".into();
            first(cache, "RefreshToken")["secret"] = "somebody else's".into();
            cache["AccessToken"]["added 1"]["expires_on"] = (now + 299).to_string().into();
        },
        tried: &["held"],
    },
    // Refresh tokens: the newest first, and only those of this user and app.
    Situation {
        name: "an older refresh token, by a number that is shorter",
        edit: |cache, now| {
            expire(cache, now);
            add(cache, "RefreshToken", json!({ "secret": "older", "last_modification_time": "999" }));
            first(cache, "RefreshToken")["last_modification_time"] = "1000".into();
        },
        tried: &["held"],
    },
    Situation {
        name: "a refresh token without a time",
        edit: |cache, now| {
            expire(cache, now);
            add(cache, "RefreshToken", json!({ "secret": "timeless" }));
            _ = cache["RefreshToken"]["added 1"].as_object_mut().unwrap().remove("last_modification_time");
        },
        tried: &["held"],
    },
    Situation {
        name: "newer refresh tokens that are refused",
        edit: |cache, now| {
            expire(cache, now);
            add(cache, "RefreshToken", json!({ "secret": "older", "last_modification_time": "999" }));
            add(cache, "RefreshToken", json!({ "secret": "newer", "last_modification_time": "1001" }));
            add(cache, "RefreshToken", json!({ "secret": "newest", "last_modification_time": 1002 }));
            first(cache, "RefreshToken")["last_modification_time"] = "1000".into();
        },
        tried: &["newest", "newer", "held"],
    },
    Situation {
        name: "refresh tokens of the same second",
        edit: |cache, now| {
            expire(cache, now);
            add(cache, "RefreshToken", json!({ "secret": "the same second's" }));
        },
        tried: &["held"],
    },
    Situation {
        name: "somebody else's refresh tokens, another app's, another cloud's",
        edit: |cache, now| {
            expire(cache, now);
            let newer = (now + 1).to_string();
            for (field, value) in
                [("home_account_id", "somebody.else"), ("client_id", "another-app"), ("environment", "another.cloud")]
            {
                add(cache, "RefreshToken", json!({ field: value, "secret": field, "last_modification_time": newer }));
            }
        },
        tried: &["held"],
    },
    Situation {
        name: "a refresh token with another target",
        edit: |cache, now| {
            expire(cache, now);
            first(cache, "RefreshToken")["target"] = "other".into();
        },
        tried: &["held"],
    },
];

#[tokio::test]
async fn the_cache_is_used_as_msal_uses_it() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let signed_in = app.token_cache();
    let held = signed_in["RefreshToken"].as_object().unwrap().values().next().unwrap()["secret"].clone();
    for Situation { name, edit, tried } in SITUATIONS {
        app.edit_token_cache(|cache| {
            *cache = signed_in.clone();
            edit(cache, now());
        });
        let before = app.token_cache();
        let token_requests = platform.token_forms().await.len();
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.status, 200, "{name}: {}", page.body);
        let forms = platform.token_forms().await;
        let sent = forms[token_requests..].iter().map(|form| form["refresh_token"].as_str());
        let sent: Vec<_> = sent.map(|token| if held == token { "held" } else { token }).collect();
        assert_eq!(sent, *tried, "{name}");
        if sent.is_empty() {
            assert_eq!(app.token_cache(), before, "{name}: nothing was to be changed");
        }
    }
}

/// The status of the page after this edit of the cache, in the same second,
/// and how many token requests it took.
async fn graph_in_the_second_of(
    edit: impl Fn(&mut Value, i64),
    platform: &Platform,
    app: &App,
    browser: &Browser,
) -> (u16, usize) {
    // Until the clock has not moved on between the edit and the answer.
    loop {
        let second = now();
        app.edit_token_cache(|cache| edit(cache, second));
        let token_requests = platform.token_forms().await.len();
        let page = browser.get(app.at("/graph")).await;
        let token_requests = platform.token_forms().await.len() - token_requests;
        if now() == second {
            return (page.status, token_requests);
        }
    }
}

#[tokio::test]
async fn an_access_token_is_good_to_the_second() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let set = |field: &'static str, time: i64| {
        move |cache: &mut Value, now: i64| first(cache, "AccessToken")[field] = (now + time).to_string().into()
    };
    let graph = async |edit| graph_in_the_second_of(edit, &platform, &app, &browser).await;
    // With exactly 300 seconds left it is used, and at refresh_on not yet old.
    assert_eq!(graph(set("expires_on", 300)).await, (200, 0));
    assert!(app.log().contains("access token found in the cache, 300 s left"), "{}", app.log());
    assert_eq!(graph(set("expires_on", 1000)).await, (200, 0));
    assert_eq!(graph(set("refresh_on", 0)).await, (200, 0));

    // Where none can be had it serves to the last second, which is no more.
    platform.on(Endpoint::Token, |answer| answer.say(500, "out of order"));
    assert_eq!(graph(set("refresh_on", -1)).await, (200, 1));
    assert_eq!(graph(set("expires_on", 1)).await, (200, 1));
    assert_eq!(graph(set("expires_on", 0)).await, (502, 1));
    app.edit_token_cache(|cache| cache["RefreshToken"] = json!({}));
    assert_eq!(graph(set("expires_on", 1)).await, (200, 0));
    assert_eq!(graph(set("expires_on", 0)).await, (302, 0));
}

#[tokio::test]
async fn the_account_is_the_one_of_client_info_or_else_the_subject() {
    let platform = Platform::start().await;
    // {"uid":"a","utid":"b"}, and half of it.
    for (client_info, home_account_id) in [("eyJ1aWQiOiJhIiwidXRpZCI6ImIifQ", Some("a.b")), ("eyJ1aWQiOiJhIn0", None)] {
        platform.on(Endpoint::Token, move |answer| answer.json["client_info"] = client_info.into());
        let app = platform.app(&[]).await;
        platform.sign_in(&app, &app.browser(), "/graph").await;
        let sub = app.session()["user"]["id_token_claims"]["sub"].clone();
        let account = first(&mut app.token_cache(), "Account").clone();
        assert_eq!(account["home_account_id"], home_account_id.map_or(sub, Value::from));
    }
}

#[tokio::test]
async fn all_scopes_are_needed() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SCOPE", "B.Write A.Read")]).await;
    let browser = app.browser();
    platform.on(Endpoint::Token, |answer| answer.json["scope"] = "openid A.Read B.Write".into());
    platform.sign_in(&app, &browser, "/graph").await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(platform.token_forms().await.len(), 1);
    app.edit_token_cache(|cache| first(cache, "AccessToken")["target"] = "openid A.Read".into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(platform.token_forms().await.len(), 2);
    assert_eq!(platform.token_forms().await[1]["scope"], "A.Read B.Write offline_access openid profile");
}

/// What a token endpoint in trouble is called and does, and the status of
/// our page when there is no access token to go on with.
type Trouble = (&'static str, fn(&mut Answer), u16);

const TROUBLE: &[Trouble] = &[
    ("500", |answer| answer.say(500, "out of order"), 502),
    ("502", |answer| answer.say(502, "<html>a proxy</html>"), 502),
    ("503", |answer| answer.say(503, ""), 503),
    ("504", |answer| answer.say(504, ""), 504),
    ("429", |answer| answer.say(429, "Too Many Requests"), 503),
    ("no JSON", |answer| answer.say(200, "good morning"), 502),
    ("an error in JSON", |answer| answer.refuse(400, "temporarily_unavailable", "Later."), 502),
    ("the app refused", |answer| answer.refuse(401, "invalid_client", "AADSTS7000222: expired"), 502),
    ("no answer in time", |answer| answer.delay = Duration::from_secs(30), 504),
];

#[tokio::test]
async fn an_endpoint_in_trouble_leaves_the_old_access_token_in_use() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let signed_in = app.token_cache();
    for (name, trouble, without) in TROUBLE {
        platform.on(Endpoint::Token, trouble);
        // Aging, under the margin, expired. One of them will do to see the time
        // limit.
        let ages = [(3000, -1, 200), (60, 60, 200), (-1, 60, *without)];
        for (expires_in, refresh_in, status) in ages.into_iter().skip(if *name == "no answer in time" { 2 } else { 0 })
        {
            app.edit_token_cache(|cache| {
                *cache = signed_in.clone();
                first(cache, "AccessToken")["expires_on"] = (now() + expires_in).to_string().into();
                first(cache, "AccessToken")["refresh_on"] = (now() + refresh_in).to_string().into();
            });
            let before = app.token_cache();
            let token_requests = platform.token_forms().await.len();
            let page = browser.get(app.at("/graph")).await;
            assert_eq!(page.status, status, "{name}, {expires_in}: {}", page.body);
            assert_eq!(platform.token_forms().await.len(), token_requests + 1, "{name}, {expires_in}");
            assert_eq!(app.token_cache(), before, "{name}, {expires_in}");
        }
    }
}

#[tokio::test]
async fn a_refused_refresh_token_stays_until_a_sign_in_replaces_it() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let signed_in = app.token_cache();
    for error in ["invalid_grant", "interaction_required", "consent_required", "login_required"] {
        platform.on(Endpoint::Token, move |answer| {
            if answer.form["grant_type"] == "refresh_token" {
                answer.refuse(400, error, "AADSTS50076: come back");
            }
        });
        // Even with an access token that is good for a while yet: a policy wants
        // the user.
        for expires_in in [-1, 200] {
            app.edit_token_cache(|cache| {
                *cache = signed_in.clone();
                add(cache, "RefreshToken", json!({ "secret": "older", "last_modification_time": "999" }));
                first(cache, "AccessToken")["expires_on"] = (now() + expires_in).to_string().into();
            });
            let before = app.token_cache();
            let page = browser.get(app.at("/graph")).await;
            assert!(page.location().starts_with(&platform.authority()), "{}", page.location());
            assert_eq!(app.token_cache(), before, "{error}");
        }
    }
    // An older one is tried where it is the refresh token that is wrong, and
    // not for other reasons.
    let tried: Vec<_> = platform.token_forms().await[1..].iter().map(|form| form["refresh_token"].clone()).collect();
    assert_eq!(tried.iter().filter(|token| **token == "older").count(), 2);
    assert_eq!(tried.len(), 10);

    platform.sign_in(&app, &browser, "/graph").await;
    let cache = app.token_cache();
    assert_eq!(cache["RefreshToken"].as_object().unwrap().len(), 1);
    assert_ne!(cache["RefreshToken"], signed_in["RefreshToken"]);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn tokens_of_others_do_not_serve_a_user_who_has_none() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let signed_in = app.token_cache();
    let edits: [fn(&mut Value); 5] = [
        |cache| first(cache, "Account")["local_account_id"] = "somebody".into(),
        |cache| first(cache, "Account")["home_account_id"] = "somebody.else".into(),
        |cache| cache["Account"] = json!({}),
        |cache| cache["AccessToken"] = Value::Null,
        |cache| *cache = json!([]),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        app.edit_token_cache(|cache| {
            *cache = signed_in.clone();
            if number == 3 {
                cache["RefreshToken"] = json!({});
            }
            edit(cache);
        });
        let page = browser.get(app.at("/graph")).await;
        assert!(page.location().starts_with(&platform.authority()), "{number}: {}", page.location());
    }
    assert_eq!(platform.token_forms().await.len(), 1);
}

#[tokio::test]
async fn a_broken_cache_is_none() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let signed_in = app.token_cache();
    for section in ["AccessToken", "Account", "IdToken", "RefreshToken", "AppMetadata"] {
        for broken in [json!([]), json!("text"), json!(7)] {
            app.edit_token_cache(|cache| {
                *cache = signed_in.clone();
                expire(cache, now());
                cache[section] = broken.clone();
            });
            let page = browser.get(app.at("/graph")).await;
            assert_eq!(page.status, 302, "{section} = {broken}: {}", page.body);
        }
    }
    app.edit_session(|session| session["token_cache"] = "{".into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 302);
    // And the sign-in puts it right.
    platform.sign_in(&app, &browser, "/graph").await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn a_refresh_changes_the_tokens_and_nothing_else() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    app.edit_token_cache(|cache| {
        expire(cache, now());
        add(cache, "AccessToken", json!({ "target": "other", "expires_on": "1000" }));
        add(cache, "AccessToken", json!({ "target": "another", "expires_on": (now() + 1000).to_string() }));
        add(cache, "Account", json!({ "home_account_id": "somebody.else", "local_account_id": "somebody" }));
        first(cache, "RefreshToken")["note"] = json!({ "of": "ours" });
        cache["Unknown"] = json!({ "an entry": { "a field": [1, null] } });
        cache["Version"] = 3.into();
    });
    let before = app.token_cache();
    // Whatever client_info such an answer has: the tokens are those of the
    // account whose refresh token was sent.
    platform.on(Endpoint::Token, |answer| answer.json["client_info"] = "eyJ1aWQiOiJhIiwidXRpZCI6ImIifQ".into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    let mut after = app.token_cache();
    for section in ["Account", "AppMetadata", "Unknown", "Version"] {
        assert_eq!(after[section], before[section]);
    }
    let access_tokens = after["AccessToken"].as_object().unwrap();
    assert_eq!(access_tokens.len(), 2, "{after:#}");
    assert_eq!(access_tokens["added 2"], before["AccessToken"]["added 2"]);
    // In place, under the keys they had.
    for section in ["IdToken", "RefreshToken"] {
        let keys = |cache: &Value| cache[section].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&after), keys(&before));
        assert_ne!(first(&mut after, section)["secret"], first(&mut before.clone(), section)["secret"]);
    }
    assert_eq!(first(&mut after, "RefreshToken")["note"], json!({ "of": "ours" }));
}
