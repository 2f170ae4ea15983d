//! The smallest plugin: it answers what it was sent.
//!
//! - `echo` gives the payload back, the same buffer, uncopied;
//! - `upper` gives the text back in capitals.
#![forbid(unsafe_code)]

use oxide_plugin_api::prelude::*;

/// The module.
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
    fn echo_gives_back_the_very_buffer() -> Result<()> {
        let echo = TestHost::new().load_and_start(Echo)?;
        let sent = b"hi".to_vec();
        let address = sent.as_ptr();
        let reply = echo.invoke("echo", sent)?;
        assert_eq!(reply.as_bytes(), b"hi");
        assert_eq!(reply.as_bytes().as_ptr(), address);
        assert!(echo.invoke("echo", b"")?.is_empty());
        Ok(())
    }

    #[test]
    fn upper_wants_text() -> Result<()> {
        let echo = TestHost::new().load_and_start(Echo)?;
        assert_eq!(echo.invoke("upper", "straße")?.as_bytes(), "STRASSE".as_bytes());
        assert!(echo.invoke("upper", b"\xff").unwrap_err().to_string().contains("utf-8"));
        Ok(())
    }

    #[test]
    fn other_methods_are_unknown() -> Result<()> {
        let echo = TestHost::new().load_and_start(Echo)?;
        assert_eq!(echo.invoke("ohce", b"").unwrap_err().kind(), ErrorKind::UnknownMethod);
        Ok(())
    }
}
