//! What a generation is made from: a plugin's library, or an engine's with a WASM guest for it; and what an engine is
//! told of its guest.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use oxide_plugin_api::{ModuleKind, Payload};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::load::{Loading, reading};
use crate::{
    error::Result,
    intake::{
        InspectedFile, InspectedGuest, ModuleFile, Refusal, RefusalReason, StagedFile, file_name,
        find_engine, prepare_cache,
    },
    life::generation::Origin,
};

/// How WASM guests are run.
#[derive(Clone, Debug, Default)]
pub(crate) struct WasmOptions {
    /// The engine; looked for when it is not said.
    pub(crate) engine: Option<PathBuf>,
    /// Where engines may keep what they have compiled.
    pub(crate) cache: Option<PathBuf>,
}

/// What a generation is made from. Nothing of it has run.
#[derive(Clone)]
pub(crate) struct Material {
    /// The private copy of the plugin's library, or of the engine's.
    pub(crate) library: StagedFile,
    pub(crate) guest: Option<Guest>,
}

/// A guest for an engine. Its bytes are in memory, as they were inspected.
#[derive(Clone)]
pub(crate) struct Guest {
    file: Arc<InspectedGuest>,
    cache: Option<PathBuf>,
}

/// Files that were read and accepted, before the private copy is made.
pub(crate) struct Found {
    library: InspectedFile,
    /// The library's file, before all copies.
    origin: PathBuf,
    guest: Option<Guest>,
}

impl Found {
    /// Reads a file, and the engine's where it is a guest. Blocks.
    pub(crate) fn read(loading: &Loading, path: &Path) -> Result<Self> {
        let file = ModuleFile::take(path, &loading.staging)?;
        file.check_loadable(&loading.policy)?;
        let guest = match file {
            ModuleFile::Plugin(library) => {
                return Ok(Self { library: *library, origin: path.to_owned(), guest: None });
            }
            ModuleFile::Guest(guest) => Guest { file: Arc::new(guest), cache: loading.wasm.ready_cache() },
        };
        let origin = find_engine(loading.wasm.engine.as_deref())?;
        let of_the_engine = |mut refusal: Refusal| {
            refusal.message.insert_str(0, "the WASM engine ");
            refusal
        };
        let library = InspectedFile::take(&origin, &loading.staging).map_err(of_the_engine)?;
        library.check_loadable(&loading.policy).map_err(of_the_engine)?;
        if library.description().kind != ModuleKind::Wasm {
            return Err(not_an_engine(&origin).into());
        }
        Ok(Self { library, origin, guest: Some(guest) })
    }

    /// Reads what an earlier generation was made from. Blocks.
    pub(crate) fn read_again(loading: &Loading, material: &Material) -> Result<Self> {
        let origin = material.library.origin().to_owned();
        let library = InspectedFile::take_as(material.library.path(), &origin, &loading.staging)?;
        library.check_loadable(&loading.policy)?;
        Ok(Self { library, origin, guest: material.guest.clone() })
    }

    /// Whether a generation of this would be what one of `material` is. Blocks.
    pub(crate) fn is_same_as(&self, material: &Material) -> Result<bool> {
        let same_guest = match (&self.guest, &material.guest) {
            (Some(one), Some(other)) => one.file.bytes() == other.file.bytes(),
            (one, other) => one.is_none() && other.is_none(),
        };
        Ok(same_guest && material.library.has_bytes_of(&self.library)?)
    }

    /// Makes the private copy. Blocks.
    pub(crate) fn stage(self, loading: &Loading) -> Result<Material> {
        let library = StagedFile::of(&loading.staging, self.library, &self.origin)?;
        Ok(Material { library, guest: self.guest })
    }
}

fn not_an_engine(path: &Path) -> Refusal {
    Refusal::new(
        path,
        RefusalReason::NotAnEngine,
        format_args!(
            "`{}` is no engine for WASM guests: its kind is `native`, expected `wasm`",
            file_name(path)
        ),
        "name the library of an engine as `wasm_engine`, or leave it out and the host looks for one",
    )
}

impl WasmOptions {
    /// The cache's folder, made ready. A guest runs without one as well.
    fn ready_cache(&self) -> Option<PathBuf> {
        let folder = self.cache.as_deref()?;
        let ready = prepare_cache(folder);
        if let Err(error) = &ready {
            tracing::warn!(folder = %folder.display(), %error, "WASM guests are compiled without a cache");
        }
        ready.ok()
    }
}

impl Material {
    /// What it is called until it has said its id.
    pub(crate) fn name(&self) -> String {
        match &self.guest {
            Some(guest) => guest.name(),
            None => self.library.description().package.clone(),
        }
    }

    /// Where a generation of it, loaded from `path`, comes from.
    pub(crate) fn origin(&self, path: &Path) -> Origin {
        let engine = self.guest.as_ref().map(|_| self.library.origin().to_owned());
        Origin { path: path.to_owned(), engine, facts: self.library.facts().clone() }
    }

    /// What `configure` gets.
    pub(crate) async fn configuration(&self, config: &Value) -> Result<Payload> {
        let Some(guest) = self.guest.clone() else { return Ok(Payload::json(config)?) };
        let (config, path) = (config.clone(), guest.file.path().to_owned());
        // On a life thread: a guest of many megabytes takes its time.
        reading(&path, move || Ok(guest.configuration(&config)?)).await
    }
}

/// What an engine's `configure` gets.
#[derive(Serialize)]
struct Configuration<'a> {
    guest: Base64<'a>,
    name: String,
    config: Value,
    wasm: Value,
    cache: Option<&'a Path>,
}

struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

impl Guest {
    /// The name of its file.
    fn name(&self) -> String {
        file_name(self.file.path())
    }

    fn configuration(&self, config: &Value) -> Result<Payload, oxide_plugin_api::Error> {
        let (config, wasm) = split(config);
        let (guest, name) = (Base64(self.file.bytes()), self.name());
        Payload::json(&Configuration { guest, name, config, wasm, cache: self.cache.as_deref() })
    }
}

/// The guest's own configuration, and its limits and grants, which stand in the same object under a key of their own.
fn split(config: &Value) -> (Value, Value) {
    let none = || Value::Object(Map::new());
    let Value::Object(fields) = config else { return (config.clone(), none()) };
    let mut own = fields.clone();
    let Some(wasm) = own.remove("wasm") else { return (Value::Object(own), none()) };
    let own = if own.is_empty() { Value::Null } else { Value::Object(own) };
    (own, if wasm.is_null() { none() } else { wasm })
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("file", &self.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_and_grants_stand_apart_from_the_guests_own_configuration() {
        assert_eq!(split(&json!(null)), (json!(null), json!({})));
        assert_eq!(split(&json!([1])), (json!([1]), json!({})));
        assert_eq!(split(&json!({})), (json!({}), json!({})));
        assert_eq!(split(&json!({ "a": 1 })), (json!({ "a": 1 }), json!({})));
        assert_eq!(split(&json!({ "wasm": { "memory": 1 } })), (json!(null), json!({ "memory": 1 })));
        assert_eq!(
            split(&json!({ "wasm": 3, "a": { "wasm": 4 } })),
            (json!({ "a": { "wasm": 4 } }), json!(3))
        );
    }
}
