//! What `oxide-host inspect` says about a file, for people and for programs.

use std::path::Path;

use oxide_plugin_api::ModuleKind;
use serde::{Deserialize, Serialize};

use super::{InspectedFile, LoadPolicy, ModuleFile, Refusal, RefusalReason, WasmFacts, WasmItem, printable};
use crate::report::Retention;

/// How much of one value a terminal gets to see.
const LONGEST_VALUE: usize = 400;

/// What is known of a file without any of it having run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The file, as it was named.
    pub path: String,
    /// Whether this host would load it.
    pub plugin: bool,
    /// Why not.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What it says about itself. Also there for a plugin that was understood and yet refused.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// What is known of a WASM guest, in place of that.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub guest: Option<AboutGuest>,
}

/// Why a file was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Refused {
    /// The kind of refusal.
    pub reason: RefusalReason,
    /// What was found and what was expected.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// What a plugin's file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct About {
    /// The plugin ABI it speaks: `1.0`.
    pub abi: String,
    /// The target it was built for.
    pub target: String,
    /// The compiler that built it.
    pub rustc: String,
    /// The package it was built from.
    pub package: String,
    /// That package's version.
    pub package_version: String,
    /// What runs in it.
    pub kind: ModuleKind,
    /// What it asks to be allowed.
    pub capabilities: Vec<String>,
    /// The package's description; may be empty.
    pub description: String,
    /// The version of oxide-plugin-api it was built on.
    pub api: String,
    /// `unwind` or `abort`.
    pub panic: String,
    /// Who provides its global allocator: `oxide` or `none`.
    pub allocator: String,
    /// All libraries it needs.
    pub needed: Vec<String>,
    /// Those of them that are not part of the base system.
    pub foreign_libraries: Vec<String>,
    /// Why it would stay mapped for good once it is loaded. Empty when nothing in the file says so.
    pub retained_by: Vec<Retention>,
}

/// What a WASM guest's file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AboutGuest {
    /// Always `wasm`.
    #[serde(default = "wasm")]
    pub kind: ModuleKind,
    /// What the file says.
    pub wasm: WasmFacts,
}

/// The kind, when reading [`About`] has used it up.
fn wasm() -> ModuleKind {
    ModuleKind::Wasm
}

/// Describes a file as [`inspect_with`] does, under the default policy.
pub fn inspect(path: impl AsRef<Path>) -> Inspection {
    inspect_with(path, &LoadPolicy::default())
}

/// Describes a file without running any of it. Every file there is gets an answer.
pub fn inspect_with(path: impl AsRef<Path>, policy: &LoadPolicy) -> Inspection {
    let path = path.as_ref();
    let file = match ModuleFile::read(path) {
        Ok(file) => file,
        Err(refusal) => return Inspection::new(path, Some(refusal.into())),
    };
    let mut inspection = Inspection::new(path, file.check_loadable(policy).err().map(Refused::from));
    match file {
        ModuleFile::Plugin(file) => inspection.about = Some(About::from(&*file)),
        ModuleFile::Guest(guest) => {
            inspection.guest = Some(AboutGuest { kind: ModuleKind::Wasm, wasm: guest.facts().clone() });
        }
    }
    inspection
}

impl Inspection {
    fn new(path: &Path, refused: Option<Refused>) -> Self {
        let path = path.to_string_lossy().into_owned();
        Self { path, plugin: refused.is_none(), refused, about: None, guest: None }
    }

    /// What is known, as label and value in the order to show them; every value is one line and safe to print.
    /// The refusal is not among them: its message and its hint stand by themselves.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = match (&self.about, &self.guest) {
            (Some(about), _) => about.rows(),
            (None, Some(guest)) => guest.rows(),
            (None, None) => Vec::new(),
        };
        rows.retain(|(_, value)| !value.is_empty());
        for (_, value) in &mut rows {
            *value = printable(value, LONGEST_VALUE);
        }
        rows
    }
}

impl About {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("package", format!("{} {}", self.package, self.package_version)),
            ("description", self.description.clone()),
            ("kind", self.kind.to_string()),
            ("plugin ABI", format!("{} (oxide-plugin-api {})", self.abi, self.api)),
            ("target", self.target.clone()),
            ("compiler", self.rustc.clone()),
            ("panic", self.panic.clone()),
            ("allocator", self.allocator.clone()),
            ("capabilities", self.capabilities.join(", ")),
            ("needs", self.needed.join(", ")),
        ];
        let reasons = self.retained_by.iter().map(|reason| ("stays mapped", reason.detail.clone()));
        rows.extend(reasons);
        rows
    }
}

impl AboutGuest {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let list = |items: &[WasmItem], more: u64| {
            let mut list: Vec<String> = items.iter().map(ToString::to_string).collect();
            if more > 0 {
                list.push(format!("{more} more"));
            }
            list.join(", ")
        };
        let wasm = &self.wasm;
        vec![
            ("kind", self.kind.to_string()),
            ("format", wasm.format.to_string()),
            ("size", wasm.size.to_string()),
            ("imports", list(&wasm.imports, wasm.more_imports)),
            ("exports", list(&wasm.exports, wasm.more_exports)),
        ]
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason, message: refusal.message, hint: refusal.hint }
    }
}

impl From<&InspectedFile> for About {
    fn from(file: &InspectedFile) -> Self {
        let (said, facts) = (file.description().clone(), file.facts());
        Self {
            abi: format!("{}.{}", said.abi.0, said.abi.1),
            target: said.target,
            rustc: said.rustc,
            package: said.package,
            package_version: said.package_version,
            kind: said.kind,
            capabilities: said.capabilities,
            description: said.description,
            api: said.api,
            panic: said.panic,
            allocator: said.allocator,
            needed: facts.needed.clone(),
            foreign_libraries: facts.foreign_libraries.clone(),
            retained_by: facts.retained_by(),
        }
    }
}
