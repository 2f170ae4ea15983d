//! The callsites that plugins' events and spans come from, as `tracing` wants them: registered once, and there
//! for good.
//!
//! One is made for each that differs, whichever plugin and generation it comes from, so that loading the same
//! plugin ten thousand times adds nothing. They are bounded all the same: a plugin that makes up names gets the
//! generic ones in the end, which hold names and fields as text.
#![forbid(unsafe_code)]

use std::{
    array,
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use oxide_plugin_api::ffi::host_table::LogField;
use parking_lot::RwLock;
use tracing_core::{
    Dispatch, Interest, Kind, Level, Metadata, callsite,
    field::{Field, FieldSet, Value, ValueSet, display},
    identify_callsite,
};

use super::{
    number, text,
    values::{Held, More},
};

/// As many fields as `tracing` has ever promised to carry.
const MAX_SLOTS: usize = 32;
/// As many of them as are the plugin's.
const MAX_OWN: usize = MAX_SLOTS - HOST_FIELDS.len();
const HOST_FIELDS: [&str; 2] = ["module", "generation"];
/// The field that takes, as text, what has no place of its own.
const MORE: &str = "more";
/// How many callsites of plugins a process keeps.
const MAX_CALLSITES: usize = 8192;
/// How much text one of them may be made of.
const MAX_TEXT: usize = 4 * 1024;

const GENERIC_TARGET: &str = "oxide_host::plugin";
const GENERIC_FIELDS: [&str; 6] =
    ["message", "fields", "plugin_name", "plugin_target", "module", "generation"];

const NEVER: u8 = 0;
const SOMETIMES: u8 = 1;
const ALWAYS: u8 = 2;

/// A record as a callsite sees it, still in the plugin's memory.
pub(super) struct Shape<'a> {
    pub(super) span: bool,
    pub(super) level: Level,
    pub(super) line: u32,
    pub(super) name: &'a str,
    pub(super) target: &'a str,
    pub(super) module_path: &'a str,
    pub(super) file: &'a str,
    pub(super) fields: &'a [LogField<'a>],
}

impl Shape<'_> {
    fn texts(&self) -> [&str; 4] {
        [self.name, self.target, self.module_path, self.file]
    }

    /// How many fields get a place of their own.
    fn own(&self) -> usize {
        if self.fields.len() <= MAX_OWN { self.fields.len() } else { MAX_OWN - 1 }
    }

    fn own_names(&self) -> impl Iterator<Item = &str> {
        self.fields[..self.own()].iter().map(slot_name)
    }

    fn rest(&self) -> Option<usize> {
        (self.fields.len() > self.own()).then_some(self.own())
    }

    fn len(&self) -> usize {
        self.texts().into_iter().chain(self.own_names()).map(str::len).sum()
    }
}

impl Hash for Shape<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.span, number(self.level), self.line, self.texts(), self.rest()).hash(state);
        self.own_names().for_each(|name| name.hash(state));
    }
}

/// The name of a plugin's field here: `module` and `generation` are the host's to say.
fn slot_name<'a>(field: &'a LogField<'_>) -> &'a str {
    match text(&field.name) {
        "module" => "plugin.module",
        "generation" => "plugin.generation",
        name => name,
    }
}

/// Who speaks.
pub(super) struct Origin<'a> {
    pub(super) module: &'a str,
    pub(super) generation: u64,
    pub(super) name: &'a str,
    pub(super) target: &'a str,
}

/// One callsite; its slots are the plugin's own fields, then perhaps one for the rest, then the host's.
pub(super) struct Callsite {
    /// Set before anyone sees the callsite: `Metadata` has to refer to it.
    ready: OnceLock<Ready>,
    own: usize,
    rest: Option<usize>,
    generic: bool,
    registered: AtomicBool,
    interest: AtomicU8,
}

struct Ready {
    metadata: Metadata<'static>,
    fields: Vec<Field>,
}

impl callsite::Callsite for Callsite {
    fn set_interest(&self, interest: Interest) {
        let interest = if interest.is_never() {
            NEVER
        } else if interest.is_always() {
            ALWAYS
        } else {
            SOMETIMES
        };
        self.interest.store(interest, Ordering::Relaxed);
    }

