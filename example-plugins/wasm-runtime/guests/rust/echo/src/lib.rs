//! The example plugin `echo` as a guest: same id, same methods, so that one can be swapped for the other.
//!
//! - `echo` gives the payload back;
//! - `upper` gives the text back in capitals.

wit_bindgen::generate!({ path: "../../../../../plugin-api/wit", world: "module" });

struct Echo;

impl Guest for Echo {
    fn metadata() -> ModuleMetadata {
        ModuleMetadata {
            id: "echo".into(),
            name: "Echo".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    fn configure(_: Json) -> Result<(), Error> {
        Ok(())
    }

    fn restore_state(state: SavedState) -> Result<(), Error> {
        Err(Error::Failed(format!("this build cannot restore a state (version {})", state.version)))
    }

    fn start() -> Result<(), Error> {
        Ok(())
    }

    fn invoke(method: String, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        match method.as_str() {
            "echo" => Ok(payload),
            "upper" => {
                let text = String::from_utf8(payload).map_err(|error| Error::Failed(error.to_string()))?;
                Ok(text.to_uppercase().into())
            }
            _ => Err(Error::UnknownMethod(method)),
        }
    }

    fn on_message(_: Envelope) -> Result<(), Error> {
        Ok(())
    }

    fn save_state() -> Result<Option<SavedState>, Error> {
        Ok(None)
    }

    fn stop() -> Result<(), Error> {
        Ok(())
    }
}

export!(Echo);
