//! A guest that uses the standard library, and with it WASI: it runs where something was granted to it.
//!
//! - `read` with a path gives the file, `write` with `PATH TEXT` writes one, `list` gives the names in a folder;
//! - `variables` gives its environment, a line each;
//! - `fetch` with `HOST:PORT TEXT` sends the text there and gives the answer;
//! - `print` writes to both standard outputs.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::TcpStream,
};

wit_bindgen::generate!({ path: "../../../../../plugin-api/wit", world: "module" });

struct Reader;

fn answer(method: &str, payload: &str) -> io::Result<Option<String>> {
    let (first, rest) = payload.split_once(' ').unwrap_or((payload, ""));
    Ok(Some(match method {
        "read" => fs::read_to_string(payload)?,
        "write" => fs::write(first, rest).map(|()| String::new())?,
        "list" => {
            let entries = fs::read_dir(payload)?.collect::<io::Result<Vec<_>>>()?;
            let mut names: Vec<_> =
                entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names.join("\n")
        }
        "variables" => env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("\n"),
        "fetch" => {
            let mut stream = TcpStream::connect(first)?;
            stream.write_all(rest.as_bytes())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            answer
        }
        "print" => {
            println!("{payload}");
            eprintln!("{payload}");
            String::new()
        }
        _ => return Ok(None),
    }))
}

impl Guest for Reader {
    fn metadata() -> ModuleMetadata {
        ModuleMetadata {
            id: "reader".into(),
            name: "Reader".into(),
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
        let payload = String::from_utf8_lossy(&payload);
        match answer(&method, &payload) {
            Ok(Some(answer)) => Ok(answer.into()),
            Ok(None) => Err(Error::UnknownMethod(method)),
            Err(error) => Err(Error::Failed(error.to_string())),
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

export!(Reader);