    fn metadata(&self) -> &Metadata<'_> {
        &self.ready().metadata
    }
}

impl Callsite {
    fn ready(&self) -> &Ready {
        self.ready.get().expect("set where it is made")
    }

    pub(super) fn metadata(&'static self) -> &'static Metadata<'static> {
        &self.ready().metadata
    }

    /// Tells `tracing` of it, once. Holds no lock of ours: it calls subscribers.
    pub(super) fn register(&'static self) {
        if !self.registered.load(Ordering::Relaxed) && !self.registered.swap(true, Ordering::Relaxed) {
            callsite::register(self);
        }
    }

    /// Whether all subscribers have said that they never want it.
    pub(super) fn is_never(&self) -> bool {
        self.interest.load(Ordering::Relaxed) == NEVER
    }

    /// Whether this one wants it now.
    pub(super) fn is_wanted(&'static self, dispatch: &Dispatch) -> bool {
        match self.interest.load(Ordering::Relaxed) {
            NEVER => false,
            ALWAYS => true,
            _ => dispatch.enabled(self.metadata()),
        }
    }

    fn matches(&self, shape: &Shape<'_>) -> bool {
        let Ready { metadata, fields } = self.ready();
        metadata.is_span() == shape.span
            && *metadata.level() == shape.level
            && metadata.line().unwrap_or(0) == shape.line
            && [
                metadata.name(),
                metadata.target(),
                metadata.module_path().unwrap_or(""),
                metadata.file().unwrap_or(""),
            ] == shape.texts()
            && self.rest == shape.rest()
            && fields[..self.own].iter().map(Field::name).eq(shape.own_names())
    }

