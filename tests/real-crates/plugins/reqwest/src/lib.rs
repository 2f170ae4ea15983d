//! An HTTPS server on the loopback, of hyper and rustls with a certificate of rcgen's, and a reqwest client that
//! asks it, by name: `localhost` goes through the system's resolver.
#![forbid(unsafe_code)]

use std::{convert::Infallible, sync::Arc};

use common::check;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use oxide_plugin_api::prelude::*;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

struct Running {
    client: reqwest::Client,
    url: String,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Https(Option<Running>);

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = json!({ "path": path, "length": body.len() }).to_string();
    Ok(Response::new(Full::new(text.into())))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { break };
                let tls = tls.clone();
                connections.spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                    }
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = stop.changed() => break,
        }
    }
    connections.shutdown().await;
}

fn server_config(key: &rcgen::KeyPair, certificate: CertificateDer<'static>) -> Result<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?)
}

fn client_config(certificate: CertificateDer<'static>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

impl Module for Https {
    fn metadata(&self) -> ModuleMetadata {
        common::metadata!()
    }

    async fn start(&mut self) -> Result<()> {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = own.cert.der().clone();
        let tls = TlsAcceptor::from(Arc::new(server_config(&own.signing_key, certificate.clone())?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://localhost:{}", listener.local_addr()?.port());
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, tls, stopped));
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(certificate)?)
            .no_proxy()
            .build()?;
        self.0 = Some(Running { client, url, stop, server });
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        if method != "use" {
            return Err(Error::unknown_method(method));
        }
        let seed: u64 = payload.to_json()?;
        let running = self.0.as_ref().ok_or_else(|| Error::new("not started"))?;
        let request = running.client.post(format!("{}/{seed}", running.url)).body(vec![7_u8; 10_000]);
        let reply: Value = request.send().await?.error_for_status()?.json().await?;
        check(reply == json!({ "path": format!("/{seed}"), "length": 10_000 }), "the reply")?;
        let plain = running.client.get(running.url.replace("https", "http")).send().await;
        check(plain.is_err(), "that the server speaks without TLS")?;
        Ok("ok".into())
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(Running { client, stop, server, .. }) = self.0.take() {
            drop(client);
            let _ = stop.send(true);
            server.await?;
        }
        Ok(())
    }
}

export_module!(Https);
