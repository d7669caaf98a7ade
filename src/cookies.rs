//! Keeps the cookies of this app in order. Nothing here decides who gets in.

use actix_web::body::MessageBody;
use actix_web::cookie::Cookie;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::Error;
use actix_web::http::header::{COOKIE, HeaderValue, SET_COOKIE};
use actix_web::middleware::Next;
use actix_web::web::Data;

use crate::settings::Settings;

/// How many sign-ins can be open at the same time in one browser. The cookie of each has up
/// to 730 bytes. Together they must fit into a header of 8 KB, the limit of many proxies.
const MAX_OPEN_SIGN_INS: usize = 10;

/// The cookies of this app are shorter.
const MAX_COOKIE_LENGTH: usize = 1_000;

/// Browsers keep fewer cookies for a host.
const MAX_COOKIES: usize = 200;

/// Passes only the cookies of this app to the handlers, and checks those that they set.
///
/// - Request: other apps on the same host set cookies too. If one of them is not UTF-8,
///   actix-web reads no cookie at all.
/// - Response: actix-session sets the session cookie again after each change of the session. A
///   late response would bring back the old cookie after a sign-out or sign-in in another tab.
/// - New sign-in: each sign-in that was given up leaves a cookie until it expires. Keep the
///   newest.
pub async fn cookies(
    settings: Data<Settings>,
    mut req: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let prefix = settings.cookie_prefix();

    // Request: keep the cookies of this app, the newest first. Browsers send the oldest first,
    // and of two with the same name the one for the path `/` last. Compare names as they were
    // sent: browsers let only this host set `__Host-…`, but anyone `%5F_Host-…`, which
    // actix-web would decode to the same name.
    let headers = req.headers().get_all(COOKIE);
    let pairs: Vec<&[u8]> =
        headers.flat_map(|header| header.as_bytes().split(|byte| *byte == b';')).collect();
    let mut sent: Vec<(String, String)> = Vec::new();
    for pair in pairs.into_iter().rev().take(MAX_COOKIES) {
        let Ok(pair) = str::from_utf8(pair.trim_ascii()) else { continue };
        let Some((name, value)) = pair.split_once('=') else { continue };
        let is_known = sent.iter().any(|(known, _)| known == name);
        if name.starts_with(prefix) && pair.len() <= MAX_COOKIE_LENGTH && !is_known {
            sent.push((name.to_owned(), value.to_owned()));
        }
    }
    let own: Vec<String> = sent.iter().map(|(name, value)| format!("{name}={value}")).collect();
    req.headers_mut().remove(COOKIE);
    if let Ok(header) = HeaderValue::from_str(&own.join("; ")) {
        req.headers_mut().insert(COOKIE, header);
    }

    let mut response = next.call(req).await?;

    // Response: drop each cookie that the browser has already.
    let flow_prefix = format!("{prefix}-flow-");
    let mut starts_sign_in = false;
    let headers = response.headers_mut();
    for cookie in headers.remove(SET_COOKIE) {
        let text = cookie.to_str().unwrap_or_default();
        let pair = text.split(';').next().unwrap_or_default();
        // A cookie without a value is the removal of a sign-in that is finished.
        starts_sign_in |= pair.starts_with(&flow_prefix) && !pair.ends_with('=');
        if !own.iter().any(|own| own == pair) {
            headers.append(SET_COOKIE, cookie);
        }
    }

    // New sign-in: remove the oldest, at most five at a time, so that the response is small.
    let flows = sent.iter().filter(|(name, _)| name.starts_with(&flow_prefix));
    for (name, _) in flows.skip(MAX_OPEN_SIGN_INS - 1).take(5).filter(|_| starts_sign_in) {
        // To remove a cookie, send it with the same path and `secure`.
        let mut cookie = Cookie::build(name, "").path("/").secure(settings.is_https()).finish();
        cookie.make_removal();
        if let Ok(cookie) = HeaderValue::from_str(&cookie.to_string()) {
            headers.append(SET_COOKIE, cookie);
        }
    }
    Ok(response)
}
