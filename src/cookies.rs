//! Keeps the cookies of this app in order. None of the nine steps is here.

use actix_web::body::MessageBody;
use actix_web::cookie::Cookie;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::Error;
use actix_web::http::header::{COOKIE, HeaderValue, SET_COOKIE};
use actix_web::middleware::Next;
use actix_web::web::Data;

use crate::settings::Settings;

/// How many sign-ins can be open in one browser, for example in ten tabs. Together, their
/// cookies must fit into a header of 8 KB, the limit of many proxies.
const MAX_OPEN_SIGN_INS: usize = 10;

/// Longer than each cookie of this app, in bytes.
const MAX_COOKIE_LENGTH: usize = 1_000;

/// More cookies than a browser keeps for one host.
const MAX_COOKIES: usize = 200;

/// Passes only the cookies of this app to the handlers, and checks the cookies that they
/// set.
pub async fn cookies(
    settings: Data<Settings>,
    mut req: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    // All names begin with it. With https, it begins with `__Host-`: browsers accept such a
    // cookie only from this host, and not from a subdomain or another app.
    let prefix = settings.cookie_prefix();
    let flow_prefix = format!("{prefix}-flow-");

    // 1. Pass on only the cookies of this app. If a cookie of another app on this host is not
    // UTF-8, actix-web reads no cookie at all.
    let headers = req.headers().get_all(COOKIE);
    let pairs: Vec<&[u8]> =
        headers.flat_map(|header| header.as_bytes().split(|byte| *byte == b';')).collect();
    let mut sent: Vec<String> = Vec::new(); // `name=value`, the newest first
    for pair in pairs.into_iter().rev().take(MAX_COOKIES) {
        let Ok(pair) = str::from_utf8(pair.trim_ascii()) else { continue };
        let Some((name, _)) = pair.split_once('=') else { continue };
        // Compare the name as it was sent. Any app can set `%5F_Host-…`, which actix-web
        // would decode to `__Host-…`.
        let is_own = name.starts_with(prefix) && pair.len() <= MAX_COOKIE_LENGTH;
        // Of two with the same name, browsers send the one for the path `/`, which is ours,
        // last.
        let is_first = !sent.iter().any(|other| other.starts_with(&format!("{name}=")));
        if is_own && is_first {
            sent.push(pair.to_owned());
        }
    }
    req.headers_mut().remove(COOKIE);
    if let Ok(header) = HeaderValue::from_str(&sent.join("; ")) {
        req.headers_mut().insert(COOKIE, header);
    }

    let mut response = next.call(req).await?;

    // 2. Do not set a cookie that the browser sent with this request. actix-session does that
    // after each change of the session. In the meantime, the user may have signed out in
    // another tab, and a late response would bring the old cookie back.
    let headers = response.headers_mut();
    let mut starts_sign_in = false;
    for cookie in headers.remove(SET_COOKIE) {
        let text = cookie.to_str().unwrap_or_default();
        let pair = text.split(';').next().unwrap_or_default();
        // Without a value, it is the removal of a sign-in that is finished.
        starts_sign_in |= pair.starts_with(&flow_prefix) && !pair.ends_with('=');
        if !sent.iter().any(|sent| sent == pair) {
            headers.append(SET_COOKIE, cookie);
        }
    }

    // 3. Each sign-in that the user gave up leaves a cookie for 15 minutes. When a sign-in
    // starts, remove the oldest, at most five at a time, so that the response is small.
    if starts_sign_in {
        let flows = sent.iter().filter(|pair| pair.starts_with(&flow_prefix));
        for pair in flows.skip(MAX_OPEN_SIGN_INS - 1).take(5) {
            // To remove a cookie, set it again with the same path and `secure`.
            let name = pair.split('=').next().unwrap_or_default();
            let mut cookie = Cookie::build(name, "").path("/").secure(settings.is_https()).finish();
            cookie.make_removal();
            if let Ok(cookie) = HeaderValue::from_str(&cookie.to_string()) {
                headers.append(SET_COOKIE, cookie);
            }
        }
    }
    Ok(response)
}
