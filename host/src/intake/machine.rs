//! Which machine a library is for, and whether that is this one.

use std::{borrow::Cow, env::consts, fmt};

use object::Architecture;

use super::{Fault, RefusalReason, text};

/// The file formats of dynamic libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Elf,
    Pe,
    MachO,
}

/// Format, processor, word size and byte order of a library, and its system where the file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) format: Format,
    /// As in `std::env::consts::ARCH`; several, joined by `and`, for a universal file none of whose parts fits.
    pub(super) arch: Cow<'static, str>,
    pub(super) bits: u8,
    pub(super) little_endian: bool,
    /// As in `std::env::consts::OS`; most ELF files do not say.
    pub(super) os: Option<&'static str>,
}

impl Machine {
    /// The machine that this host runs on.
    pub(super) fn host() -> Self {
        let format = if cfg!(windows) {
            Format::Pe
        } else if cfg!(target_vendor = "apple") {
            Format::MachO
        } else {
            Format::Elf
        };
        Self {
            format,
            arch: Cow::Borrowed(consts::ARCH),
            bits: if cfg!(target_pointer_width = "64") { 64 } else { 32 },
            little_endian: cfg!(target_endian = "little"),
            os: Some(consts::OS),
        }
    }

    /// Whether this host's loader could take a library of this machine at all.
    pub(super) fn is_host(&self) -> bool {
        let host = Self::host();
        self.format == host.format
            && self.arch == host.arch
            && self.bits == host.bits
            && self.little_endian == host.little_endian
            && self.os.is_none_or(|os| Some(os) == host.os)
    }

    /// The refusal of a library for another machine.
    pub(super) fn wrong(&self) -> Fault {
        let host = Self::host();
        let article = if self.format == Format::Elf { "an" } else { "a" };
        Fault::new(
            RefusalReason::WrongTarget,
            format_args!(
                "is {article} {} library for {self}, this host runs {} libraries for {host}",
                self.format, host.format
            ),
            target_hint(),
        )
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arch)?;
        // Said only where a reader could not know it from the processor's name.
        if !self.little_endian && !matches!(&*self.arch, "s390x" | "m68k" | "sparc64" | "powerpc") {
            f.write_str(" (big-endian)")?;
        }
        match self.os {
            Some("linux") => f.write_str(" Linux"),
            Some("macos") => f.write_str(" macOS"),
            Some("windows") => f.write_str(" Windows"),
            Some("freebsd") => f.write_str(" FreeBSD"),
            Some("netbsd") => f.write_str(" NetBSD"),
            Some("openbsd") => f.write_str(" OpenBSD"),
            Some("solaris") => f.write_str(" Solaris"),
            Some(other) => write!(f, " {other}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "ELF",
            Self::Pe => "PE",
            Self::MachO => "Mach-O",
        })
    }
}

/// The processor's name as Rust has it.
pub(super) fn arch_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::X86_64_X32 => "x86_64 (x32)",
        Architecture::I386 => "x86",
        Architecture::Aarch64 => "aarch64",
        Architecture::Aarch64_Ilp32 => "aarch64 (ilp32)",
        Architecture::Arm => "arm",
        Architecture::Riscv64 => "riscv64",
        Architecture::Riscv32 => "riscv32",
        Architecture::LoongArch64 => "loongarch64",
        Architecture::PowerPc64 => "powerpc64",
        Architecture::PowerPc => "powerpc",
        Architecture::S390x => "s390x",
        Architecture::Mips64 => "mips64",
        Architecture::Mips => "mips",
        Architecture::Sparc64 => "sparc64",
        Architecture::Sparc => "sparc",
        Architecture::M68k => "m68k",
        Architecture::Hexagon => "hexagon",
        _ => "an unknown processor",
    }
}

/// Compares the target that the description names with this host's. The file's own header has been compared
/// before; what is left to differ is the system and its C library (`musl` against `gnu`, `ios` against `macos`).
pub(super) fn check_target(theirs: &str) -> Result<(), Fault> {
    let ours = oxide_plugin_api::ffi::describe::TARGET;
    if essence(theirs) == essence(ours) {
        return Ok(());
    }
    Err(Fault::new(
        RefusalReason::WrongTarget,
        format_args!("was built for `{}`, this host runs `{ours}`", text::short(theirs)),
        target_hint(),
    ))
}

/// A target triple without what makes no difference at the plugin boundary: the vendor, and on Windows the
/// toolchain, since nothing of either C runtime crosses.
fn essence(triple: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = triple.split('-').collect();
    if parts.len() > 2 {
        parts.remove(1);
    }
    if parts.get(1) == Some(&"windows") {
        parts.truncate(2);
    }
    parts
}

fn target_hint() -> String {
    let ours = oxide_plugin_api::ffi::describe::TARGET;
    format!(
        "build it for this host (`cargo build --target {ours}`), or load it into a host of its own target"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_this_machine() {
        assert!(Machine::host().is_host());
        assert!(Machine { os: None, ..Machine::host() }.is_host());
        assert!(!Machine { os: Some("plan9"), ..Machine::host() }.is_host());
        assert!(!Machine { bits: 32, ..Machine::host() }.is_host());
    }

    #[test]
    fn vendor_and_windows_toolchain_make_no_difference() {
        assert_eq!(essence("x86_64-unknown-linux-gnu"), essence("x86_64-acme-linux-gnu"));
        assert_eq!(essence("x86_64-pc-windows-gnu"), essence("x86_64-pc-windows-msvc"));
        assert_ne!(essence("x86_64-unknown-linux-gnu"), essence("x86_64-unknown-linux-musl"));
        assert_ne!(essence("aarch64-apple-darwin"), essence("aarch64-apple-ios"));
        assert_ne!(essence(""), essence("x86_64-unknown-linux-gnu"));
    }
}