    /// Gives `body` the values of a record of this callsite's. Without an origin they are additions to a span.
    pub(super) fn with_values<R>(
        &'static self,
        fields: &[LogField<'_>],
        origin: Option<&Origin<'_>>,
        body: impl FnOnce(&ValueSet<'_>) -> R,
    ) -> R {
        let Ready { metadata, fields: slots } = self.ready();
        let own = &slots[..self.own];
        let mut more = More::default();
        let mut held: [Held<'_>; MAX_SLOTS] = array::from_fn(|_| Held::Nothing);
        for (at, field) in fields.iter().enumerate() {
            let name = slot_name(field);
            // Almost always its place is where it stands.
            let slot = if own.get(at).is_some_and(|slot| slot.name() == name) {
                Some(at)
            } else {
                own.iter().position(|slot| slot.name() == name)
            };
            match slot {
                Some(slot) => held[slot] = Held::of(field),
                None if self.rest.is_some() => more.add(name, &Held::of(field)),
                None => {}
            }
        }
        if let Some(rest) = self.rest.filter(|_| !more.is_empty()) {
            held[rest] = Held::Debug(display(more.as_str()));
        }
        if let Some(origin) = origin {
            let host = slots.len() - HOST_FIELDS.len();
            held[host] = Held::Str(origin.module);
            held[host + 1] = Held::U64(origin.generation);
            if self.generic {
                held[host - 2] = Held::Str(origin.name);
                held[host - 1] = Held::Str(origin.target);
            }
        }
        let pairs: [(&Field, Option<&dyn Value>); MAX_SLOTS] = array::from_fn(|at| match slots.get(at) {
            Some(slot) => (slot, held[at].value()),
            None => (&slots[0], None),
        });
        body(&metadata.fields().value_set(&pairs))
    }
}

/// All callsites, found by what they are.
pub(super) struct Callsites {
    limit: usize,
    hasher: RandomState,
    known: RwLock<Known>,
    /// For spans and for events, one per level.
    generic: [[OnceLock<&'static Callsite>; 5]; 2],
    told: AtomicBool,
}

#[derive(Default)]
struct Known {
    count: usize,
    by_hash: HashMap<u64, Vec<&'static Callsite>>,
    /// Most callsites share their target, file and field names with others.
    texts: HashSet<&'static str>,
}

impl Known {
    fn find(&self, hash: u64, shape: &Shape<'_>) -> Option<&'static Callsite> {
        self.by_hash.get(&hash)?.iter().copied().find(|callsite| callsite.matches(shape))
    }

    fn keep(&mut self, text: &str) -> &'static str {
        if let Some(kept) = self.texts.get(text) {
            return kept;
        }
        let kept: &'static str = Box::leak(Box::from(text));
        self.texts.insert(kept);
        kept
    }
}

impl Callsites {
    /// Those of the process.
    pub(super) fn of_process() -> &'static Self {
        static ALL: LazyLock<Callsites> = LazyLock::new(|| Callsites::new(MAX_CALLSITES));
        &ALL
    }

    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            hasher: RandomState::new(),
            known: RwLock::default(),
            generic: Default::default(),
            told: AtomicBool::new(false),
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.known.read().count
    }

    /// The callsite of that shape, made now if it is new and there is room.
    pub(super) fn find(&self, shape: &Shape<'_>) -> &'static Callsite {
        if shape.len() > MAX_TEXT {
            return self.generic(shape);
        }
        let hash = self.hasher.hash_one(shape);
        {
            let known = self.known.read();
            if let Some(callsite) = known.find(hash, shape) {
                return callsite;
            }
            if known.count >= self.limit {
                drop(known);
                return self.generic_for_want_of_room(shape);
            }
        }
        let mut known = self.known.write();
        if let Some(callsite) = known.find(hash, shape) {
            return callsite;
        }
        if known.count >= self.limit {
            drop(known);
            return self.generic_for_want_of_room(shape);
        }
        let callsite = known.make(shape);
        known.by_hash.entry(hash).or_default().push(callsite);
        known.count += 1;
        callsite
    }

    fn generic(&self, shape: &Shape<'_>) -> &'static Callsite {
        self.generic[usize::from(shape.span)][number(shape.level) - 1].get_or_init(|| {
            let name = if shape.span { "plugin span" } else { "plugin event" };
            let kind = if shape.span { Kind::SPAN } else { Kind::EVENT };
            leak(1, Some(1), true, &GENERIC_FIELDS, |fields| {
                Metadata::new(name, GENERIC_TARGET, shape.level, None, None, None, fields, kind)
            })
        })
    }

    fn generic_for_want_of_room(&self, shape: &Shape<'_>) -> &'static Callsite {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                limit = self.limit,
                "plugins have used up the callsites of this process; new ones appear under {GENERIC_TARGET}"
            );
        }
        self.generic(shape)
    }
}

impl Known {
    fn make(&mut self, shape: &Shape<'_>) -> &'static Callsite {
        let [name, target, module_path, file] = shape.texts().map(|text| self.keep(text));
        let names: Vec<&'static str> = shape
            .own_names()
            .map(|name| self.keep(name))
            .chain(shape.rest().map(|_| MORE))
            .chain(HOST_FIELDS)
            .collect();
        let known = |text: &'static str| (!text.is_empty()).then_some(text);
        let line = (shape.line != 0).then_some(shape.line);
        let kind = if shape.span { Kind::SPAN } else { Kind::EVENT };
        leak(shape.own(), shape.rest(), false, names.leak(), |fields| {
            Metadata::new(name, target, shape.level, known(file), line, known(module_path), fields, kind)
        })
    }
}

/// Makes a callsite that stays for good.
fn leak(
    own: usize,
    rest: Option<usize>,
    generic: bool,
    names: &'static [&'static str],
    metadata: impl FnOnce(FieldSet) -> Metadata<'static>,
) -> &'static Callsite {
    let callsite: &'static Callsite = Box::leak(Box::new(Callsite {
        ready: OnceLock::new(),
        own,
        rest,
        generic,
        registered: AtomicBool::new(false),
        interest: AtomicU8::new(SOMETIMES),
    }));
    let metadata = metadata(FieldSet::new(names, identify_callsite!(callsite)));
    let fields = metadata.fields().iter().collect();
    let _ = callsite.ready.set(Ready { metadata, fields });
    callsite
}
