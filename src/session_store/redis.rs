//! Sessions in Redis, for several processes. Redis removes sessions that have expired.

use std::time::Duration;

use actix_session::storage::{
    LoadError, SaveError, SessionKey, SessionStore, UpdateError, generate_session_key,
};
use actix_web::cookie::time;
use anyhow::{Result, bail};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, RedisError, RedisResult, ToRedisArgs, Value, cmd};

use super::{State, name_of, parse, to_state, to_values};

/// A connection to Redis. If the connection breaks, a later command makes a new one.
#[derive(Clone)]
pub struct RedisSessions(ConnectionManager);

impl RedisSessions {
    /// Connects to the Redis at `address`, and checks that the app can write to it.
    pub async fn open(address: &str) -> Result<Self> {
        // If Redis does not answer, a page waits for a second, not for minutes.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_with_config(Client::open(address)?, config).await?;
        let sessions = Self(manager);
        // In a cluster, most sessions are on other nodes. This command fails without a
        // cluster, or if this user may not use it.
        let is_cluster = sessions.ask::<Value>(cmd("CLUSTER").arg("INFO")).await.is_ok();
        // Check that the app can write. There is never a session with this name.
        let write: RedisResult<()> =
            sessions.ask(cmd("SET").arg(("rust-webapp:session-", "", "XX", "KEEPTTL"))).await;
        if is_cluster || write.as_ref().is_err_and(RedisError::is_cluster_error) {
            bail!(
                "this is a node of a cluster, which this app cannot use; choose a Redis without \
                 cluster mode, on Azure Managed Redis with the clustering policy Enterprise or \
                 Non-clustered"
            );
        }
        write?;
        Ok(sessions)
    }

    /// Sends a command. If the connection was broken, sends it again, because the manager
    /// makes a new connection only after a command has failed.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut manager = self.0.clone();
        match command.query_async(&mut manager).await {
            Err(err) if err.is_io_error() => command.query_async(&mut manager).await,
            answer => answer,
        }
    }

    /// Stores a session. The options are arguments of the command SET.
    async fn set(&self, key: &SessionKey, state: State, options: impl ToRedisArgs) -> Result<()> {
        let json = serde_json::to_vec(&to_values(state)?)?;
        Ok(self.ask(cmd("SET").arg(redis_key(key)).arg(json).arg(options)).await?)
    }
}

impl SessionStore for RedisSessions {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        let json = self.ask::<Option<Vec<u8>>>(cmd("GET").arg(redis_key(key))).await;
        let json = json.map_err(|err| LoadError::Other(err.into()))?;
        Ok(json.and_then(|json| parse(&name_of(key), &json)).map(to_state))
    }

    async fn save(&self, state: State, ttl: &time::Duration) -> Result<SessionKey, SaveError> {
        let key = generate_session_key();
        let saved = self.set(&key, state, ("EX", ttl.whole_seconds())).await;
        saved.map(|()| key).map_err(SaveError::Other)
    }

    /// XX changes only a session that exists. KEEPTTL does not extend it.
    async fn update(
        &self,
        key: SessionKey,
        state: State,
        _ttl: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        let updated = self.set(&key, state, ("XX", "KEEPTTL")).await;
        updated.map(|()| key).map_err(UpdateError::Other)
    }

    async fn update_ttl(&self, _key: &SessionKey, _ttl: &time::Duration) -> Result<()> {
        Ok(())
    }

    async fn delete(&self, key: &SessionKey) -> Result<()> {
        Ok(self.ask(cmd("DEL").arg(redis_key(key))).await?)
    }
}

/// Other apps may use the same Redis.
fn redis_key(key: &SessionKey) -> String {
    format!("rust-webapp:{}", name_of(key))
}
