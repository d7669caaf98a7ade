//! The log tells what happens as the protocol's steps, each with the line
//! of code that took it, and the README shows such a log and draws its
//! steps.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::*;

/// A line of the log: where it comes from, and what it says.
struct Line {
    file: String,
    line: usize,
    message: String,
}

/// Reads lines such as `INFO src/main.rs:1: message`, with or without a
/// time before.
fn lines(log: &str) -> Vec<Line> {
    let line = |text: &str| {
        let (_, text) = text.split_once("INFO ").or_else(|| text.split_once("WARN ")).expect(text);
        let (place, message) = text.split_once(": ").expect(text);
        let (file, line) = place.rsplit_once(':').expect(text);
        Line { file: file.to_owned(), line: line.parse().unwrap(), message: message.to_owned() }
    };
    log.lines().map(line).collect()
}

/// The source line that a line of the log points at.
fn source(line: &Line) -> String {
    let source = fs::read_to_string(&line.file).expect(&line.file);
    source.lines().nth(line.line - 1).unwrap_or_else(|| panic!("{} has no line {}", line.file, line.line)).to_owned()
}

/// The README's block of this language.
fn block(readme: &str, language: &str) -> String {
    let (_, block) = readme.split_once(&format!("\n```{language}\n")).expect(language);
    block.split_once("\n```").unwrap().0.to_owned()
}

/// Whether two messages are the same, numbers aside, where `shortened` may
/// have left out something at each `…`.
fn is_same(shortened: &str, message: &str) -> bool {
    let without_numbers = |text: &str| {
        let parts: Vec<&str> = text.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
        parts.join("0")
    };
    let (shortened, message) = (without_numbers(shortened), without_numbers(message));
    let mut parts = shortened.split('…');
    let Some(mut rest) = message.strip_prefix(parts.next().unwrap()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// What the app logs while something is done.
async fn log_of(app: &App, done: impl Future<Output = Page>) -> Vec<Line> {
    let before = app.log().len();
    done.await;
    lines(&app.log()[before..])
}

/// Compares a log with pairs of file and message, and each of its lines
/// with the code that it points at.
#[track_caller]
fn assert_story(log: &[Line], story: &[(&str, &str)]) {
    let told: Vec<String> = log.iter().map(|line| format!("{}: {}", line.file, line.message)).collect();
    let is_told = log.len() == story.len()
        && log.iter().zip(story).all(|(line, (file, message))| line.file == *file && is_same(message, &line.message));
    assert!(is_told, "the log is:\n{}", told.join("\n"));
    for line in log {
        assert_is_event(line);
    }
}

#[track_caller]
fn assert_is_event(line: &Line) {
    let source = source(line);
    let is_event = ["info!(", "warn!("].iter().any(|event| source.contains(event));
    assert!(is_event, "{}:{} logs nothing: {source}", line.file, line.line);
}

#[tokio::test]
async fn the_readme_shows_the_log_of_a_sign_in() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let log = log_of(&app, browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE)).await;

    let readme = fs::read_to_string("README.md").unwrap();
    let shown = lines(&block(&readme, "text"));
    let story: Vec<_> = shown.iter().map(|line| (line.file.as_str(), line.message.as_str())).collect();
    assert_story(&log, &story);
    for line in &shown {
        assert_is_event(line);
    }

    // The sequence diagram says the same: each of its steps is in the log, and
    // each line of the log is one of its steps.
    assert_eq!(readme.matches("```mermaid\n").count(), 1);
    let diagram = block(&readme, "mermaid");
    let steps: Vec<&str> = diagram.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    for step in &steps {
        assert!(shown.iter().any(|line| line.message.contains(step)), "no line of the README's log says {step:?}");
    }
    for line in &shown {
        assert!(steps.iter().any(|step| line.message.contains(step)), "no step of the diagram says {:?}", line.message);
    }
}

#[tokio::test]
async fn the_log_tells_what_follows_a_sign_in() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", BEN_WITHOUT_ROLE).await;

    let cached_visit = log_of(&app, browser.get(app.at("/graph"))).await;
    let graph_call = [
        ("src/demo_tenant/graph.rs", "demo tenant: Graph sent the profile of Ben Example"),
        ("src/routes/graph.rs", "Microsoft Graph answered 200"),
        ("src/main.rs", "GET \"/graph\": 200 OK"),
    ];
    let cached = [("src/routes/graph.rs", "access token found in the cache, 3600 s left")];
    assert_story(&cached_visit, &[&cached[..], &graph_call].concat());

    app.edit_token_cache(|token_cache| {
        for (_, access_token) in token_cache["AccessToken"].as_object_mut().unwrap() {
            access_token["expires_on"] = "1".into();
        }
    });
    let refresh = log_of(&app, browser.get(app.at("/graph"))).await;
    let refreshed = [
        (
            "src/routes/graph.rs",
            "no access token with five minutes left in the cache: refreshing it at the token endpoint",
        ),
        ("src/demo_tenant/entra.rs", "demo tenant: tokens issued to Ben Example for …"),
        ("src/routes/graph.rs", "tokens refreshed and cached, access token valid for 3600 s"),
    ];
    assert_story(&refresh, &[&refreshed[..], &graph_call].concat());

    let refusal = log_of(&app, browser.get(app.at("/admin"))).await;
    let refused = [
        ("src/routes/admin.rs", "403: the user \"…\" lacks the app role admin, the roles in the id token are \"none\""),
        ("src/main.rs", "GET \"/admin\": 403 Forbidden"),
    ];
    assert_story(&refusal, &refused);

    let sign_out = log_of(&app, browser.get(app.at("/logout"))).await;
    let signed_out = [
        (
            "src/routes/logout.rs",
            "signed out here; single sign-on goes on, without SSO_LOGOUT or an end session endpoint",
        ),
        ("src/main.rs", "GET \"/logout\": 302 Found"),
    ];
    assert_story(&sign_out, &signed_out);
}

#[tokio::test]
async fn the_log_says_where_to_go_and_what_the_demo_tenant_is() {
    let app = App::start(&[]).await;
    let log = lines(&app.log());
    let story = [
        "no app registration in the settings: using the demo tenant http://localhost:…",
        "it runs on this computer, with two invented users and no passwords; README.md says how to use a real one",
        "OpenID metadata loaded; the app registration must have the redirect URI http://localhost:…/auth/redirect",
        "SECRET_KEY is empty: a key was made for this run, and a restart signs everyone out",
        "open http://localhost:… in a browser, Ctrl+C stops the app",
    ];
    assert_story(&log, &story.map(|message| ("src/main.rs", message)));
}

#[test]
fn an_app_whose_log_nobody_reads_ends_all_the_same() {
    let folder = folder();
    let mut command = command(folder.path(), &[("PORT", "0")]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = log.find_map(|line| Some(line.unwrap().split_once("open http://")?.1.to_owned())).unwrap();
    let address = address.split_whitespace().next().unwrap();
    // From here on its log is not read, until a page waits for that.
    let answers = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let path = "x".repeat(2000);
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).is_ok()
    };
    let pages = (0..1000).take_while(|_| answers()).count();
    assert!((10..1000).contains(&pages), "{pages} pages");
    assert!(Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap().success());
    let started = Instant::now();
    let ended = loop {
        let ended = process.try_wait().unwrap();
        if ended.is_some() || started.elapsed() > PATIENCE {
            break ended;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let _ = process.kill();
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}
