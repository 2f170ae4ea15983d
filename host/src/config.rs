//! The configuration file of `oxide-host run --config FILE`, in TOML.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::{
    daemon::ErrorReport,
    host::{Host, HostBuilder},
    manager::LoadOptions,
};

/// What the file says. A key that it does not know is an error, not a guess.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where the host listens, unless the command line or `OXIDE_SOCKET` says otherwise.
    pub socket: Option<PathBuf>,
    /// Where the private copies of plugins lie.
    pub staging_dir: Option<PathBuf>,
    /// How long a module's `init` may take: `"30s"`, `"500ms"`, `"2m"`, or seconds as a number.
    #[serde(default, deserialize_with = "duration")]
    pub init_timeout: Option<Duration>,
    /// How long a module's `start` may take.
    #[serde(default, deserialize_with = "duration")]
    pub start_timeout: Option<Duration>,
    /// How long a module's `stop` may take.
    #[serde(default, deserialize_with = "duration")]
    pub stop_timeout: Option<Duration>,
    /// How long an unload waits for the calls inside before it cancels them.
    #[serde(default, deserialize_with = "duration")]
    pub drain_timeout: Option<Duration>,
    /// How long an unload waits for the threads that the module started.
    #[serde(default, deserialize_with = "duration")]
    pub thread_timeout: Option<Duration>,
    /// How long threads on which a module left thread-locals may take to come by, at its unload.
    #[serde(default, deserialize_with = "duration")]
    pub local_timeout: Option<Duration>,
    /// How long the dynamic loader may take to open or close a library.
    #[serde(default, deserialize_with = "duration")]
    pub loader_timeout: Option<Duration>,
    /// How long a swap may hold calls while it hands the state over.
    #[serde(default, deserialize_with = "duration")]
    pub hold_timeout: Option<Duration>,
    /// How many calls a swap may hold.
    pub held_calls: Option<usize>,
    /// How many bytes a state that is handed over may have.
    pub state_bytes: Option<usize>,
    /// How many generations of one module may be retained before its swaps are refused.
    pub retained: Option<usize>,
    /// How long a module may take over one message.
    #[serde(default, deserialize_with = "duration")]
    pub message_timeout: Option<Duration>,
    /// Whether plugins may need libraries that are not part of the system.
    pub allow_foreign_libraries: Option<bool>,
    /// The engine that runs WASM guests, unless `OXIDE_WASM_ENGINE` says otherwise; looked for when neither does.
    pub wasm_engine: Option<PathBuf>,
    /// Where engines keep what they have compiled: a folder, or `false` for nowhere.
    #[serde(default)]
    pub wasm_cache: WasmCache,
    /// The modules to load, in this order.
    #[serde(default, rename = "module")]
    pub modules: Vec<ModuleConfig>,
}

/// Where engines keep what they have compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WasmCache {
    /// In the user's folder for such things.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// In this folder.
    At(PathBuf),
}

/// One `[[module]]` of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModuleConfig {
    /// The plugin's file.
    pub path: PathBuf,
    /// The id to manage it under, in place of its own.
    pub id: Option<String>,
    /// What its `configure` gets.
    #[serde(default, deserialize_with = "json")]
    pub config: Value,
    /// Whether it is started.
    #[serde(default = "yes")]
    pub start: bool,
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or has a key or value that is not understood.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text).map_err(|(place, problem)| ConfigError::Invalid {
            path: path.to_owned(),
            place,
            problem,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let paths = config.modules.iter_mut().map(|module| &mut module.path);
        let cache = match &mut config.wasm_cache {
            WasmCache::At(folder) => Some(folder),
            WasmCache::Default | WasmCache::Off => None,
        };
        let own = [config.socket.as_mut(), config.staging_dir.as_mut(), config.wasm_engine.as_mut(), cache];
        for path in paths.chain(own.into_iter().flatten()) {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, (Place, String)> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let offset = error.span().map_or(0, |span| span.start);
            (Place::of(text, offset), error.message().to_owned())
        })
    }

    /// A builder with what the file says about the host itself.
    pub fn builder(&self) -> HostBuilder {
        let mut builder = Host::builder();
        if let Some(dir) = &self.staging_dir {
            builder = builder.staging_dir(dir.clone());
        }
        let limits = builder.limits_mut();
        set(&mut limits.init, self.init_timeout);
        set(&mut limits.start, self.start_timeout);
        set(&mut limits.stop, self.stop_timeout);
        set(&mut limits.drain, self.drain_timeout);
        set(&mut limits.threads, self.thread_timeout);
        set(&mut limits.locals, self.local_timeout);
        set(&mut limits.loader, self.loader_timeout);
        set(&mut limits.hold, self.hold_timeout);
        set(&mut limits.held, self.held_calls);
        set(&mut limits.state, self.state_bytes);
        set(&mut limits.retained, self.retained);
        set(&mut limits.message, self.message_timeout);
        if let Some(allow) = self.allow_foreign_libraries {
            builder = builder.allow_foreign_libraries(allow);
        }
        if let Some(engine) = &self.wasm_engine {
            builder = builder.wasm_engine(engine.clone());
        }
        builder.wasm_cache(match &self.wasm_cache {
            WasmCache::Default => default_cache(),
            WasmCache::Off => None,
            WasmCache::At(folder) => Some(folder.clone()),
        })
    }
}

