//! The next build of `echo`, to swap to while it is being called: `oxide-host swap echo ./libecho2.so`.
//!
//! - `echo` and `upper` as before; it has no state, so a swap makes nobody wait;
//! - `version` says which build answers. The first one knows no such method.
#![forbid(unsafe_code)]

use oxide_plugin_api::prelude::*;

/// The module. Its id is still `echo`: another build of the same module.
#[derive(Default)]
struct Echo;

impl Module for Echo {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "echo".into(),
            name: "Echo".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "echo" => Ok(payload),
            "upper" => Ok(std::str::from_utf8(payload.as_bytes())?.to_uppercase().into()),
            "version" => Ok(env!("CARGO_PKG_VERSION").into()),
            other => Err(Error::unknown_method(other)),
        }
    }
}

export_module!(Echo);

#[cfg(test)]
mod tests {
    use oxide_plugin_api::{ErrorKind, testing::TestHost};

    use super::*;

    #[test]
    fn it_answers_as_the_build_before_did() -> Result<()> {
        let echo = TestHost::new().load_and_start(Echo)?;
        let sent = b"hi".to_vec();
        let address = sent.as_ptr();
        let reply = echo.invoke("echo", sent)?;
        assert_eq!((reply.as_bytes(), reply.as_bytes().as_ptr()), (&b"hi"[..], address));
        assert_eq!(echo.invoke("upper", "straße")?.as_bytes(), "STRASSE".as_bytes());
        assert!(echo.invoke("upper", b"\xff").is_err());
        assert_eq!(echo.invoke("ohce", b"").unwrap_err().kind(), ErrorKind::UnknownMethod);
        Ok(())
    }

    #[test]
    fn it_says_which_build_it_is() -> Result<()> {
        let echo = TestHost::new().load_and_start(Echo)?;
        assert_eq!(echo.metadata().id, "echo");
        assert_eq!(echo.invoke("version", b"")?.as_bytes(), b"0.2.0");
        assert_eq!(echo.metadata().version, "0.2.0");
        Ok(())
    }

    #[test]
    fn it_has_no_state() -> Result<()> {
        let mut echo = TestHost::new().load_and_start(Echo)?;
        assert_eq!(echo.save_state()?, None);
        assert_eq!(echo.swap(Echo)?.invoke("echo", b"hi")?.as_bytes(), b"hi");
        Ok(())
    }
}
