//! A WASM file as bytes: component or core module, what it imports and what it exports. What a guest must have to be
//! a module is its engine's affair, and so is whether its code is sound.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmparser::{Chunk, ExternalKind, Parser, Payload, TypeRef};

use super::{Fault, RefusalReason, text};

/// What every WASM file begins with.
const MAGIC: &[u8] = b"\0asm";

/// The magic, and the version.
const HEADER: usize = 8;

/// So many modules and components may lie one inside the other.
const DEEPEST: usize = 100;

/// So many imports, and as many exports, are listed.
const MOST: usize = 1000;

/// What a WASM file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WasmFacts {
    /// Component or core module.
    pub format: WasmFormat,
    /// The file's length in bytes.
    pub size: u64,
    /// What it must be given; the first thousand.
    pub imports: Vec<WasmItem>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_imports: u64,
    /// What it offers; the first thousand.
    pub exports: Vec<WasmItem>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_exports: u64,
}

/// The two sorts of WASM files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WasmFormat {
    /// Of the component model: its imports and exports have types of their own.
    Component,
    /// A core module.
    Core,
}

/// Something that a WASM file imports or exports. Its names are as the file has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WasmItem {
    /// `func`, `memory`, `instance`…
    pub kind: String,
    /// Of a core module's import, the module that it is imported from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Its name.
    pub name: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Whether these bytes begin as a WASM file does.
pub(super) fn is_wasm(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Tells from a file's first bytes whether this is a sort of WASM that is known.
pub(super) fn check_header(head: &[u8]) -> Result<(), Fault> {
    let Some(version) = head.get(MAGIC.len()..HEADER) else {
        return Err(Fault::damaged(format_args!(
            "ends inside its header: {} of {HEADER} bytes are there",
            head.len()
        )));
    };
    let pair = |at: usize| version.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    match (u16::from_le_bytes(pair(0)), u16::from_le_bytes(pair(2))) {
        (1, 0) | (0x0d, 1) => Ok(()),
        (version, layer) => Err(Fault::new(
            RefusalReason::WasmVersion,
            format_args!(
                "is WebAssembly of version {version} and layer {layer}, known are 1 and 0 (a core module) and 13 and 1 \
                 (a component)"
            ),
            "build it with current tools",
        )),
    }
}

impl WasmFacts {
    /// Follows a file to its end; what is inside of other parts of it is followed, and not listed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        check_header(bytes)?;
        let mut facts = Self {
            format: if Parser::is_component(bytes) { WasmFormat::Component } else { WasmFormat::Core },
            size: bytes.len() as u64,
            imports: Vec::new(),
            more_imports: 0,
            exports: Vec::new(),
            more_exports: 0,
        };
        let (mut parser, mut around, mut rest) = (Parser::new(0), Vec::new(), bytes);
        loop {
            let Chunk::Parsed { consumed, payload } = parser.parse(rest, true)? else {
                return Err(Fault::damaged("ends early"));
            };
            rest = rest.get(consumed..).unwrap_or_default();
            match payload {
                Payload::ModuleSection { parser: inner, .. }
                | Payload::ComponentSection { parser: inner, .. } => {
                    if around.len() == DEEPEST {
                        return Err(Fault::new(
                            RefusalReason::Damaged,
                            format_args!(
                                "holds more than {DEEPEST} modules and components, one inside the other"
                            ),
                            "build it without so many layers",
                        ));
                    }
                    around.push(std::mem::replace(&mut parser, inner));
                }
                Payload::End(_) => match around.pop() {
                    Some(outer) => parser = outer,
                    None => return Ok(facts),
                },
                Payload::UnknownSection { id, .. } => {
                    return Err(Fault::damaged(format_args!(
                        "has a section of a kind that is unknown ({id})"
                    )));
                }
                payload if around.is_empty() => facts.note(payload)?,
                _ => {}
            }
        }
    }

    /// Takes down what a section of the file's own says.
    fn note(&mut self, payload: Payload<'_>) -> Result<(), Fault> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    self.import(WasmItem::new(kind_of(import.ty), import.name).from(import.module));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.export(WasmItem::new(word(export.kind), export.name));
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    self.import(WasmItem::new(import.ty.kind().desc(), import.name.name));
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.export(WasmItem::new(export.kind.desc(), export.name.name));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, item: WasmItem) {
        add(&mut self.imports, &mut self.more_imports, item);
    }

    fn export(&mut self, item: WasmItem) {
        add(&mut self.exports, &mut self.more_exports, item);
    }
}

fn add(list: &mut Vec<WasmItem>, more: &mut u64, item: WasmItem) {
    if list.len() < MOST {
        list.push(item);
    } else {
        *more += 1;
    }
}

fn kind_of(ty: TypeRef) -> &'static str {
    match ty {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => word(ExternalKind::Func),
        TypeRef::Table(_) => word(ExternalKind::Table),
        TypeRef::Memory(_) => word(ExternalKind::Memory),
        TypeRef::Global(_) => word(ExternalKind::Global),
        TypeRef::Tag(_) => word(ExternalKind::Tag),
    }
}

fn word(kind: ExternalKind) -> &'static str {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => "func",
        ExternalKind::Table => "table",
        ExternalKind::Memory => "memory",
        ExternalKind::Global => "global",
        ExternalKind::Tag => "tag",
    }
}

impl WasmItem {
    fn new(kind: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), module: None, name: name.to_owned() }
    }

    fn from(mut self, module: &str) -> Self {
        self.module = Some(module.to_owned());
        self
    }
}

impl fmt::Display for WasmItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(module) = &self.module {
            write!(f, "{module}.")?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for WasmFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Component => "component",
            Self::Core => "core module",
        })
    }
}

impl From<wasmparser::Error> for Fault {
    fn from(error: wasmparser::Error) -> Self {
        Self::damaged(format_args!(
            "is damaged or ends early: {} at byte {}",
            text::short(&text::lower_first(error.message())),
            error.offset()
        ))
    }
}
