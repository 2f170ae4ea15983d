//! What the dynamic loader will be told about a library, and with it whether it can be opened and unmapped.

use crate::report::{Holder, Retention};

use super::text;

/// The symbol that a plugin exports; `abi_stable` chose the name. Mach-O puts another `_` in front.
pub(super) const ENTRY: &str = "_1as_0lib_1header_0root_bmodule_bloader";

/// Functions whose effects outlive an unload unless the host counts and undoes them. Not here is what the C library
/// undoes itself when a library is closed (`atexit`, `at_quick_exit`, `pthread_atfork`), nor what is harmless in most
/// hands and imported by many (`setvbuf`, `fmemopen`).
static FOREIGN: [&str; 41] = [
    // The plugin's shim binds these inside the plugin: a file that *imports* one was built around the shim.
    "__cxa_thread_atexit_impl",
    "pthread_key_create",
    "pthread_setspecific",
    "pthread_key_delete",
    "pthread_create",
    "sigaction",
    "signal",
    // Ways past it, which only C code takes.
    "__cxa_thread_atexit",
    "_tlv_atexit",
    "thrd_create",
    "tss_create",
    "clone",
    "__clone",
    "__sigaction",
    "bsd_signal",
    "ssignal",
    "sysv_signal",
    "__sysv_signal",
    "sigset",
    // What the C library calls later, on a thread of its own or whosever it is.
    "timer_create",
    "mq_notify",
    "getaddrinfo_a",
    "on_exit",
    "fopencookie",
    "register_printf_function",
    "register_printf_specifier",
    "register_printf_modifier",
    "register_printf_type",
    // Memory that it uses later: for what it reads and writes meanwhile, a thread's stack with the thread's own record
    // in it, and text that it does not copy.
    "aio_read",
    "aio_read64",
    "aio_write",
    "aio_write64",
    "aio_fsync",
    "aio_fsync64",
    "lio_listio",
    "lio_listio64",
    "pthread_attr_setstack",
    "pthread_attr_setstackaddr",
    "putenv",
    "openlog",
    "hsearch",
];

/// The static thread-local storage that glibc keeps spare for libraries opened late, unless it was told to keep
/// more (`glibc.rtld.optional_static_tls`): a library that wants more than all of it can't be opened.
const GLIBC_TLS_SURPLUS: u64 = 1664;

/// What decides whether a library can be opened, and whether it can ever be unmapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkFacts {
    /// Imported functions whose effects the host can neither see nor undo.
    pub foreign_imports: Vec<String>,
    /// Marked `DF_1_NODELETE`: the loader never unmaps it.
    pub nodelete: bool,
    /// Defines a `STB_GNU_UNIQUE` symbol: the loader never unmaps it.
    pub unique_symbols: bool,
    /// Wants its thread-local storage in the static block (`DF_STATIC_TLS`), which has little room left once
    /// the process runs.
    pub static_tls: bool,
    /// The size of its thread-local storage.
    pub tls_size: u64,
    /// Marked `DF_1_NOOPEN`: the loader refuses to open it.
    pub no_open: bool,
    /// All libraries it needs, as it names them.
    pub needed: Vec<String>,
    /// Those of them that are not part of the base system.
    pub foreign_libraries: Vec<String>,
    /// Where it wants its libraries looked for (`DT_RUNPATH`, `DT_RPATH`); `$ORIGIN` is the folder of the
    /// original file, not of the staged copy.
    pub search_paths: Vec<String>,
    /// Whether it exports the entry point of a plugin.
    pub exports_entry: bool,
}

impl LinkFacts {
    /// Why this library will stay mapped for good once it is opened; empty when nothing in the file says so.
    pub fn retained_by(&self) -> Vec<Retention> {
        let mut reasons = Vec::new();
        if !self.foreign_imports.is_empty() {
            reasons.push(Retention {
                holder: Holder::ForeignImport,
                count: self.foreign_imports.len() as u64,
                detail: format!("imports {}", quoted_list(&self.foreign_imports, FOREIGN.len())),
            });
        }
        if self.nodelete {
            reasons.push(loader("it is marked never to be unmapped (`DF_1_NODELETE`)"));
        }
        if self.unique_symbols {
            reasons.push(loader("it defines a symbol that must be unique in the process (`STB_GNU_UNIQUE`)"));
        }
        reasons
    }

    /// What to do when the loader refuses this library for want of static thread-local storage, if it asks for any.
    pub fn static_tls_hint(&self) -> Option<&'static str> {
        self.static_tls.then_some(
            "its allocator is the usual cause: build jemalloc with the feature `disable_initial_exec_tls`, mimalloc \
             with `local_dynamic_tls`",
        )
    }

    /// Whether the loader is certain to refuse it for want of static thread-local storage. What may fit is left
    /// to the loader to try.
    pub(super) fn static_tls_cannot_fit(&self) -> bool {
        self.static_tls
            && self.tls_size > GLIBC_TLS_SURPLUS
            && cfg!(target_env = "gnu")
            && !surplus_is_tuned()
    }

    /// Sorts a needed library's name in.
    pub(super) fn need(&mut self, name: String, is_base: impl Fn(&str) -> bool) {
        if !is_base(&name) && !self.foreign_libraries.contains(&name) {
            self.foreign_libraries.push(name.clone());
        }
        if !self.needed.contains(&name) {
            self.needed.push(name);
        }
    }

    /// Notes an import if it is one of those that matter. `text` begins with its name, up to a NUL or the text's end.
    pub(super) fn import(&mut self, text: &[u8]) {
        let name = name_in(text);
        if let Some(name) = FOREIGN.iter().find(|foreign| foreign.as_bytes() == name)
            && !self.foreign_imports.iter().any(|known| known == name)
        {
            self.foreign_imports.push((*name).to_owned());
        }
    }
}

