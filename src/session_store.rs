//! Where sessions live: `SESSION_TYPE = "filesystem"` keeps one readable
//! JSON file a session, `"redis"` one value.
//!
//! The browser has only the session id, in a signed cookie; tokens never
//! leave the server. actix-session loads a session before the handler runs
//! and writes it back, whole, after it. Three rules hold with both kinds:
//! - An update never brings back a session that was deleted meanwhile:
//!   signing out wins.
//! - A session that nobody has signed in to ends after ten minutes, so
//!   visitors who never sign in leave little behind.
//! - A session that someone has signed in to ends
//!   PERMANENT_SESSION_LIFETIME after the sign-in, however busy it is.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_session::storage::{self, LoadError, SaveError, SessionKey, UpdateError, generate_session_key};
use actix_web::cookie::time;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, RedisResult};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::settings::Settings;

/// A session in actix-session's form: each value is JSON text.
type SessionState = HashMap<String, String>;

/// How long a session lasts that nobody has signed in to, in seconds: as
/// long as one sign-in may take.
const SIGNED_OUT_LIFETIME: u64 = 600;

/// The key of a session file that says when the session ends, in seconds
/// since 1970. Redis keeps that by itself.
const EXPIRES_ON: &str = "expires_on";

/// The store that SESSION_TYPE names.
#[derive(Clone)]
pub enum SessionStore {
    /// One file a session, for one process.
    Filesystem(Arc<SessionFiles>),
    /// One value a session, shared by all processes that use the same Redis.
    Redis(SessionsInRedis),
}

impl SessionStore {
    /// Opens the store and checks that it works.
    ///
    /// # Errors
    /// One line that names the setting and what is wrong.
    pub async fn open(settings: &Settings) -> Result<Self, String> {
        if settings.session_in_redis {
            // The address may hold a password: only what Redis or the system answered
            // is shown.
            let redis = SessionsInRedis::open(&settings.session_redis).await.map_err(|err| {
                format!(
                    "SESSION_REDIS: {err}; accepted is the address of a Redis, 6.0 or newer, that the app may write to"
                )
            })?;
            return Ok(Self::Redis(redis));
        }
        let folder = &settings.session_file_dir;
        let files = SessionFiles::open(folder).map_err(|err| {
            format!("SESSION_FILE_DIR = {folder:?}: {err}; accepted is a folder that the app may write to")
        })?;
        let files = Arc::new(files);
        files.clone().sweep_while_running(settings.permanent_session_lifetime.into());
        Ok(Self::Filesystem(files))
    }
}

impl storage::SessionStore for SessionStore {
    async fn load(&self, key: &SessionKey) -> Result<Option<SessionState>, LoadError> {
        let name = name_of(key);
        let loaded = match self {
            // On this thread: the file is in memory as a rule, and to have another
            // thread read it costs three times as much.
            Self::Filesystem(files) => files.load(&name).map_err(Into::into),
            Self::Redis(redis) => redis.load(&name).await,
        };
        loaded.map_err(|cause| LoadError::Other(out_of_order(cause)))
    }

    async fn save(&self, state: SessionState, ttl: &time::Duration) -> Result<SessionKey, SaveError> {
        let key = generate_session_key();
        let name = name_of(&key);
        let lifetime = lifetime_of(&state, ttl);
        let saved = match self {
            Self::Filesystem(files) => files.change(move |files| files.create(&name, &state, now() + lifetime)).await,
            Self::Redis(redis) => redis.save(&name, state, lifetime).await,
        };
        saved.map(|()| key).map_err(|cause| SaveError::Other(out_of_order(cause)))
    }

    /// Replaces a session that still exists; one that is gone stays gone, and
    /// the browser's cookie then names nothing.
    async fn update(
        &self,
        key: SessionKey,
        state: SessionState,
        ttl: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        let name = name_of(&key);
        let lifetime = lifetime_of(&state, ttl);
        let updated = match self {
            Self::Filesystem(files) => files.change(move |files| files.update(&name, &state, now() + lifetime)).await,
            Self::Redis(redis) => redis.update(&name, state, lifetime).await,
        };
        updated.map(|()| key).map_err(|cause| UpdateError::Other(out_of_order(cause)))
    }

