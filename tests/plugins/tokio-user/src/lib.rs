//! A plugin that uses tokio in its hooks as any program does: sleeps, tasks and sockets.
//!
//! - `sleep` waits a moment on tokio's clock;
//! - `spawn` replies what a tokio task was given;
//! - `loopback` sends its payload through a TCP connection to the server that `start` began, and replies what
//!   came back.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use oxide_plugin_api::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::sleep,
};

/// Long enough to need the clock.
const MOMENT: Duration = Duration::from_millis(5);

/// The module.
#[derive(Default)]
struct TokioUser {
    server: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
}

/// Sends back what each connection brings, until it is told to stop.
async fn serve(listener: TcpListener, mut stop: oneshot::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return,
        };
        let Ok((mut stream, _)) = accepted else { return };
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).await.is_ok() {
                let _ = stream.write_all(&bytes).await;
            }
        });
    }
}

impl Module for TokioUser {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "tokio-user".into(),
            name: "Tokio user".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn configure(&mut self, _: serde_json::Value) -> Result<()> {
        sleep(MOMENT).await;
        Ok(())
    }

    async fn init(&mut self, _: MessageBus) -> Result<()> {
        // Never ends by itself: the unload has to end it.
        tokio::spawn(async {
            loop {
                sleep(MOMENT).await;
            }
        });
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        self.server = Some(listener.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        tokio::spawn(serve(listener, stopped));
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "sleep" => {
                sleep(MOMENT).await;
                Ok(payload)
            }
            "spawn" => Ok(tokio::spawn(async move { payload }).await?),
            "loopback" => {
                let server = self.server.ok_or_else(|| Error::new("not started"))?;
                let mut stream = TcpStream::connect(server).await?;
                stream.write_all(payload.as_bytes()).await?;
                stream.shutdown().await?;
                let mut reply = Vec::new();
                stream.read_to_end(&mut reply).await?;
                Ok(reply.into())
            }
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        sleep(MOMENT).await;
        Ok(())
    }
}

export_module!(TokioUser);
