//! Where sessions live: `SESSION_TYPE = "filesystem"` keeps one readable JSON file a session, `"redis"` one value.
//!
//! The browser has only the session id, in a signed cookie; tokens never leave the server. actix-session loads a session
//! before the handler runs and writes it back, whole, after it. Three rules hold with both kinds:
//! - An update never brings back a session that was deleted meanwhile: signing out wins.
//! - A session that nobody has signed in to ends after ten minutes, so visitors who never sign in leave little behind.
//! - A session that someone has signed in to ends PERMANENT_SESSION_LIFETIME after the sign-in, however busy it is.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_session::storage::{self, LoadError, SaveError, SessionKey, UpdateError, generate_session_key};
use actix_web::cookie::time;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::settings::Settings;

/// A session in actix-session's form: each value is JSON text.
type SessionState = HashMap<String, String>;

/// How long a session lasts that nobody has signed in to, in seconds: as long as one sign-in may take.
const SIGNED_OUT_LIFETIME: u64 = 600;

/// The key of a session file that says when the session ends, in seconds since 1970. Redis keeps that by itself.
const EXPIRES_ON: &str = "expires_on";

/// The store that SESSION_TYPE names.
#[derive(Clone)]
pub enum SessionStore {
    /// One file a session.
    Filesystem(SessionFiles),
    /// One value a session, shared by all processes that use the same Redis.
    Redis(ConnectionManager),
}

impl SessionStore {
    /// Opens the store and checks that it works.
    ///
    /// # Errors
    /// One line that names the setting and what is wrong.
    pub async fn open(settings: &Settings) -> Result<Self, String> {
        if !settings.session_in_redis {
            let folder = settings.session_file_dir.clone();
            let files = SessionFiles::open(&folder).map_err(|err| {
                format!("SESSION_FILE_DIR = {folder:?}: {err}; accepted is a folder that the app may write to")
            })?;
            let pause = settings.permanent_session_lifetime.clamp(1, 60);
            files.clone().sweep_every(Duration::from_secs(pause.into()));
            return Ok(Self::Filesystem(files));
        }
        // A store out of order must cost a page seconds, not minutes.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(1);
        let connected = async {
            ConnectionManager::new_with_config(redis::Client::open(settings.session_redis.as_str())?, config).await
        };
        // The address may hold a password: only what Redis or the system answered is shown.
        connected
            .await
            .map(Self::Redis)
            .map_err(|err| format!("SESSION_REDIS: no Redis answers at that address: {err}"))
    }
}

