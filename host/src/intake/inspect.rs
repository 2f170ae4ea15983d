//! A file that was read and understood, of which nothing has run.

use std::{
    fmt,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    Description, Fault, LinkFacts, Refusal, RefusalReason,
    facts::quoted_list,
    image::{self, Carried, Image},
    machine::{self, Machine},
    pieces::Pieces,
    read::{self, Buffer},
    stage::{PrivateCopy, StagingDir},
};
use crate::sys::private_file::{FilledFile, HEAD, PrivateFile};

/// A plugin's file as bytes: described, but neither trusted nor opened. What is in here is what will be opened,
/// whatever becomes of the file at the path.
pub struct InspectedFile {
    path: PathBuf,
    bytes: Buffer,
    /// The private copy, if that was made first; then its bytes are these.
    pub(super) copy: Option<PrivateCopy>,
    findings: Findings,
}

/// What was understood.
struct Findings {
    machine: Machine,
    description: Description,
    facts: LinkFacts,
}

impl Findings {
    fn of(Image { machine, carried }: Image<'_>) -> Result<Self, Fault> {
        let Some(Carried { section, facts }) = carried else {
            // Of a library that could not run here anyway, that is the more useful thing to say.
            return Err(if machine.is_host() { no_description() } else { machine.wrong() });
        };
        let description = match Description::parse(section) {
            Ok(description) => description,
            Err(_) if !machine.is_host() => return Err(machine.wrong()),
            Err(fault) => return Err(fault),
        };
        Ok(Self { machine, description, facts: facts? })
    }
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

    /// The same of a file that is to be loaded: where that can be, it is copied into `dir` first, and what is inspected is
    /// the copy, which goes with this.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn take(path: &Path, dir: &StagingDir) -> Result<Self, Refusal> {
        Self::take_as(path, path, dir)
    }

    /// The same of what may be a copy itself: `origin` is where that came from.
    pub(crate) fn take_as(path: &Path, origin: &Path, dir: &StagingDir) -> Result<Self, Refusal> {
        let look = image::could_be_library;
        let taken = match dir.copy(path, origin, look) {
            Ok(Some(copied)) => Self::from_copy(path, copied),
            Ok(None) => read::read(path, look).and_then(|bytes| Self::from_bytes(path, bytes)),
            Err(fault) => Err(fault),
        };
        taken.map_err(|fault| fault.of(path))
    }

    /// Understands a copy of `path`.
    pub(super) fn from_copy(path: &Path, (copy, file): (PrivateCopy, FilledFile)) -> Result<Self, Fault> {
        let in_pieces = || {
            let pieces = Pieces::of(&file);
            Findings::of(Image::parse_pieces(&pieces)?).ok()
        };
        let findings = match in_pieces() {
            Some(findings) => findings,
            None => Findings::of(Image::parse(file.bytes().map_err(|error| read::unreadable(&error))?)?)?,
        };
        Ok(Self { path: path.to_owned(), bytes: Buffer::Copied(file), copy: Some(copy), findings })
    }

    /// Understands bytes that were read from `path`.
    pub(super) fn from_bytes(path: &Path, bytes: Buffer) -> Result<Self, Fault> {
        let findings = Findings::of(Image::parse(&bytes)?)?;
        Ok(Self { path: path.to_owned(), bytes, copy: None, findings })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, as they were when it was read. Those of a copy are mapped for that; there are none when that fails, for want
    /// of memory.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> u64 {
        match &self.bytes {
            Buffer::Copied(file) => file.len(),
            bytes => bytes.len() as u64,
        }
    }

    /// Writes its bytes into a file of ours.
    pub(super) fn write_to(&self, file: &mut PrivateFile) -> io::Result<()> {
        match &self.bytes {
            Buffer::Copied(copy) => io::copy(&mut copy.reader()?, file).map(drop),
            bytes => file.write_all(bytes),
        }
    }

    /// Its first bytes, in which two builds mostly differ already.
    pub(super) fn head(&self) -> io::Result<&[u8]> {
        match &self.bytes {
            Buffer::Copied(file) => file.head(),
            bytes => Ok(bytes.get(..HEAD).unwrap_or(bytes)),
        }
    }

    /// Its bytes, to be read one after the other.
    pub(super) fn reader(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match &self.bytes {
            Buffer::Copied(file) => Box::new(file.reader()?),
            bytes => Box::new(&**bytes),
        })
    }

    /// What it says about itself.
    pub fn description(&self) -> &Description {
        &self.findings.description
    }

    /// What stays of it when its bytes are let go of.
    pub(super) fn into_findings(self) -> (Description, LinkFacts) {
        (self.findings.description, self.findings.facts)
    }

    /// What it asks of the dynamic loader.
    pub fn facts(&self) -> &LinkFacts {
        &self.findings.facts
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
        if !self.findings.machine.is_host() {
            return Err(self.findings.machine.wrong());
        }
        machine::check_target(&self.findings.description.target)?;
        if self.findings.description.panic == "abort" {
            return Err(Fault::new(
                RefusalReason::PanicAbort,
                "was built with `panic = \"abort\"`, so any panic in it would end the host",
                "remove `panic = \"abort\"` from its profile in Cargo.toml and build it again",
            ));
        }
        if !self.findings.facts.exports_entry {
            return Err(Fault::new(
                RefusalReason::Damaged,
                "has a description but does not export the entry point of a plugin",
                "build it as a cdylib with `export_module!` in its root, and keep its dynamic symbols: \
                 no version script may hide them",
            ));
        }
        if self.findings.facts.no_open {
            return Err(Fault::new(
                RefusalReason::NotLoadable,
                "is marked as not to be opened by a running program (`DF_1_NOOPEN`)",
                "link it without `-z nodlopen`",
            ));
        }
        if self.findings.facts.static_tls_cannot_fit() {
            return Err(Fault::new(
                RefusalReason::StaticTls,
                format_args!(
                    "wants {} bytes of static thread-local storage, more than a running process has to spare",
                    self.findings.facts.tls_size
                ),
                self.findings.facts.static_tls_hint().unwrap_or_default(),
            ));
        }
        if !self.findings.facts.foreign_libraries.is_empty() && !policy.allow_foreign_libraries {
            let names = quoted_list(&self.findings.facts.foreign_libraries, 3);
            let (are, them, they) = match self.findings.facts.foreign_libraries.len() {
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
            .field("description", &self.findings.description)
            .field("facts", &self.findings.facts)
            .finish_non_exhaustive()
    }
}
