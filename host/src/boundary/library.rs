//! From a staged file to a library whose tables we understand. For the loader only.

use std::{mem::ManuallyDrop, path::Path, sync::Arc};

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{
        AbiInstabilityError, AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals,
    },
    library::{AbiHeader, AbiHeaderRef, LibHeader, LibraryError, ROOT_MODULE_LOADER_NAME_WITH_NUL},
    type_layout::TLFieldOrFunction,
};
#[cfg(unix)]
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
#[cfg(windows)]
use libloading::os::windows::Library;
use oxide_plugin_api::ffi::{root::PluginRootRef, shim_table::PluginShim};

use super::residue::{self, Residue};
use crate::{
    error::KernelError,
    intake::{LinkFacts, Refusal, RefusalReason, StagedFile},
    sys,
};

/// An opened library: its constructors have run. Not closed by being dropped: `close` says when.
#[derive(Debug)]
pub(crate) struct LoadedLibrary {
    library: ManuallyDrop<Library>,
    staged: StagedFile,
}

/// A library whose tables are laid out as ours, and whose thread services are bound to the host.
pub(crate) struct CheckedLibrary {
    library: LoadedLibrary,
    root: PluginRootRef,
    residue: Arc<Residue>,
    /// In the library; `None` when it was built without a shim.
    shim: Option<&'static PluginShim>,
}

/// Whether a closed library is gone. Looked at, never taken from a return value.
#[derive(Debug)]
#[must_use = "a library that stayed mapped is retained"]
pub(crate) enum Closed {
    /// It is not in the process's map any more.
    Unmapped {
        /// What it had allocated and never freed; `None` when nobody counts.
        leaked_bytes: Option<u64>,
        /// Its copy, removed with this.
        copy: Option<StagedFile>,
    },
    /// It is. The copy's path, by which to look again.
    StillMapped(StagedFile),
}

/// Why there is no library, and what is left of it all the same.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) error: KernelError,
    pub(crate) kept: Option<Kept>,
}

impl From<KernelError> for NotOpened {
    fn from(error: KernelError) -> Self {
        Self { error, kept: None }
    }
}

/// A library that was refused after it was opened, and is in the process's map. Its copy stays as long.
#[derive(Debug)]
pub(crate) struct Kept {
    staged: StagedFile,
    /// Else its file says that it must never be.
    was_closed: bool,
}

impl Kept {
    /// What its file says that keeps it for good, if it does.
    pub(crate) fn facts(&self) -> Option<&LinkFacts> {
        (!self.was_closed).then(|| self.staged.facts())
    }

    /// Whether it is gone after all.
    pub(crate) fn is_gone(&self) -> bool {
        self.was_closed && is_gone(&self.staged)
    }
}

impl Closed {
    /// The copy of a library that is gone, for its removal.
    pub(crate) fn take_copy(&mut self) -> Option<StagedFile> {
        match self {
            Self::Unmapped { copy, .. } => copy.take(),
            Self::StillMapped(_) => None,
        }
    }
}

impl LoadedLibrary {
    /// Opens the private copy.
    ///
    /// # Safety
    /// Runs the library's constructors, and later its destructors, under the dynamic loader's lock: the
    /// operator has accepted these bytes (docs/safety.md).
    pub(crate) unsafe fn open(staged: StagedFile, original: &Path) -> Result<Self, KernelError> {
        #[cfg(unix)]
        // SAFETY: as our caller promises.
        let opened = unsafe { Library::open(Some(staged.path()), RTLD_NOW | RTLD_LOCAL) };
        #[cfg(windows)]
        // SAFETY: as our caller promises.
        let opened = unsafe { Library::new(staged.path()) };
        match opened {
            Ok(library) => Ok(Self { library: ManuallyDrop::new(library), staged }),
            Err(error) => {
                let text = std::error::Error::source(&error)
                    .map_or_else(String::new, |source| format!(": {source}"));
                Err(refuse(
                    original,
                    RefusalReason::NotLoadable,
                    format_args!("the dynamic loader does not open it: {error}{text}"),
                    "build it for this system, with the libraries it needs installed",
                ))
            }
        }
    }

