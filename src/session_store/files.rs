//! Sessions in files, for one process. Only the user who runs the app can open the folder.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use actix_session::storage::{
    LoadError, SaveError, SessionKey, SessionStore, UpdateError, generate_session_key,
};
use actix_web::cookie::time::{self, OffsetDateTime};
use actix_web::web;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tracing::warn;

use super::{State, Values, name_of, to_state, to_values};

/// A folder of session files.
#[derive(Clone)]
pub struct FileSessions {
    folder: PathBuf,
    /// Held while a session is read and then changed.
    lock: Arc<Mutex<()>>,
}

/// A session file.
#[derive(Serialize, Deserialize)]
struct SessionFile {
    /// Unix time.
    expires_on: i64,
    values: Values,
}

impl FileSessions {
    /// Opens the folder, makes it if it is missing, and checks that the app can write to it.
    /// Removes files that are older than `lifetime`, at once and then every minute.
    pub fn open(folder: &Path, lifetime: Duration) -> io::Result<Self> {
        let sessions = Self { folder: folder.to_owned(), lock: Arc::default() };
        sessions.temporary_file()?;
        let swept = sessions.clone();
        thread::spawn(move || {
            loop {
                if let Err(err) = swept.remove_expired(lifetime) {
                    warn!("expired sessions cannot be removed: {err}");
                }
                thread::sleep(lifetime.min(Duration::from_secs(60)));
            }
        });
        Ok(sessions)
    }

    /// Makes a file with mode 0600, and the folder if it is missing.
    fn temporary_file(&self) -> io::Result<NamedTempFile> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&self.folder)?;
        tempfile::Builder::new().prefix("session-").tempfile_in(&self.folder)
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
        let session = serde_json::from_slice(&json).inspect_err(|err| {
            warn!("{name}.json is not a session and is treated as missing: {err}");
        });
        Ok(session.ok().filter(|session: &SessionFile| now() < session.expires_on))
    }

    /// Writes a file beside the session and renames it. A reader, or a crash, finds the
    /// old session or the new one.
    fn write(&self, name: &str, state: State, expires_on: i64) -> io::Result<()> {
        let session = SessionFile { expires_on, values: to_values(state)? };
        let mut file = self.temporary_file()?;
        file.write_all(&serde_json::to_vec_pretty(&session)?)?;
        file.persist(self.path(name))?;
        Ok(())
    }

    /// Makes a change on a thread that may wait for the disk, one change at a time.
    async fn change(
        &self,
        change: impl FnOnce(&Self) -> io::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let sessions = self.clone();
        let changed = web::block(move || {
            let _lock = sessions.lock.lock().unwrap_or_else(PoisonError::into_inner);
            change(&sessions)
        });
        Ok(changed.await??)
    }

    /// A session ends at most `lifetime` after its file was written.
    fn remove_expired(&self, lifetime: Duration) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_session = entry.file_name().to_string_lossy().starts_with("session-");
            // A sign-out can remove the file at the same time.
            let written = entry.metadata().and_then(|file| file.modified());
            let age = written.ok().and_then(|written| written.elapsed().ok());
            if is_session && age.is_some_and(|age| age > lifetime) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

impl SessionStore for FileSessions {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        // The file is small, so this thread can read it.
        let session = self.read(&name_of(key)).map_err(|err| LoadError::Other(err.into()))?;
        Ok(session.map(|session| to_state(session.values)))
    }

    async fn save(&self, state: State, ttl: &time::Duration) -> Result<SessionKey, SaveError> {
        let key = generate_session_key();
        let (name, expires_on) = (name_of(&key), now() + ttl.whole_seconds());
        let saved = self.change(move |sessions| sessions.write(&name, state, expires_on));
        saved.await.map_err(SaveError::Other)?;
        Ok(key)
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
        updated.await.map_err(UpdateError::Other)?;
        Ok(key)
    }

    async fn update_ttl(&self, _key: &SessionKey, _ttl: &time::Duration) -> anyhow::Result<()> {
        Ok(())
    }

    async fn delete(&self, key: &SessionKey) -> anyhow::Result<()> {
        let name = name_of(key);
        let deleted = self.change(move |sessions| match fs::remove_file(sessions.path(&name)) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        });
        deleted.await
    }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
