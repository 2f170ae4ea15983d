//! Ties the API to a socket and to the life of the process.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::{
    Claim, SocketError,
    api::{App, router},
    journal::Journal,
    metrics::Counters,
};
use crate::{host::Host, report::Receipt};

/// How long answers that are on their way out may take once everything is unloaded.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A host with its socket.
pub struct Daemon {
    app: Arc<App>,
    listener: OwnerOnly,
    journal: JoinHandle<()>,
    ended: watch::Sender<bool>,
    claim: Arc<Claim>,
}

impl Daemon {
    /// Makes the socket. Connections wait in line until [`Daemon::serve`].
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn bind(host: Host, claim: Arc<Claim>) -> Result<Self, SocketError> {
        let listener = claim.bind()?;
        let listener = OwnerOnly::new(listener).map_err(|source| SocketError::Io {
            action: "listen on",
            path: claim.path().to_owned(),
            source,
        })?;
        let (ended, ended_receiver) = watch::channel(false);
        let (journal, journal_task) = Journal::keep(host.bus()).await;
        let app = App { host, journal, calls: Counters::default(), ended: ended_receiver };
        Ok(Self { app: Arc::new(app), listener, journal: journal_task, ended, claim })
    }

    /// Answers until `stop` is ready, then unloads everything, removes the socket and gives the receipts.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Vec<Receipt> {
        let Self { app, listener, journal, ended, claim } = self;
        let (close, closed) = oneshot::channel::<()>();
        let server = axum::serve(listener, router(app.clone())).with_graceful_shutdown(async {
            let _ = closed.await;
        });
        let mut server = tokio::spawn(server.into_future());
        stop.await;
        // Nobody new comes in. Those inside are answered by the unload: it drains their calls.
        let _ = close.send(());
        let receipts = app.host.shutdown().await;
        let _ = ended.send(true);
        if tokio::time::timeout(LAST_ANSWERS, &mut server).await.is_err() {
            tracing::warn!("some callers did not take their answers in time");
            server.abort();
        }
        journal.abort();
        claim.release();
        receipts
    }
}

/// Accepts connections of this user and of root. The socket's mode says the same; this also holds for the
/// moment in which the socket is there and its mode is not yet set.
struct OwnerOnly {
    listener: UnixListener,
    uid: u32,
}

impl OwnerOnly {
    fn new(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        Ok(Self { listener: UnixListener::from_std(listener)?, uid })
    }
}

impl Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.uid || peer.uid() == 0 => return (stream, address),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "turned away another user"),
                    Err(error) => tracing::warn!(%error, "turned away a caller that cannot be identified"),
                },
                Err(error) => {
                    // Usually there are no file descriptors left; they come back as callers leave.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
