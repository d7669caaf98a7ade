//! Sessions in files, for one process. On Unix, only the app's user can open the folder.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use actix_session::storage::{
    LoadError, SaveError, SessionKey, SessionStore, UpdateError, generate_session_key,
};
use actix_web::cookie::time::{self, OffsetDateTime};
use actix_web::web;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{State, Values, name_of, parse, to_state, to_values};

/// The longest time between two sweeps, and the age of a file that a crash has left behind.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// A folder of session files.
#[derive(Clone)]
pub struct FileSessions {
    folder: PathBuf,
    /// Held while a file is changed, and shared by those who read. On Windows, a file that
    /// is being read cannot always be replaced.
    lock: Arc<RwLock<()>>,
}

/// A session file.
#[derive(Serialize, Deserialize)]
struct SessionFile {
    /// Unix time.
    expires_on: i64,
    values: Values,
}

impl FileSessions {
    /// Opens the folder, makes it if it is missing, and checks that the app can write to it
    /// and that no other user can open it. Removes sessions that have ended, at once and
    /// then at least every half a minute.
    pub fn open(folder: &Path, lifetime: Duration) -> io::Result<Self> {
        let sessions = Self { folder: folder.to_owned(), lock: Arc::default() };
        let check = folder.join("session-check.tmp");
        sessions.write_file(&check, b"")?;
        let _ = fs::remove_file(check);
        #[cfg(unix)]
        if fs::metadata(folder)?.permissions().mode() & 0o77 != 0 {
            let problem = "other users can open it; choose a new folder, or take their rights away \
                           with `chmod 700`";
            return Err(io::Error::new(ErrorKind::PermissionDenied, problem));
        }
        let swept = sessions.clone();
        thread::spawn(move || {
            loop {
                if let Err(err) = swept.remove_expired() {
                    warn!("expired sessions cannot be removed: {err}");
                }
                thread::sleep(lifetime.min(HALF_A_MINUTE));
            }
        });
        Ok(sessions)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// Reads a session that has not expired.
    fn read(&self, name: &str) -> io::Result<Option<SessionFile>> {
        let json = match fs::read(self.path(name)) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            json => json?,
        };
        Ok(parse(name, &json).filter(|session: &SessionFile| now() < session.expires_on))
    }

    /// Writes a file beside the session and renames it. A crash leaves the old session or
    /// the new one, not half of it.
    fn write(&self, name: &str, state: State, expires_on: i64) -> io::Result<()> {
        let session = SessionFile { expires_on, values: to_values(state)? };
        let json = serde_json::to_vec_pretty(&session)?;
        let new = self.folder.join(format!("{name}.tmp"));
        let written = self.write_file(&new, &json).and_then(|()| fs::rename(&new, self.path(name)));
        if written.is_err() {
            let _ = fs::remove_file(new);
        }
        written
    }

    /// Writes a file with mode 0600, and makes the folder with mode 0700 if it is missing.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (mut folder, mut file) = (DirBuilder::new(), OpenOptions::new());
        #[cfg(unix)]
        {
            folder.mode(0o700);
            file.mode(0o600);
        }
        folder.recursive(true).create(&self.folder)?;
        file.write(true).create(true).truncate(true).open(path)?.write_all(bytes)
    }

    /// Makes a change on a thread that may wait for the disk, one change at a time.
    async fn change(
        &self,
        change: impl FnOnce(&Self) -> io::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let sessions = self.clone();
        let changed = web::block(move || {
            let _lock = sessions.lock.write().unwrap_or_else(PoisonError::into_inner);
            change(&sessions)
        });
        Ok(changed.await??)
    }

    /// Removes sessions that have ended, and what a crash has left behind. Other apps may
    /// have files in the same folder.
    fn remove_expired(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let hash = name.strip_prefix("session-").unwrap_or_default();
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                continue;
            }
            let _lock = self.lock.write().unwrap_or_else(PoisonError::into_inner);
            // A sign-out can remove the file at the same time.
            let (Ok(json), Ok(file)) = (fs::read(&path), fs::metadata(&path)) else { continue };
            let is_old = file.modified()?.elapsed().is_ok_and(|age| age > HALF_A_MINUTE);
            let session = serde_json::from_slice::<SessionFile>(&json);
            let has_ended = match (path.extension().and_then(|end| end.to_str()), session) {
                (Some("json"), Ok(session)) => session.expires_on <= now(),
                // A damaged session, or a file that was not renamed.
                (Some("json" | "tmp"), _) => is_old,
                _ => false,
            };
            if has_ended {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

impl SessionStore for FileSessions {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        // The file is small, so this thread can read it.
        let _lock = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        let session = self.read(&name_of(key)).map_err(|err| LoadError::Other(err.into()))?;
        Ok(session.map(|session| to_state(session.values)))
    }

    async fn save(&self, state: State, ttl: &time::Duration) -> Result<SessionKey, SaveError> {
        let key = generate_session_key();
        let (name, expires_on) = (name_of(&key), now() + ttl.whole_seconds());
        let saved = self.change(move |sessions| sessions.write(&name, state, expires_on)).await;
        saved.map(|()| key).map_err(SaveError::Other)
    }

    async fn update(
        &self,
        key: SessionKey,
        state: State,
        _ttl: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        let name = name_of(&key);
        let updated = self.change(move |sessions| match sessions.read(&name)? {
            Some(old) => sessions.write(&name, state, old.expires_on),
            None => Ok(()),
        });
        updated.await.map(|()| key).map_err(UpdateError::Other)
    }

    async fn update_ttl(&self, _key: &SessionKey, _ttl: &time::Duration) -> anyhow::Result<()> {
        Ok(())
    }

    async fn delete(&self, key: &SessionKey) -> anyhow::Result<()> {
        let path = self.path(&name_of(key));
        let deleted = self.change(|_| match fs::remove_file(path) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        });
        deleted.await
    }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
