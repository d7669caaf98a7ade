//! Keeps the cookies of this app in order. None of the nine steps is here.

use actix_web::body::MessageBody;
use actix_web::cookie::Cookie;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::Error;
use actix_web::http::header::{COOKIE, HeaderValue, SET_COOKIE};
use actix_web::middleware::Next;
use actix_web::web::Data;

use crate::settings::Settings;

/// How many sign-ins can be open in one browser, for example in ten tabs. The cookie of
/// each has at most 490 bytes of JSON, which are 654 in Base64, and a name of 67. Ten of
/// them and the session cookie fit into a header of 8 KB, the limit of many proxies.
const MAX_OPEN_SIGN_INS: usize = 10;

/// Passes only the cookies of this app to the handlers, and checks the cookies that they
/// set.
pub async fn cookies(
    settings: Data<Settings>,
    mut req: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    // All names of this app's cookies begin with it.
    let prefix = settings.cookie_prefix();
    let flow_prefix = format!("{prefix}-flow-");

    // First, pass on only the cookies of this app. Other apps on this host can set a cookie
    // that is not UTF-8, and actix-web would then read no cookie at all. Compare each name
    // as the browser sent it. With https, the prefix begins with `__Host-`, and browsers
    // let only this host set such a name. But any subdomain can set `%5F_Host-…`. actix-web
    // would decode that to the same name, and a user would be signed in with the session of
    // an attacker.
    let mut sent: Vec<String> = Vec::new(); // each as `name=value`
    for header in req.headers().get_all(COOKIE) {
        for pair in header.as_bytes().split(|byte| *byte == b';') {
            if let Ok(pair) = str::from_utf8(pair.trim_ascii())
                && pair.starts_with(prefix)
            {
                sent.push(pair.to_owned());
            }
        }
    }
    // Browsers send cookies for longer paths first, and older cookies first. The cookies of
    // this app are for the path `/`. actix-web uses the first of two with one name. So turn
    // the order around: first those for `/`, the newest first.
    sent.reverse();
    req.headers_mut().remove(COOKIE);
    if let Ok(header) = HeaderValue::from_str(&sent.join("; ")) {
        req.headers_mut().insert(COOKIE, header);
    }

    let mut response = next.call(req).await?;

    // Second, do not set a cookie to the value that the browser has sent. actix-session
    // does that after each change of the session. Suppose that one tab waits for a slow
    // page, and the user signs out and in again in another tab. The slow page would then
    // put the old cookie in the place of the new one.
    let headers = response.headers_mut();
    let set_cookies: Vec<HeaderValue> = headers.remove(SET_COOKIE).collect();
    let mut starts_sign_in = false;
    for cookie in set_cookies {
        let text = cookie.to_str().unwrap_or_default();
        let (pair, _) = text.split_once(';').unwrap_or_default();
        // (The cookie of a finished sign-in is set without a value, which removes it.)
        if pair.starts_with(&flow_prefix) && !pair.ends_with('=') {
            starts_sign_in = true;
        }
        if !sent.iter().any(|sent| sent == pair) {
            headers.append(SET_COOKIE, cookie);
        }
    }

    // Third, keep ten open sign-ins. Each one that the user gave up leaves a cookie for 15
    // minutes. When a sign-in starts, remove those beyond ten, the oldest first, at most five
    // in one response. (Tabs that open at the same moment can have more until then.)
    if starts_sign_in {
        sent.retain(|pair| pair.starts_with(&flow_prefix)); // the newest first
        for pair in sent.iter().skip(MAX_OPEN_SIGN_INS - 1).rev().take(5) {
            let (name, _) = pair.split_once('=').unwrap_or_default();
            // To remove a cookie, set it again with the same path and `secure`.
            let mut cookie = Cookie::build(name, "").path("/").secure(settings.is_https()).finish();
            cookie.make_removal();
            if let Ok(cookie) = HeaderValue::from_str(&cookie.to_string()) {
                headers.append(SET_COOKIE, cookie);
            }
        }
    }
    Ok(response)
}
