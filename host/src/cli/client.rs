//! The client's end of the socket: HTTP/1.1, one connection per command.

use std::{fmt::Write, io::ErrorKind};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::Failure;
use crate::{
    daemon::{Endpoint, ErrorBody, ErrorReport},
    error::KernelError,
};

/// A connection to a running host.
pub(super) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    /// Connects, or says that no host is running.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, Failure> {
        endpoint.check()?;
        let path = endpoint.path();
        let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
            // Refused: the socket is there and its host is not, or the file is no socket.
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => no_host(endpoint),
            _ => Failure::io(&format!("reach the host on `{}`", path.display()), &error),
        })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        // Ends with the connection; what goes wrong in it is reported by the request.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends one request and gives the answer's head; the body is still to come.
    pub(super) async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "oxide-host")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::usage(format!("this cannot be asked: {error}")))?;
        // After the answer before this one has been read to its end.
        self.0.ready().await.map_err(|error| gone(&error))?;
        self.0.send_request(request).await.map_err(|error| gone(&error))
    }

    /// Sends one request and gives the whole answer, be it an error or not.
    pub(super) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        whole(self.request(method, path, body).await?).await
    }

    /// Sends one request and gives the answer's bytes; an answer that is an error becomes one here.
    pub(super) async fn bytes(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Failure> {
        let (status, bytes) = self.exchange(method, path, body).await?;
        if status.is_success() { Ok(bytes) } else { Err(error_of(status, &bytes)) }
    }

    /// The same for an answer in JSON.
    pub(super) async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let body = body.map(to_json).transpose()?.unwrap_or_default();
        parse(&self.bytes(method, path, body).await?)
    }

    /// `GET`, answered in JSON.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None::<&()>).await
    }
}

/// The status and all bytes of an answer.
pub(super) async fn whole(response: Response<Incoming>) -> Result<(StatusCode, Bytes), Failure> {
    let status = response.status();
    let bytes = response.into_body().collect().await.map_err(|error| gone(&error))?.to_bytes();
    Ok((status, bytes))
}

/// A request's body.
pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| Failure::usage(format!("this cannot be sent: {error}")))
}

/// An answer's body.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("the host's answer is not understood: {error}");
        Failure::new(ErrorReport::new("protocol", message))
            .hint("the host and this program may be of different versions")
    })
}

/// The error that an answer's body holds.
pub(super) fn error_of(status: StatusCode, bytes: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => Failure::remote(status, body.error),
        Err(_) => {
            let message = format!("the host answered with status {status} and no explanation");
            Failure::new(ErrorReport::new("protocol", message))
        }
    }
}

/// The path of a module, and of what is below it.
pub(super) fn module_path(id: &str, below: &[&str]) -> Result<String, Failure> {
    if id.is_empty() {
        // As a path it would name the list of all modules.
        return Err(KernelError::UnknownModule(String::new()).into());
    }
    let mut path = "/v1/modules".to_owned();
    for segment in std::iter::once(&id).chain(below) {
        path.push('/');
        path.push_str(&encode(segment));
    }
    Ok(path)
}

/// Percent-encodes everything that is not plain in every part of a URL.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn no_host(endpoint: &Endpoint) -> Failure {
    let message = format!("no host is running on `{}`", endpoint.path().display());
    Failure::new(ErrorReport::new("no_host", message))
        .hint("start one with `oxide-host run`, or with `oxide-host load PATH`")
}

fn gone(error: &hyper::Error) -> Failure {
    let mut report = ErrorReport::of("host_gone", error);
    report.chain.insert(0, "the host went away before it had answered".to_owned());
    report.message = report.chain.join(": ");
    Failure::new(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[test]
    fn ids_are_percent_encoded() {
        assert_eq!(module_path("echo", &[]).expect("a path"), "/v1/modules/echo");
        assert_eq!(
            module_path("a b/ü?#%", &["invoke", "x/y"]).expect("a path"),
            "/v1/modules/a%20b%2F%C3%BC%3F%23%25/invoke/x%2Fy"
        );
        assert_eq!(module_path("", &["start"]).expect_err("no id").exit, Exit::NoSuchModule);
    }
}
