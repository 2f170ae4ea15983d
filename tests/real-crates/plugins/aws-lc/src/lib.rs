//! Speaks TLS with rustls and `aws-lc-rs`, whose C library has thread-locals on pthread keys and a page that the
//! kernel wipes on a fork: a server on a thread of its own, the client on the caller's.
#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use common::check;
use oxide_plugin_api::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};

#[derive(Default)]
struct Tls(Option<(Arc<ServerConfig>, Arc<ClientConfig>)>);

fn configs() -> Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((Arc::new(server), Arc::new(client)))
}

fn echo_once(listener: &TcpListener, config: Arc<ServerConfig>) -> Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    stream.write_all(&bytes)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

impl Module for Tls {
    fn metadata(&self) -> ModuleMetadata {
        common::metadata!()
    }

    async fn start(&mut self) -> Result<()> {
        self.0 = Some(configs()?);
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        if method != "use" {
            return Err(Error::unknown_method(method));
        }
        let seed: u64 = payload.to_json()?;
        let (server, client) = self.0.clone().ok_or_else(|| Error::new("not started"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = thread::spawn(move || echo_once(&listener, server));
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let name = ServerName::try_from("localhost")?;
        let mut stream = StreamOwned::new(ClientConnection::new(client, name)?, stream);
        stream.write_all(&seed.to_le_bytes())?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        check(reply == seed.to_le_bytes(), "the echo")?;
        server.join().map_err(|_| Error::new("the server panicked"))??;
        Ok("ok".into())
    }

    async fn stop(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }
}

export_module!(Tls);