    /// Checks the types that cross, with globals of its own so that nothing points into this library
    /// afterwards, and binds its thread services to `residue`. On failure the library, of which nothing but
    /// constructors has run, is closed, unless its file says that it must never be.
    pub(crate) fn check_abi(
        self,
        original: &Path,
        residue: Arc<Residue>,
    ) -> Result<CheckedLibrary, NotOpened> {
        // SAFETY: `inspect` found our entry symbol in these bytes; the description's ABI major says that
        // it is abi_stable's header.
        let root = unsafe { root_of(&self.library, self.staged.description().has_our_source()) };
        match root {
            Ok(root) => {
                let shim = root.bind().and_then(|bind| {
                    let (host, context) = (&raw const residue::HOST_SHIM, residue::lend(&residue));
                    // SAFETY: the table is a static of ours, and the library keeps the context; on this
                    // thread the constructors have run, and nothing else has.
                    let shim = unsafe { bind(host.cast(), context) }.cast::<PluginShim>();
                    // SAFETY: null, or a static of the library's, not used after its close.
                    unsafe { shim.as_ref() }
                });
                Ok(CheckedLibrary { library: self, root, residue, shim })
            }
            Err((reason, message, detail)) => {
                // Nothing of the module's has run, so there is nothing to wait for, unless its file says that nobody
                // can know.
                let kept = if self.staged.facts().retained_by().is_empty() {
                    let (is_gone, staged) = self.close(None);
                    (!is_gone).then_some(Kept { staged, was_closed: true })
                } else {
                    Some(Kept { staged: self.staged, was_closed: false })
                };
                let hint = "rebuild the plugin with a released oxide-plugin-api of this host's major version";
                let mut refusal = Refusal::new(
                    original,
                    reason,
                    format_args!("`{}` {message}", crate::intake::file_name(original)),
                    hint,
                );
                refusal.detail = detail;
                Err(NotOpened { error: refusal.into(), kept })
            }
        }
    }

    /// Closes the library and looks whether it is gone. If not, its copy stays as long as it is mapped, for backtraces
    /// and debuggers. `base` is where its image begins, if that is known.
    fn close(self, base: Option<usize>) -> (bool, StagedFile) {
        let Self { library, staged } = self;
        // The result says nothing about the mapping; the map does.
        let _ = ManuallyDrop::into_inner(library).close();
        let is_gone = base.is_some_and(sys::is_free) || !sys::is_mapped(staged.path());
        (is_gone, staged)
    }
}

impl CheckedLibrary {
    /// The plugin's root table. Valid until `close`.
    pub(crate) fn root(&self) -> PluginRootRef {
        self.root
    }

    /// What it has in the process besides its image.
    pub(crate) fn residue(&self) -> &Arc<Residue> {
        &self.residue
    }

    /// Where its image begins.
    pub(crate) fn base(&self) -> Option<usize> {
        sys::signals::image_of(self.root.create() as usize)
    }

    /// Has the library let go of what any of its code might have used until now. Nobody may be inside, nor come.
    pub(crate) fn finish(&self) {
        if let Some(shim) = self.shim {
            // SAFETY: the library is open, and nobody is inside, which is what this function wants.
            unsafe { (shim.finish)() };
        }
    }

    /// Closes the library and looks whether it is gone. Nothing of it may be in use.
    pub(crate) fn close(self) -> Closed {
        let base = self.base();
        let Self { library, residue, shim, .. } = self;
        // Counted while what its heap has on each thread is still there.
        // SAFETY: the library is still open and nobody is inside, which is what this function wants.
        let live = residue.forget_at_ends(|| shim.map(|shim| unsafe { (shim.live_bytes)() }));
        residue.begin_closing();
        match library.close(base) {
            (true, copy) => {
                residue.bury();
                Closed::Unmapped { leaked_bytes: live.filter(|live| *live != u64::MAX), copy: Some(copy) }
            }
            (false, copy) => Closed::StillMapped(copy),
        }
    }
}

/// Whether a library that was closed and stayed mapped is gone by now.
pub(crate) fn is_gone(staged: &StagedFile) -> bool {
    !sys::is_mapped(staged.path())
}

/// Opens a staged file and checks it. `original` is what it is called in errors.
pub(crate) fn open_checked(
    staged: StagedFile,
    original: &Path,
    residue: Arc<Residue>,
) -> Result<CheckedLibrary, NotOpened> {
    // SAFETY: these bytes were inspected and accepted by the operator's policy; running their constructors
    // is what loading means (docs/safety.md).
    unsafe { LoadedLibrary::open(staged, original) }?.check_abi(original, residue)
}

type Rejection = (RefusalReason, String, Option<String>);