    /// A visit does not prolong a session.
    async fn update_ttl(&self, _key: &SessionKey, _ttl: &time::Duration) -> anyhow::Result<()> {
        Ok(())
    }

    async fn delete(&self, key: &SessionKey) -> anyhow::Result<()> {
        let name = name_of(key);
        let deleted = match self {
            Self::Filesystem(files) => files.change(move |files| files.delete(&name)).await,
            Self::Redis(redis) => redis.delete(&name).await,
        };
        deleted.map_err(out_of_order)
    }
}

/// The name under which a session is kept: no session id can be read from
/// the store, and no id can name another path.
fn name_of(key: &SessionKey) -> String {
    format!("{:x}", Sha256::digest(key.as_ref()))
}

fn is_signed_in(state: &SessionState) -> bool {
    state.contains_key("user")
}

fn lifetime_of(state: &SessionState, ttl: &time::Duration) -> u64 {
    let ttl = ttl.whole_seconds().unsigned_abs();
    if is_signed_in(state) { ttl } else { ttl.min(SIGNED_OUT_LIFETIME) }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Logs the cause here, because actix-session's own errors keep it to
/// themselves.
fn out_of_order(cause: anyhow::Error) -> anyhow::Error {
    error!("the session store is out of order: {:?}", cause.to_string());
    cause
}

/// Writes a session as JSON that a person can read: a line for each key and
/// its value, which is JSON already.
fn to_json(state: &SessionState, expires_on: Option<u64>) -> String {
    let mut lines: Vec<String> = state.iter().map(|(key, value)| format!("  \"{key}\": {value}")).collect();
    lines.extend(expires_on.map(|expires_on| format!("  \"{EXPIRES_ON}\": {expires_on}")));
    lines.sort_unstable();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Reads what `to_json` wrote: the session, and when it ends. Anything else
/// is no session: the user signs in again. Line by line, and the values are
/// left for the handlers to parse, because to parse all of them here would
/// cost a page more than the file does.
fn from_json(json: &[u8], name: &str) -> Option<(SessionState, u64)> {
    let read = || {
        let (mut state, mut expires_on) = (SessionState::new(), 0);
        for line in str::from_utf8(json).ok()?.strip_prefix("{\n")?.strip_suffix("\n}\n")?.split('\n') {
            match line.strip_suffix(',').unwrap_or(line).strip_prefix("  \"")?.split_once("\": ")? {
                (EXPIRES_ON, value) => expires_on = value.parse().ok()?,
                (key, value) => _ = state.insert(key.to_owned(), value.to_owned()),
            }
        }
        Some((state, expires_on))
    };
    let session = read();
    if session.is_none() {
        warn!("session {name} cannot be read and counts as none");
    }
    session
}

/// Session files in one folder.
///
/// One thread makes all changes, one after the other: nothing happens to a
/// file between a look at it and its change, and while the disk is slow
/// other pages are served. More threads would only wait for each other where
/// the system, as Linux does, lets one at a time change a folder.
pub struct SessionFiles {
    folder: PathBuf,
    changes: Sender<Change>,
}

type Change = Box<dyn FnOnce() + Send>;

impl SessionFiles {
    fn open(folder: &Path) -> io::Result<Self> {
        let (changes, to_make) = mpsc::channel::<Change>();
        thread::Builder::new().spawn(move || {
            for change in to_make {
                // Should one panic, whoever waits for it learns of it, and the others are
                // made.
                let _ = catch_unwind(AssertUnwindSafe(change));
            }
        })?;
        let files = Self { folder: folder.to_owned(), changes };
        // A session that has ended, of nobody: what a crash leaves of it is swept
        // up.
        let nobody = "0".repeat(64);
        files.replace(&nobody, &SessionState::new(), 0)?;
        files.delete(&nobody)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            if fs::metadata(folder)?.permissions().mode() & 0o022 != 0 {
                warn!("SESSION_FILE_DIR = {folder:?}: others may write to it, and who writes a session can be anyone");
            }
        }
        Ok(files)
    }

    /// Has the thread make a change, and waits for it.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        Ok(self.request(change).await??)
    }

    /// The change is made when its turn comes, whether someone waits or not.
    fn request<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (files, (report, reported)) = (self.clone(), oneshot::channel());
        let _ = self.changes.send(Box::new(move || _ = report.send(change(&files))));
        reported
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn load(&self, name: &str) -> io::Result<Option<SessionState>> {
        Ok(self.read(name)?.map(|(state, _)| state))
    }

    /// The session and when it ends, unless it has ended.
    fn read(&self, name: &str) -> io::Result<Option<(SessionState, u64)>> {
        let read = || -> io::Result<Vec<u8>> {
            // Room for a session with tokens: it is read at once, not in pieces of 8 KiB.
            // With a limit, which no session comes near, nobody asks for the file's
            // length first.
            let mut json = Vec::with_capacity(16 * 1024);
            let file = BufReader::with_capacity(json.capacity(), File::open(self.path(name))?);
            file.take(10_000_000).read_to_end(&mut json)?;
            Ok(json)
        };
        match read() {
            Ok(json) => Ok(from_json(&json, name).filter(|(_, expires_on)| now() < *expires_on)),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Writes a new session where it belongs: nobody knows its id before it is
    /// whole, and what a crash leaves of it is no session, and swept up.
    fn create(&self, name: &str, state: &SessionState, expires_on: u64) -> io::Result<()> {
        let path = self.path(name);
        self.write(&path, &path, state, expires_on)
    }

    /// Writes beside the file and then renames, so that a reader, or a crash,
    /// finds the old session or the new one, whole.
    fn replace(&self, name: &str, state: &SessionState, expires_on: u64) -> io::Result<()> {
        let unfinished = self.folder.join(format!("{name}.{:016x}.tmp", rand::random::<u64>()));
        self.write(&unfinished, &self.path(name), state, expires_on)
    }

    /// Does not wait for the disk: after a power failure the newest may be no
    /// session, and their users sign in again.
    fn write(&self, unfinished: &Path, path: &Path, state: &SessionState, expires_on: u64) -> io::Result<()> {
        let mut file = self.open_new(unfinished)?;
        let mut write = || {
            file.write_all(to_json(state, Some(expires_on)).as_bytes())?;
            if unfinished != path {
                fs::rename(unfinished, path)?;
            }
            // Tells the sweep when to look at it. For a session that nobody has signed in
            // to, the time of writing does.
            if is_signed_in(state)
                && let Some(end) = UNIX_EPOCH.checked_add(Duration::from_secs(expires_on))
            {
                let _ = file.set_modified(end);
            }
            Ok(())
        };
        let written = write();
        if written.is_err() {
            // What cannot be removed now, the sweep removes.
            let _ = fs::remove_file(unfinished);
        }
        written
    }

    /// A new file that only this user can read, in a folder that only this user
    /// can enter.
    fn open_new(&self, path: &Path) -> io::Result<File> {
        let mut file = OpenOptions::new();
        let mut folder = DirBuilder::new();
        file.write(true).create_new(true);
        folder.recursive(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
            file.mode(0o600);
            folder.mode(0o700);
        }
        match file.open(path) {
            Err(err) if err.kind() == ErrorKind::NotFound => {
                folder.create(&self.folder)?;
                file.open(path)
            }
            opened => opened,
        }
    }

    fn update(&self, name: &str, state: &SessionState, expires_on: u64) -> io::Result<()> {
        match self.read(name)? {
            // Signing in again makes a new session; until then the end of this one
            // stays what it is.
            Some((_, end)) if is_signed_in(state) => self.replace(name, state, end),
            Some(_) => self.replace(name, state, expires_on),
            None => Ok(()),
        }
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Removes what has ended, at start and from then on, on a thread of its
    /// own: a request waits for one removal at most.
    fn sweep_while_running(self: Arc<Self>, lifetime: u64) {
        let pause = Duration::from_secs(lifetime.min(60));
        // At start, what a crash left half written goes as well.
        let mut until = SystemTime::now();
        thread::spawn(move || {
            loop {
                match self.sweep(until) {
                    Ok(0) => {}
                    Ok(removed) => info!("removed {removed} expired sessions"),
                    Err(err) => warn!("expired sessions cannot be removed: {:?}", err.to_string()),
                }
                thread::sleep(pause);
                // What is newer may be half written, being written at the moment, and a
                // session that nobody has signed in to has not ended. Others stay so much
                // longer, but count as none.
                until = SystemTime::now() - Duration::from_secs(lifetime.min(SIGNED_OUT_LIFETIME));
            }
        });
    }

    /// Looks at the sessions whose file's time is not after `until`, and returns
    /// how many files were removed: expired sessions, rubbish, and what a crash
    /// left unfinished.
    fn sweep(self: &Arc<Self>, until: SystemTime) -> io::Result<usize> {
        let mut removed = 0;
        for (seen, entry) in fs::read_dir(&self.folder)?.enumerate() {
            let path = entry?.path();
            if self.has_ended(&path, until) {
                // Looked at again, because in between it may have been replaced.
                let remove = self.request(move |files| files.has_ended(&path, until) && fs::remove_file(&path).is_ok());
                removed += usize::from(remove.blocking_recv() == Ok(true));
            }
            if seen % 64 == 63 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(removed)
    }

    fn has_ended(&self, path: &Path, until: SystemTime) -> bool {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let (name, kind) = file_name.split_once('.').unwrap_or_default();
        // Nothing but our own files, should the folder be shared with others after
        // all.
        if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return false;
        }
        let Ok(time) = fs::metadata(path).and_then(|file| file.modified()) else { return false };
        match kind {
            "json" => time <= until && matches!(self.read(name), Ok(None)),
            // No write takes a minute.
            _ => kind.ends_with(".tmp") && time.elapsed().is_ok_and(|age| age > Duration::from_secs(60)),
        }
    }
}

/// Sessions in Redis, which forgets them by itself when they end.
#[derive(Clone)]
pub struct SessionsInRedis(ConnectionManager);

impl SessionsInRedis {
    async fn open(address: &str) -> anyhow::Result<Self> {
        // A Redis out of order must cost a page seconds, not minutes.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(0);
        let redis = Self(ConnectionManager::new_with_config(Client::open(address)?, config).await?);
        // Changes nothing, but needs all that a real update needs.
        redis.update("", HashMap::from([("user".into(), "0".into())]), 1).await?;
        Ok(redis)
    }

    /// Asks twice, if need be: the manager replaces a broken connection, but
    /// only after it has failed a command. Every command here may be repeated.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut redis = self.0.clone();
        match command.query_async(&mut redis).await {
            Err(err) if err.is_io_error() => command.query_async(&mut redis).await,
            answered => answered,
        }
    }

    /// Other applications may use the same Redis.
    fn key(name: &str) -> String {
        format!("rust-webapp-session:{name}")
    }

    async fn load(&self, name: &str) -> anyhow::Result<Option<SessionState>> {
        let json: Option<Vec<u8>> = self.ask(redis::cmd("GET").arg(Self::key(name))).await?;
        Ok(json.and_then(|json| from_json(&json, name)).map(|(state, _)| state))
    }

    async fn save(&self, name: &str, state: SessionState, lifetime: u64) -> anyhow::Result<()> {
        let json = to_json(&state, None);
        Ok(self.ask(redis::cmd("SET").arg((Self::key(name), json, "EX", lifetime))).await?)
    }

    /// One command, so that nothing happens in between: XX writes only what is
    /// still there, KEEPTTL leaves its end alone.
    async fn update(&self, name: &str, state: SessionState, lifetime: u64) -> anyhow::Result<()> {
        let mut command = redis::cmd("SET");
        let signed_in = is_signed_in(&state);
        command.arg((Self::key(name), to_json(&state, None), "XX"));
        if signed_in {
            command.arg("KEEPTTL")
        } else {
            command.arg(("EX", lifetime))
        };
        Ok(self.ask(&command).await?)
    }

    async fn delete(&self, name: &str) -> anyhow::Result<()> {
        Ok(self.ask(redis::cmd("DEL").arg(Self::key(name))).await?)
    }
}