/// The name at which `text` begins, up to more than any that matters has: a text without an end costs no more than others.
fn name_in(text: &[u8]) -> &[u8] {
    const MOST: usize = 40;
    let head = text.get(..MOST).unwrap_or(text);
    head.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Whether the operator gave the loader more room. The value was read by the loader at this process's start.
fn surplus_is_tuned() -> bool {
    std::env::var_os("GLIBC_TUNABLES")
        .is_some_and(|tunables| tunables.to_string_lossy().contains("rtld.optional_static_tls"))
}

fn loader(detail: &str) -> Retention {
    Retention { holder: Holder::Loader, count: 1, detail: detail.to_owned() }
}

/// Names in backticks, at most `most` of them.
pub(super) fn quoted_list(names: &[String], most: usize) -> String {
    let mut list: Vec<String> =
        names.iter().take(most).map(|name| format!("`{}`", text::short(name))).collect();
    if names.len() > most {
        list.push(format!("{} more", names.len().saturating_sub(most)));
    }
    match list.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
        None => String::new(),
    }
}

/// Whether an ELF library is part of every system that can run this host. A name with a folder in it is not:
/// it could be anything.
pub(super) fn is_base_elf(name: &str) -> bool {
    const BASE: [&str; 9] =
        ["libc", "libm", "libgcc_s", "libpthread", "libdl", "librt", "libutil", "libresolv", "libexecinfo"];
    if name.contains('/') {
        return false;
    }
    // musl's are `libc.so` and `libc.musl-x86_64.so.1`.
    let stem = name.split_once(".musl-").or_else(|| name.split_once(".so")).map_or("", |(stem, _)| stem);
    BASE.contains(&stem)
        || ["ld-linux", "ld64.so", "ld-musl-", "linux-vdso", "linux-gate"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Whether a DLL comes with Windows.
pub(super) fn is_base_pe(name: &str) -> bool {
    const BASE: [&str; 25] = [
        "kernel32",
        "kernelbase",
        "ntdll",
        "msvcrt",
        "ucrtbase",
        "vcruntime140",
        "vcruntime140_1",
        "advapi32",
        "ws2_32",
        "userenv",
        "bcrypt",
        "bcryptprimitives",
        "ncrypt",
        "crypt32",
        "secur32",
        "ole32",
        "oleaut32",
        "shell32",
        "shlwapi",
        "user32",
        "gdi32",
        "iphlpapi",
        "psapi",
        "dbghelp",
        "rpcrt4",
    ];
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(".dll").unwrap_or(&name);
    BASE.contains(&stem) || stem.starts_with("api-ms-win-") || stem.starts_with("ext-ms-win-")
}

/// Whether a dylib comes with macOS. A path with `..` in it could lead anywhere.
pub(super) fn is_base_macho(name: &str) -> bool {
    (name.starts_with("/usr/lib/") || name.starts_with("/System/Library/")) && !name.contains("/../")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_system_is_known_by_name() {
        for name in ["libc.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "libc.so", "libc.musl-x86_64.so.1"]
        {
            assert!(is_base_elf(name), "{name}");
        }
        for name in ["libssl.so.3", "libstdc++.so.6", "/tmp/libc.so.6", "libcc.so", "libcrypt.so.1", ""] {
            assert!(!is_base_elf(name), "{name}");
        }
        assert!(is_base_pe("KERNEL32.dll") && is_base_pe("api-ms-win-core-synch-l1-2-0.dll"));
        assert!(!is_base_pe("libgcc_s_seh-1.dll"));
        assert!(is_base_macho("/usr/lib/libSystem.B.dylib"));
        assert!(!is_base_macho("/usr/lib/../local/x.dylib") && !is_base_macho("@rpath/x.dylib"));
    }

    #[test]
    fn imports_are_known_by_their_whole_names() {
        let mut facts = LinkFacts::default();
        for text in ["signal\0sigaction", "aio_read64", "aio_read\0", "signal\0", "mq_notify"] {
            facts.import(text.as_bytes());
        }
        assert_eq!(facts.foreign_imports, ["signal", "aio_read64", "aio_read", "mq_notify"]);
        for text in
            ["", "\0", "s", "signals", "signalfd", "aio_error", "timer_delete", "__cxa_atexit", "memcpy"]
        {
            facts.import(text.as_bytes());
        }
        assert_eq!(facts.foreign_imports.len(), 4);
    }

    #[test]
    fn long_lists_are_cut() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        assert_eq!(quoted_list(&names, 3), "`a`, `b`, `c` and 2 more");
        assert_eq!(quoted_list(&names[..2], 3), "`a` and `b`");
        assert_eq!(quoted_list(&names[..1], 3), "`a`");
    }

    #[test]
    fn what_keeps_it_mapped_is_said_with_its_holder() {
        let facts = LinkFacts {
            foreign_imports: vec!["sigaction".into()],
            nodelete: true,
            unique_symbols: true,
            ..LinkFacts::default()
        };
        let holders: Vec<Holder> = facts.retained_by().iter().map(|one| one.holder).collect();
        assert_eq!(holders, [Holder::ForeignImport, Holder::Loader, Holder::Loader]);
        assert!(LinkFacts::default().retained_by().is_empty());
    }
}