/// The library's table; a plugin that was built from our sources lays it out as we do, and needs no check.
///
/// # Safety
/// The library exports an abi_stable header under abi_stable's name, and `has_our_source` is true of it or false.
unsafe fn root_of(library: &Library, has_our_source: bool) -> Result<PluginRootRef, Rejection> {
    let mismatch = |message: String| (RefusalReason::LayoutMismatch, message, None);
    // SAFETY: as our caller promises.
    let symbol = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
        .map_err(|_| mismatch("has a description but no entry point".to_owned()))?;
    let header = (*symbol).upgrade().map_err(|error| mismatch(another_abi_stable(&error)))?;
    // A debug build looks all the same, so that every test shows that the same sources mean the same layout.
    if !has_our_source || cfg!(debug_assertions) {
        check_layout(header)?;
    }
    // SAFETY: the layout has just been checked, or is ours.
    unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() }.map_err(|error| {
        let reason = match error {
            LibraryError::IncompatibleVersionNumber { .. } => RefusalReason::AbiMismatch,
            _ => RefusalReason::LayoutMismatch,
        };
        (reason, format!("does not give its tables: {}", first_line(&error)), None)
    })
}

fn another_abi_stable(error: &LibraryError) -> String {
    let version = |header: &AbiHeader| format!("{}.{}", header.abi_major, header.abi_minor);
    match error {
        LibraryError::InvalidAbiHeader(found) if found.magic_string == AbiHeader::VALUE.magic_string => {
            format!(
                "was built with abi_stable {}, this host with {}",
                version(found),
                version(&AbiHeader::VALUE)
            )
        }
        LibraryError::InvalidAbiHeader(_) => "has an entry point that is not abi_stable's".to_owned(),
        other => format!("was built with another abi_stable: {}", first_line(other)),
    }
}

/// Compares the layout of the table, and of all that is reachable from it, with ours.
fn check_layout(header: &LibHeader) -> Result<(), Rejection> {
    let layout = header.layout().ok_or_else(|| {
        let message = "says nothing about the layout of its tables".to_owned();
        (RefusalReason::LayoutMismatch, message, None)
    })?;
    let globals = CheckingGlobals::new();
    check_layout_compatibility_with_globals(<PluginRootRef as StableAbi>::LAYOUT, layout, &globals)
        // To text before anything is closed: the errors point into the library.
        .map_err(|errors| {
            let (dump, summary) = (errors.to_string(), summarise(&errors));
            (
                RefusalReason::LayoutMismatch,
                format!("lays out what crosses differently: {summary}"),
                Some(dump),
            )
        })
}

fn first_line(error: &LibraryError) -> String {
    let text = error.to_string();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// abi_stable's dump is tens of kilobytes; what differs, and where, is in a few of its words.
fn summarise(errors: &AbiInstabilityErrors) -> String {
    let differences: Vec<String> = errors
        .errors
        .iter()
        .flat_map(|error| {
            let place = place_of(error);
            // The layouts of both sides come first; then each difference, under a title of its own.
            let text = error.to_string();
            let differences: Vec<String> = text.split("\nError:").skip(1).map(describe).collect();
            differences.into_iter().map(move |difference| format!("{place}: {difference}"))
        })
        .collect();
    match differences.as_slice() {
        [] => "no detail was given".to_owned(),
        [one] => one.clone(),
        [one, other] => format!("{one}; {other}"),
        [first, second, rest @ ..] => format!("{first}; {second}; and {} more", rest.len()),
    }
}

/// Where a difference is: the fields that lead to it, ours first.
fn place_of(error: &AbiInstabilityError) -> String {
    let fields: Vec<String> = error
        .stack_trace
        .iter()
        .map(|step| match &step.expected {
            TLFieldOrFunction::Field(field) => field.name().to_owned(),
            TLFieldOrFunction::Function(function) => function.name.to_string(),
        })
        // The pointer to the root table is a field without a name.
        .filter(|name| name != "0")
        .collect();
    if fields.is_empty() { "the root table".to_owned() } else { format!("`{}`", clip(&fields.join("."))) }
}

/// One line of "what", "Expected:", ours, "Found:", theirs, each on a line of its own.
fn describe(difference: &str) -> String {
    let lines: Vec<&str> = difference.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let after = |title: &str| {
        let at = lines.iter().position(|line| line.starts_with(title))?;
        lines.get(at + 1).map(|value| clip(value))
    };
    let what = lines.first().copied().unwrap_or_default();
    match (after("Expected:"), after("Found:")) {
        (Some(ours), Some(theirs)) => format!("{} (ours {ours}, theirs {theirs})", clip(what)),
        _ => clip(what),
    }
}

/// One line's worth of text from a library, safe to print.
fn clip(text: &str) -> String {
    crate::intake::printable(text, 60)
}

fn refuse(path: &Path, reason: RefusalReason, message: std::fmt::Arguments<'_>, hint: &str) -> KernelError {
    Refusal::new(path, reason, message, hint).into()
}