/// `oxide/wasm` in the user's folder for caches.
fn default_cache() -> Option<PathBuf> {
    // The specification says to ignore a relative one.
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("oxide").join("wasm"))
}

impl<'de> Deserialize<'de> for WasmCache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a folder, or false for no cache")]
        enum Written {
            Switch(bool),
            Folder(PathBuf),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Switch(true) => Self::Default,
            Written::Switch(false) => Self::Off,
            Written::Folder(folder) => Self::At(folder),
        })
    }
}

impl ModuleConfig {
    /// How this module is to be loaded.
    pub fn options(&self) -> LoadOptions {
        let mut options = LoadOptions::new().config(self.config.clone()).start(self.start);
        options.id.clone_from(&self.id);
        options
    }
}

/// Why a configuration file was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file `{}`", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its content is not understood.
    #[error("{}:{place}: {problem}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong.
        problem: String,
    },
}

impl From<&ConfigError> for ErrorReport {
    fn from(error: &ConfigError) -> Self {
        Self::of("usage", error)
    }
}

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What the file says, where it says something.
fn set<T: Copy>(limit: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *limit = said;
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a duration: \"30s\", \"500ms\", \"2m\", \"1h\", or seconds")]
    enum Written {
        Seconds(u64),
        Fraction(f64),
        Text(String),
    }
    let parsed = match Written::deserialize(deserializer)? {
        Written::Seconds(seconds) => Ok(Duration::from_secs(seconds)),
        Written::Fraction(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| no_duration(&seconds)),
        Written::Text(text) => parse_duration(&text),
    };
    parsed.map(Some).map_err(de::Error::custom)
}

/// A duration as people write it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || no_duration(&text);
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..unit].parse().map_err(|_| wrong())?;
    let seconds = match text[unit..].trim() {
        "ms" => number / 1_000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

fn no_duration(written: &dyn fmt::Display) -> String {
    format!("`{written}` is no duration: write \"30s\", \"500ms\", \"2m\", \"1h\", or seconds")
}

fn json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    toml::Value::deserialize(deserializer).map(to_json)
}

