//! A file that was read and understood, of which nothing has run.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Description, Fault, LinkFacts, Refusal, RefusalReason,
    facts::quoted_list,
    image::{self, Carried, Image},
    machine::{self, Machine},
    read::{self, Buffer},
    stage::{PrivateCopy, StagingDir},
};

/// A plugin's file as bytes: described, but neither trusted nor opened. What is in here is what will be opened,
/// whatever becomes of the file at the path.
pub struct InspectedFile {
    path: PathBuf,
    bytes: Buffer,
    /// The private copy, if that was made first; then its bytes are these.
    pub(super) copy: Option<PrivateCopy>,
    machine: Machine,
    description: Description,
    facts: LinkFacts,
}

/// What an operator allows beyond the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadPolicy {
    /// Take plugins that need libraries from outside of the base system. The loader runs the constructors of
    /// those uninspected, and what they start is not counted at an unload.
    pub allow_foreign_libraries: bool,
}

impl LoadPolicy {
    /// Sets [`allow_foreign_libraries`](Self::allow_foreign_libraries).
    #[must_use]
    pub fn allow_foreign_libraries(mut self, allow: bool) -> Self {
        self.allow_foreign_libraries = allow;
        self
    }
}

impl InspectedFile {
    /// Reads the file, once, and understands what it says about itself. Executes nothing.
    ///
    /// A plugin for another machine is understood too; [`check_loadable`](Self::check_loadable) refuses it.
    ///
    /// # Errors
    /// A [`Refusal`] when the path does not lead to a readable file, when that is no dynamic library, ends early
    /// or contradicts itself, carries no description, or one of another major version of the plugin ABI.
    pub fn read(path: &Path) -> Result<Self, Refusal> {
        let bytes = read::read(path, image::could_be_library).map_err(|fault| fault.of(path))?;
        Self::from_bytes(path, bytes).map_err(|fault| fault.of(path))
    }

    /// The same of a file that is to be loaded, as a copy of `origin`: where that can be, it is copied first, and what is
    /// inspected is the copy.
    pub(crate) fn take(path: &Path, origin: &Path, dir: &StagingDir) -> Result<Self, Refusal> {
        let look = image::could_be_library;
        let taken = match dir.copy(path, origin, look) {
            Ok(Some(copied)) => Self::from_copy(path, copied),
            Ok(None) => read::read(path, look).and_then(|bytes| Self::from_bytes(path, bytes)),
            Err(fault) => Err(fault),
        };
        taken.map_err(|fault| fault.of(path))
    }

    /// Understands a copy of `path`.
    pub(super) fn from_copy(path: &Path, (copy, bytes): (PrivateCopy, Buffer)) -> Result<Self, Fault> {
        Ok(Self { copy: Some(copy), ..Self::from_bytes(path, bytes)? })
    }

    /// Understands bytes that were read from `path`.
    pub(super) fn from_bytes(path: &Path, bytes: Buffer) -> Result<Self, Fault> {
        let Image { machine, carried } = Image::parse(&bytes)?;
        let Some(Carried { section, facts }) = carried else {
            // Of a library that could not run here anyway, that is the more useful thing to say.
            return Err(if machine.is_host() { no_description() } else { machine.wrong() });
        };
        let description = match Description::parse(section) {
            Ok(description) => description,
            Err(_) if !machine.is_host() => return Err(machine.wrong()),
            Err(fault) => return Err(fault),
        };
        let facts = facts?;
        Ok(Self { path: path.to_owned(), bytes, copy: None, machine, description, facts })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, as they were when it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it says about itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What stays of it when its bytes are let go of.
    pub(super) fn into_findings(self) -> (Description, LinkFacts) {
        (self.description, self.facts)
    }

    /// What it asks of the dynamic loader.
    pub fn facts(&self) -> &LinkFacts {
        &self.facts
    }

    /// Whether this host can load it, as far as its bytes tell.
    ///
    /// # Errors
    /// A [`Refusal`] when it is for another machine or system, was built with `panic = "abort"`, lacks the entry
    /// point, needs libraries that `policy` does not allow, or is certain to be refused by the dynamic loader.
    pub fn check_loadable(&self, policy: &LoadPolicy) -> Result<(), Refusal> {
        self.check(policy).map_err(|fault| fault.of(&self.path))
    }

    /// The first reason that no rebuilding could mend comes first.
    fn check(&self, policy: &LoadPolicy) -> Result<(), Fault> {
        if !self.machine.is_host() {
            return Err(self.machine.wrong());
        }
        machine::check_target(&self.description.target)?;
        if self.description.panic == "abort" {
            return Err(Fault::new(
                RefusalReason::PanicAbort,
                "was built with `panic = \"abort\"`, so any panic in it would end the host",
                "remove `panic = \"abort\"` from its profile in Cargo.toml and build it again",
            ));
        }
        if !self.facts.exports_entry {
            return Err(Fault::new(
                RefusalReason::Damaged,
                "has a description but does not export the entry point of a plugin",
                "build it as a cdylib with `export_module!` in its root, and keep its dynamic symbols: \
                 no version script may hide them",
            ));
        }
        if self.facts.no_open {
            return Err(Fault::new(
                RefusalReason::NotLoadable,
                "is marked as not to be opened by a running program (`DF_1_NOOPEN`)",
                "link it without `-z nodlopen`",
            ));
        }
        if self.facts.static_tls_cannot_fit() {
            return Err(Fault::new(
                RefusalReason::StaticTls,
                format_args!(
                    "wants {} bytes of static thread-local storage, more than a running process has to spare",
                    self.facts.tls_size
                ),
                self.facts.static_tls_hint().unwrap_or_default(),
            ));
        }
        if !self.facts.foreign_libraries.is_empty() && !policy.allow_foreign_libraries {
            let names = quoted_list(&self.facts.foreign_libraries, 3);
            let (are, them, they) = match self.facts.foreign_libraries.len() {
                1 => ("a library that is", "it", "it"),
                _ => ("libraries that are", "them", "they"),
            };
            return Err(Fault::new(
                RefusalReason::ForeignLibrary,
                format_args!("needs {names}, {are} not part of the base system"),
                format_args!(
                    "link {them} statically, or allow such libraries (`allow_foreign_libraries`): {they} would run \
                     code that nobody inspected"
                ),
            ));
        }
        Ok(())
    }
}

fn no_description() -> Fault {
    Fault::new(
        RefusalReason::NoDescription,
        "is a dynamic library, but not a plugin: it carries no description",
        "depend on oxide-plugin-api and write `export_module!(Type)` in the root of the cdylib",
    )
}

impl fmt::Debug for InspectedFile {
    /// Without the bytes, of which there may be a gigabyte.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectedFile")
            .field("path", &self.path)
            .field("length", &self.bytes.len())
            .field("description", &self.description)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
