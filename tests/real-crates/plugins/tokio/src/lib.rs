//! Uses tokio as any program does: a TCP server and client, the clock, files (on its blocking pool), tasks.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use common::check;
use oxide_plugin_api::prelude::*;
use tempfile::TempDir;
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{interval, sleep, timeout},
};

struct Running {
    address: SocketAddr,
    folder: TempDir,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Server(Option<Running>);

async fn serve(listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((mut stream, _)) = accepted else { break };
                connections.spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = stop.changed() => break,
        }
    }
}

impl Module for Server {
    fn metadata(&self) -> ModuleMetadata {
        common::metadata!()
    }

    async fn start(&mut self) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, stopped));
        self.0 = Some(Running { address, folder: TempDir::new()?, stop, server });
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        if method != "use" {
            return Err(Error::unknown_method(method));
        }
        let seed: u64 = payload.to_json()?;
        let running = self.0.as_ref().ok_or_else(|| Error::new("not started"))?;

        let mut stream = TcpStream::connect(running.address).await?;
        stream.write_all(&seed.to_le_bytes()).await?;
        stream.shutdown().await?;
        let mut reply = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut reply)).await??;
        check(reply == seed.to_le_bytes(), "the echo")?;

        let mut ticks = interval(Duration::from_micros(200));
        ticks.tick().await;
        ticks.tick().await;
        let late = timeout(Duration::from_micros(100), sleep(Duration::from_secs(60))).await;
        check(late.is_err(), "the clock")?;

        let path = running.folder.path().join(format!("{seed}.txt"));
        fs::write(&path, seed.to_string()).await?;
        check(fs::read_to_string(&path).await? == seed.to_string(), "the file")?;
        fs::remove_file(&path).await?;

        let sum = tokio::task::spawn_blocking(move || (0..1_000_u64).sum::<u64>()).await?;
        check(sum == 499_500, "the sum")?;
        Ok("ok".into())
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(running) = self.0.take() {
            let _ = running.stop.send(true);
            running.server.await?;
        }
        Ok(())
    }
}

export_module!(Server);