/// TOML as JSON. Dates, which JSON has not, become text.
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(items) => items.into_iter().map(to_json).collect(),
        toml::Value::Table(fields) => fields.into_iter().map(|(key, value)| (key, to_json(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> String {
        let (place, problem) = Config::parse(text).expect_err("it is wrong");
        format!("{place}: {problem}")
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = Config::parse(
            r#"
            socket = "/run/oxide.sock"
            staging_dir = "staging"
            init_timeout = "1m"
            start_timeout = 5
            stop_timeout = "500ms"
            drain_timeout = 0.25
            thread_timeout = "2s"
            local_timeout = "3s"
            loader_timeout = "20s"
            hold_timeout = "1.5s"
            held_calls = 100
            state_bytes = 1048576
            retained = 3
            message_timeout = "1h"
            allow_foreign_libraries = true
            wasm_engine = "/opt/libwasm_runtime.so"
            wasm_cache = "/var/cache/oxide"

            [[module]]
            path = "libecho.so"

            [[module]]
            path = "/opt/libcounter.so"
            id = "other"
            start = false
            config = { from = 3, since = 2026-01-02, steps = [1, 2.5, true] }
            "#,
        )
        .expect("it is right");
        assert_eq!(config.socket.as_deref(), Some(Path::new("/run/oxide.sock")));
        assert_eq!(config.init_timeout, Some(Duration::from_secs(60)));
        assert_eq!(config.start_timeout, Some(Duration::from_secs(5)));
        assert_eq!(config.stop_timeout, Some(Duration::from_millis(500)));
        assert_eq!(config.drain_timeout, Some(Duration::from_millis(250)));
        assert_eq!(config.thread_timeout, Some(Duration::from_secs(2)));
        assert_eq!(config.message_timeout, Some(Duration::from_secs(3600)));
        let mut builder = config.builder();
        let limits = builder.limits_mut();
        assert_eq!((limits.locals, limits.loader), (Duration::from_secs(3), Duration::from_secs(20)));
        assert_eq!((limits.hold, limits.held), (Duration::from_millis(1500), 100));
        assert_eq!((limits.state, limits.retained), (1 << 20, 3));
        assert_eq!(config.allow_foreign_libraries, Some(true));
        assert_eq!(config.wasm_engine.as_deref(), Some(Path::new("/opt/libwasm_runtime.so")));
        assert_eq!(config.wasm_cache, WasmCache::At("/var/cache/oxide".into()));
        let [echo, other] = &config.modules[..] else { panic!("two modules") };
        assert_eq!((echo.start, &echo.config, &echo.id), (true, &Value::Null, &None));
        assert_eq!((other.start, other.id.as_deref()), (false, Some("other")));
        assert_eq!(other.config, json!({"from": 3, "since": "2026-01-02", "steps": [1, 2.5, true]}));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("host.toml");
        let own = "staging_dir = 'staging'\nwasm_engine = 'engine.so'\nwasm_cache = 'cache'\n";
        fs::write(&file, format!("{own}[[module]]\npath = 'a.so'\n[[module]]\npath = '/b.so'\n"))
            .expect("written");
        let config = Config::read(&file).expect("it is right");
        assert_eq!(config.staging_dir, Some(folder.path().join("staging")));
        assert_eq!(config.wasm_engine, Some(folder.path().join("engine.so")));
        assert_eq!(config.wasm_cache, WasmCache::At(folder.path().join("cache")));
        assert_eq!(config.modules[0].path, folder.path().join("a.so"));
        assert_eq!(config.modules[1].path, Path::new("/b.so"));
    }

    #[test]
    fn the_cache_can_be_turned_off() {
        let cache = |text| Config::parse(text).expect("it is right").wasm_cache;
        assert_eq!(cache("wasm_cache = false"), WasmCache::Off);
        assert_eq!(cache("wasm_cache = true"), WasmCache::Default);
        assert_eq!(cache(""), WasmCache::Default);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        insta::assert_snapshot!(problem("socket = 'x'\nsockets = 'y'\n"), @"2:1: unknown field `sockets`, expected one of `socket`, `staging_dir`, `init_timeout`, `start_timeout`, `stop_timeout`, `drain_timeout`, `thread_timeout`, `local_timeout`, `loader_timeout`, `hold_timeout`, `held_calls`, `state_bytes`, `retained`, `message_timeout`, `allow_foreign_libraries`, `wasm_engine`, `wasm_cache`, `module`");
        insta::assert_snapshot!(problem("[[module]]\npath = 'x'\nautostart = true\n"), @"3:1: unknown field `autostart`, expected one of `path`, `id`, `config`, `start`");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_place() {
        insta::assert_snapshot!(problem("init_timeout = 'soon'"), @r#"1:16: `soon` is no duration: write "30s", "500ms", "2m", "1h", or seconds"#);
        insta::assert_snapshot!(problem("init_timeout = -3"), @r#"1:16: `-3` is no duration: write "30s", "500ms", "2m", "1h", or seconds"#);
        insta::assert_snapshot!(problem("init_timeout = [1]"), @r#"1:16: expected a duration: "30s", "500ms", "2m", "1h", or seconds"#);
        insta::assert_snapshot!(problem("wasm_cache = 3"), @"1:14: expected a folder, or false for no cache");
        insta::assert_snapshot!(problem("[[module]]\nid = 'x'"), @"1:1: missing field `path`");
        insta::assert_snapshot!(problem("socket ="), @"1:9: string values must be quoted, expected literal string");
    }
}