/// The name under which a session is kept: no session id can be read from the store, and no id can name another path.
fn name_of(key: &SessionKey) -> String {
    Sha256::digest(key.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Logs the cause here, because actix-session's own errors keep it to themselves.
fn out_of_order(cause: impl Display) -> anyhow::Error {
    error!("the session store is out of order: {:?}", cause.to_string());
    anyhow::anyhow!("the session store is out of order")
}

impl storage::SessionStore for SessionStore {
    async fn load(&self, key: &SessionKey) -> Result<Option<SessionState>, LoadError> {
        let name = name_of(key);
        let loaded = match self {
            Self::Filesystem(files) => {
                let files = files.clone();
                spawn_blocking(move || files.load(&name)).await.map_err(out_of_order).and_then(|loaded| loaded)
            }
            Self::Redis(redis) => redis::cmd("GET")
                .arg(redis_key(&name))
                .query_async::<Option<Vec<u8>>>(&mut redis.clone())
                .await
                .map(|value| value.and_then(|value| parse(&value, &name)).map(|(state, _)| state))
                .map_err(out_of_order),
        };
        loaded.map_err(LoadError::Other)
    }

    async fn save(&self, state: SessionState, ttl: &time::Duration) -> Result<SessionKey, SaveError> {
        let key = generate_session_key();
        let name = name_of(&key);
        let lifetime = lifetime_of(&state, ttl);
        match self {
            Self::Filesystem(files) => {
                let files = files.clone();
                spawn_blocking(move || files.write(&name, state, now() + lifetime))
                    .await
                    .map_err(out_of_order)
                    .and_then(|saved| saved)
            }
            Self::Redis(redis) => match to_json(state, None) {
                Ok(json) => redis::cmd("SET")
                    .arg((redis_key(&name), json, "EX", lifetime))
                    .query_async::<()>(&mut redis.clone())
                    .await
                    .map_err(out_of_order),
                Err(err) => Err(out_of_order(err)),
            },
        }
        .map_err(SaveError::Other)?;
        Ok(key)
    }

    /// Replaces a session that still exists; one that is gone stays gone, and the browser's cookie then names nothing.
    async fn update(
        &self,
        key: SessionKey,
        state: SessionState,
        ttl: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        let name = name_of(&key);
        let lifetime = lifetime_of(&state, ttl);
        match self {
            Self::Filesystem(files) => {
                let files = files.clone();
                spawn_blocking(move || files.update(&name, state, now() + lifetime))
                    .await
                    .map_err(out_of_order)
                    .and_then(|updated| updated)
            }
            Self::Redis(redis) => {
                let mut command = redis::cmd("SET");
                let signed_in = is_signed_in(&state);
                match to_json(state, None) {
                    Ok(json) => {
                        command.arg((redis_key(&name), json, "XX"));
                        if signed_in {
                            command.arg("KEEPTTL")
                        } else {
                            command.arg(("EX", lifetime))
                        };
                        command.query_async::<()>(&mut redis.clone()).await.map_err(out_of_order)
                    }
                    Err(err) => Err(out_of_order(err)),
                }
            }
        }
        .map_err(UpdateError::Other)?;
        Ok(key)
    }

    async fn update_ttl(&self, key: &SessionKey, ttl: &time::Duration) -> Result<(), anyhow::Error> {
        let name = name_of(key);
        let lifetime = ttl.whole_seconds().unsigned_abs();
        match self {
            Self::Filesystem(files) => {
                let files = files.clone();
                spawn_blocking(move || files.extend(&name, now() + lifetime)).await.map_err(out_of_order)?
            }
            Self::Redis(redis) => redis::cmd("EXPIRE")
                .arg((redis_key(&name), lifetime))
                .query_async::<()>(&mut redis.clone())
                .await
                .map_err(out_of_order),
        }
    }

    async fn delete(&self, key: &SessionKey) -> Result<(), anyhow::Error> {
        let name = name_of(key);
        match self {
            Self::Filesystem(files) => {
                let files = files.clone();
                spawn_blocking(move || files.delete(&name)).await.map_err(out_of_order)?
            }
            Self::Redis(redis) => redis::cmd("DEL")
                .arg(redis_key(&name))
                .query_async::<()>(&mut redis.clone())
                .await
                .map_err(out_of_order),
        }
    }
}

/// Other applications may use the same Redis.
fn redis_key(name: &str) -> String {
    format!("rust-webapp-session:{name}")
}

/// Writes a session as JSON that a person can read: each value is the JSON that the handler put there, not a text of it.
fn to_json(state: SessionState, expires_on: Option<u64>) -> serde_json::Result<Vec<u8>> {
    let mut values = BTreeMap::new();
    if let Some(expires_on) = expires_on {
        values.insert(EXPIRES_ON.to_owned(), to_raw_value(&expires_on)?);
    }
    for (key, value) in state {
        values.insert(key, RawValue::from_string(value)?);
    }
    serde_json::to_vec_pretty(&values)
}

/// Reads what `to_json` wrote. Anything else is no session: the user signs in again.
fn parse(json: &[u8], name: &str) -> Option<(SessionState, u64)> {
    match serde_json::from_slice::<HashMap<String, Box<RawValue>>>(json) {
        Ok(mut values) => {
            let expires_on = values.remove(EXPIRES_ON).and_then(|value| value.get().parse().ok());
            let state = values.into_iter().map(|(key, value)| (key, String::from(Box::<str>::from(value))));
            Some((state.collect(), expires_on.unwrap_or(0)))
        }
        Err(err) => {
            warn!(
                "session {name} holds no session, so it counts as none: line {}, column {}",
                err.line(),
                err.column()
            );
            None
        }
    }
}

/// Session files in one folder, used by one process.
#[derive(Clone)]
pub struct SessionFiles {
    folder: PathBuf,
    /// Held while a file is looked at and then replaced or removed, so that nothing happens to it in between.
    looking: Arc<Mutex<()>>,
}

impl SessionFiles {
    fn open(folder: &Path) -> io::Result<Self> {
        let files = Self { folder: folder.to_owned(), looking: Arc::default() };
        let probe = files.folder.join("probe.tmp");
        files.create(&probe)?;
        fs::remove_file(&probe)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("json")
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a panic of another holder leaves nothing half done.
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, name: &str) -> Result<Option<SessionState>, anyhow::Error> {
        Ok(self.read(name)?.map(|(state, _)| state))
    }

    /// The session and when it ends, unless it has ended.
    fn read(&self, name: &str) -> Result<Option<(SessionState, u64)>, anyhow::Error> {
        match fs::read(self.path(name)) {
            Ok(json) => Ok(parse(&json, name).filter(|(_, expires_on)| now() < *expires_on)),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(out_of_order(err)),
        }
    }

    /// Writes beside the file and then renames, so that a reader, or a crash, finds the old session or the new one, whole.
    fn write(&self, name: &str, state: SessionState, expires_on: u64) -> Result<(), anyhow::Error> {
        let json = to_json(state, Some(expires_on)).map_err(out_of_order)?;
        let unfinished = self.folder.join(format!("{name}.{:016x}.tmp", rand::random::<u64>()));
        self.create(&unfinished)
            .and_then(|mut file| file.write_all(&json))
            .and_then(|()| fs::rename(&unfinished, self.path(name)))
            .map_err(|err| {
                // Best effort: the sweep removes what is left.
                let _ = fs::remove_file(&unfinished);
                out_of_order(err)
            })
    }

    /// A new file that only this user can read, in a folder that only this user can enter.
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut file = OpenOptions::new();
        let mut folder = DirBuilder::new();
        file.write(true).create(true).truncate(true);
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

    fn update(&self, name: &str, state: SessionState, expires_on: u64) -> Result<(), anyhow::Error> {
        let _looking = self.lock();
        match self.read(name)? {
            // Signing in again makes a new session; until then the end of this one stays what it is.
            Some((_, end)) if is_signed_in(&state) => self.write(name, state, end),
            Some(_) => self.write(name, state, expires_on),
            None => Ok(()),
        }
    }

    fn extend(&self, name: &str, expires_on: u64) -> Result<(), anyhow::Error> {
        let _looking = self.lock();
        self.read(name)?.map_or(Ok(()), |(state, _)| self.write(name, state, expires_on))
    }

    fn delete(&self, name: &str) -> Result<(), anyhow::Error> {
        let _looking = self.lock();
        match fs::remove_file(self.path(name)) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(out_of_order(err)),
            _ => Ok(()),
        }
    }

    /// Removes what has ended, at start and from then on, on a thread of its own: requests do not wait for it.
    fn sweep_every(self, pause: Duration) {
        thread::spawn(move || {
            loop {
                match self.sweep() {
                    Ok(0) => {}
                    Ok(removed) => info!("removed {removed} expired sessions"),
                    Err(err) => warn!("expired sessions cannot be removed: {:?}", err.to_string()),
                }
                thread::sleep(pause);
            }
        });
    }

    /// Returns how many files were removed: expired sessions, rubbish, and what a crash left unfinished.
    fn sweep(&self) -> io::Result<usize> {
        let mut removed = 0;
        for (seen, entry) in fs::read_dir(&self.folder)?.enumerate() {
            let path = entry?.path();
            let extension = path.extension().unwrap_or_default();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            // Nothing but our own files, should the folder be shared with others after all.
            let is_ours = name.len() >= 64 && name.bytes().take(64).all(|byte| byte.is_ascii_hexdigit());
            let has_ended = || match extension.to_str() {
                Some("json") => matches!(self.read(&name), Ok(None)),
                // No write takes a minute.
                Some("tmp") => fs::metadata(&path)
                    .and_then(|file| file.modified())
                    .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(60))),
                _ => false,
            };
            if is_ours && has_ended() {
                let _looking = self.lock();
                if has_ended() && fs::remove_file(&path).is_ok() {
                    removed += 1;
                }
            }
            if seen % 64 == 63 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(removed)
    }
}
