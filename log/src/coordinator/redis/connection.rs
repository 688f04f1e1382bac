//! One connection for commands, made when it is needed and dropped when it may be broken.
//!
//! The connection manager of the client library keeps a connection on which answers do not come any more, as one to a
//! machine that is gone; here a call without an answer costs the connection, and the next call makes a new one.

use std::future::Future;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::coordinator::CoordinatorError;
use crate::limits::REDIS_CALL_MAX;

/// Codes of refusals that end by themselves: no disk, no memory, no replica, a script of somebody else under way.
const PASSING: [&str; 4] = ["MISCONF", "OOM", "NOREPLICAS", "BUSY"];

/// The way to one server.
pub(super) struct Connection {
    client: Client,
    current: Mutex<Current>,
    /// Held by who makes the next one, so that callers share it.
    making: AsyncMutex<()>,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections, so that only the one that failed is dropped.
    number: u64,
}

impl Connection {
    /// Prepares connections; none is made yet.
    pub(super) fn new(info: ConnectionInfo) -> Result<Self, CoordinatorError> {
        let client = Client::open(info).map_err(coordinator_error)?;
        Ok(Self { client, current: Mutex::default(), making: AsyncMutex::default() })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Makes one call, and the connection for it if there is none.
    pub(super) async fn call<T, F>(
        &self,
        run: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, CoordinatorError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut used = None;
        let call = async {
            let (connection, number) = self.connection().await?;
            used = Some(number);
            run(connection).await
        };
        let answer = tokio::time::timeout(REDIS_CALL_MAX, call).await;
        let may_be_broken = match &answer {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => !is_alive(error),
            Err(_) => true,
        };
        if let Some(number) = used.filter(|_| may_be_broken) {
            let mut current = self.current.lock();
            if current.number == number {
                current.connection = None;
            }
        }
        match answer {
            Ok(answer) => answer.map_err(coordinator_error),
            Err(_) => Err(CoordinatorError::TimedOut { limit: REDIS_CALL_MAX }),
        }
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let _making = self.making.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        // The limit of the whole call holds for both.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut current = self.current.lock();
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((connection, current.number))
    }

    fn current(&self) -> Option<(MultiplexedConnection, u64)> {
        let current = self.current.lock();
        current.connection.clone().map(|connection| (connection, current.number))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client would show the password.
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Tells whether the server answered, and is one that takes writes: a primary that became a replica will not again,
/// and its name may lead elsewhere by now.
fn is_alive(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(kind) if kind != ServerErrorKind::ReadOnly)
        || error.kind() == ErrorKind::Extension
}

/// Says in our words what went wrong.
pub(super) fn coordinator_error(error: RedisError) -> CoordinatorError {
    let passes = match error.kind() {
        ErrorKind::Io => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain
        ),
        _ => error.code().is_some_and(|code| PASSING.contains(&code)),
    };
    let reason = error.to_string();
    if passes { CoordinatorError::Unavailable { reason } } else { CoordinatorError::Refused { reason } }
}
