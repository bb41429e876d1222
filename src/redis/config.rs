//! The settings: those of RedisGears 1.x, ours, and the user's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::engine::Limits;
use crate::python::{Alias, Allowed, Sources, shown as without_secrets};

/// Who owned a setting in RedisGears 1.x: replies differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Core,
    Python,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// At least this.
    Integer(i64),
    /// Stored as 0 or 1.
    Flag,
    Text,
    /// Text that is not shown.
    Secret,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Given several times.
    List,
}

/// The releases of RedisGears whose replies can be given; the newest first.
const REPLY_VERSIONS: [&str; 3] = ["1.2.13", "1.2.1", "1.0.0"];

/// The shape of replies that changed inside of 1.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReplyVersion {
    V1_0_0,
    V1_2_1,
    V1_2_13,
}

/// The highest nice value that a thread can have.
const LEAST_PRIORITY: i32 = 19;

struct Definition {
    name: &'static str,
    owner: Owner,
    kind: Kind,
    /// Whether RG.CONFIGSET may change it.
    live: bool,
    default: i64,
}

const fn core(name: &'static str, least: i64, default: i64, live: bool) -> Definition {
    Definition {
        name,
        owner: Owner::Core,
        kind: Kind::Integer(least),
        live,
        default,
    }
}

const fn python(name: &'static str, kind: Kind, default: i64, live: bool) -> Definition {
    Definition {
        name,
        owner: Owner::Python,
        kind,
        live,
        default,
    }
}

const DEFINITIONS: [Definition; 28] = [
    core("MaxExecutions", i64::MIN, 1000, true),
    core("MaxExecutionsPerRegistration", i64::MIN, 100, true),
    core("ProfileExecutions", i64::MIN, 0, true),
    core("ExecutionThreads", 1, 3, false),
    core("ExecutionNice", 0, 5, false),
    core("ExecutionMaxIdleTime", 1, 5000, true),
    core("SendMsgRetries", 0, 3, true),
    core("MaxResultsMemory", 1, 1 << 30, true),
    core("SyncTimeLimit", 0, 0, true),
    core("StreamSharedGroup", 0, 0, true),
    Definition {
        kind: Kind::Choice(&REPLY_VERSIONS),
        ..core("ReplyVersion", 0, 0, true)
    },
    Definition {
        kind: Kind::Text,
        ..core("PythonPath", 0, 0, false)
    },
    Definition {
        kind: Kind::Text,
        ..core("ClusterUser", 0, 0, true)
    },
    Definition {
        kind: Kind::Secret,
        ..core("ClusterPassword", 0, 0, true)
    },
    Definition {
        kind: Kind::List,
        ..core("Plugin", 0, 0, false)
    },
    Definition {
        kind: Kind::Flag,
        ..core("InstallRequirements", 0, 1, false)
    },
    Definition {
        kind: Kind::Text,
        ..core("AllowedRequirements", 0, 0, false)
    },
    Definition {
        kind: Kind::List,
        ..core("RequirementAlias", 0, 0, false)
    },
    Definition {
        kind: Kind::Text,
        ..core("RequirementWheels", 0, 0, false)
    },
    python("CreateVenv", Kind::Flag, 0, false),
    python("DownloadDeps", Kind::Flag, 0, false),
    python("ForeceDownloadDepsOnEnterprise", Kind::Flag, 0, false),
    python("PythonAttemptTraceback", Kind::Flag, 1, true),
    python("OverridePythonAllocators", Kind::Flag, 1, false),
    python("PythonInstallReqMaxIdleTime", Kind::Integer(1), 30000, true),
    python("DependenciesUrl", Kind::Text, 0, false),
    python("DependenciesSha256", Kind::Text, 0, false),
    python("PythonInstallationDir", Kind::Text, 0, false),
];

/// The settings. Read by all threads.
pub(super) struct Settings {
    numbers: [AtomicI64; DEFINITIONS.len()],
    texts: RwLock<BTreeMap<&'static str, Vec<Vec<u8>>>>,
    extra: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    limits: Arc<Limits>,
    /// In milliseconds: looked at for every function that runs at once.
    sync_limit: AtomicU64,
}

/// A setting, for RG.CONFIGGET.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(i64),
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Unknown,
}

/// What became of a pair of RG.CONFIGSET.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Set {
    Done,
    /// Kept as one of the user's own.
    Extra,
    Refused(String),
}

/// Names are matched in any case: that of RG.CONFIGSET did so only sometimes, RG.CONFIGGET never.
fn find(name: &[u8]) -> Option<(usize, &'static Definition)> {
    DEFINITIONS
        .iter()
        .enumerate()
        .find(|(_, known)| known.name.as_bytes().eq_ignore_ascii_case(name))
}

/// A plain decimal number.
fn number(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse()
        .ok()
        .filter(|number: &i64| number.to_string() == text)
}

impl Settings {
    /// All defaults.
    pub(super) fn new() -> Self {
        let mut texts = BTreeMap::new();
        texts.insert(
            "PythonInstallationDir",
            vec![b"/var/opt/redislabs/modules/rg".to_vec()],
        );
        let settings = Self {
            numbers: std::array::from_fn(|at| AtomicI64::new(DEFINITIONS[at].default)),
            texts: RwLock::new(texts),
            extra: RwLock::default(),
            limits: Arc::new(Limits {
                executions: AtomicI64::new(0),
                of_registration: AtomicI64::new(0),
                profile: AtomicBool::new(false),
                result_bytes: AtomicUsize::new(0),
            }),
            sync_limit: AtomicU64::new(0),
        };
        settings.publish();
        settings
    }

    /// The limits of the registry, kept up to date.
    pub(super) fn limits(&self) -> Arc<Limits> {
        self.limits.clone()
    }

    fn publish(&self) {
        self.limits
            .executions
            .store(self.number("MaxExecutions"), Ordering::Relaxed);
        self.limits.of_registration.store(
            self.number("MaxExecutionsPerRegistration"),
            Ordering::Relaxed,
        );
        let limit = u64::try_from(self.number("SyncTimeLimit")).unwrap_or(0);
        self.sync_limit.store(limit, Ordering::Relaxed);
        let profile = self.number("ProfileExecutions") != 0;
        self.limits.profile.store(profile, Ordering::Relaxed);
        let bytes = usize::try_from(self.number("MaxResultsMemory")).unwrap_or(usize::MAX);
        self.limits.result_bytes.store(bytes, Ordering::Relaxed);
    }

    fn number(&self, name: &str) -> i64 {
        find(name.as_bytes()).map_or(0, |(at, _)| self.numbers[at].load(Ordering::Relaxed))
    }

    /// Number of pool threads.
    pub(super) fn threads(&self) -> usize {
        usize::try_from(self.number("ExecutionThreads")).unwrap_or(1)
    }

    /// By how much the priority of threads that run functions is below the server's.
    pub(super) fn nice(&self) -> Option<i32> {
        let nice = self.number("ExecutionNice");
        i32::try_from(nice)
            .ok()
            .filter(|nice| *nice <= LEAST_PRIORITY)
    }

    /// Whether Python's memory is accounted by the server.
    pub(super) fn accounts_python(&self) -> bool {
        self.number("OverridePythonAllocators") != 0
    }

    /// Whether errors carry a traceback.
    pub(super) fn tracebacks(&self) -> bool {
        self.number("PythonAttemptTraceback") != 0
    }

    /// How long a function may run that the server waits for.
    pub(super) fn sync_limit(&self) -> Option<Duration> {
        let limit = self.sync_limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Duration::from_millis(limit))
    }

    /// Whether all stream functions share one consumer group, and so steal entries from each other.
    pub(super) fn shares_stream_groups(&self) -> bool {
        self.number("StreamSharedGroup") != 0
    }

    /// The shape of replies.
    pub(super) fn reply_version(&self) -> ReplyVersion {
        match self.number("ReplyVersion") {
            0 => ReplyVersion::V1_2_13,
            1 => ReplyVersion::V1_2_1,
            _ => ReplyVersion::V1_0_0,
        }
    }

    /// How long shards may be silent.
    pub(super) fn max_idle(&self) -> Duration {
        self.milliseconds("ExecutionMaxIdleTime")
    }

    /// The same while registrations are made on all shards.
    pub(super) fn max_install_idle(&self) -> Duration {
        self.milliseconds("PythonInstallReqMaxIdleTime")
    }

    fn milliseconds(&self, name: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.number(name)).unwrap_or(1))
    }

    /// How often one message to another shard is sent; 0: as often as it takes.
    pub(super) fn send_retries(&self) -> u64 {
        u64::try_from(self.number("SendMsgRetries")).unwrap_or(0)
    }

    /// User and password for connections to other shards, if they were set.
    pub(super) fn cluster_login(&self) -> Option<(Option<String>, String)> {
        let texts = self.texts.read().unwrap_or_else(PoisonError::into_inner);
        let last = |name: &str| {
            let value = texts.get(name).and_then(|values| values.last());
            let value = value.filter(|value| !value.is_empty());
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        Some((last("ClusterUser"), last("ClusterPassword")?))
    }

    /// Directories that Python looks for modules in before all others.
    pub(super) fn python_path(&self) -> Vec<String> {
        match self.get(b"PythonPath") {
            Value::Text(path) => String::from_utf8_lossy(&path)
                .split(':')
                .filter(|folder| !folder.is_empty())
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether requirements are installed at all.
    pub(super) fn installs(&self) -> bool {
        self.number("InstallRequirements") != 0
    }

    /// Where the folders of requirements are made, if the user says so.
    pub(super) fn installation_dir(&self) -> Option<PathBuf> {
        let dir = self.extra(b"PythonInstallationDir")?;
        Some(PathBuf::from(String::from_utf8_lossy(&dir).into_owned()))
    }

    /// What may be installed, and from where. The error says which setting makes no sense.
    pub(super) fn sources(&self) -> Result<Sources, String> {
        let text = |name: &[u8]| match self.get(name) {
            Value::Text(text) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::new(),
        };
        let wheels = text(b"RequirementWheels");
        let allowed = text(b"AllowedRequirements");
        let patterns = allowed.split_whitespace();
        let patterns: Vec<_> = patterns.map(Allowed::new).collect();
        let mut aliases = Vec::new();
        if let Value::List(list) = self.get(b"RequirementAlias") {
            for alias in list {
                let alias = String::from_utf8_lossy(&alias);
                let parsed = Alias::parse(&alias);
                aliases.push(parsed.map_err(|why| format!("RequirementAlias '{alias}': {why}"))?);
            }
        }
        aliases.extend(Alias::built_in());
        Ok(Sources {
            wheels: (!wheels.is_empty()).then(|| PathBuf::from(wheels)),
            allowed: (!patterns.is_empty()).then_some(patterns),
            aliases,
        })
    }

    /// One of the user's own, or one given explicitly.
    pub(super) fn extra(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.extra
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn keep_extra(&self, name: &[u8], value: &[u8]) {
        let mut extra = self.extra.write().unwrap_or_else(PoisonError::into_inner);
        extra.insert(name.to_vec(), value.to_vec());
    }

    /// Stores a value; `false` if it makes no sense.
    fn store(&self, at: usize, definition: &'static Definition, value: &[u8]) -> bool {
        match definition.kind {
            Kind::Integer(least) => {
                let Some(value) = number(value).filter(|&value| value >= least) else {
                    return false;
                };
                self.numbers[at].store(value, Ordering::Relaxed);
            }
            Kind::Flag => {
                let Some(value) = number(value) else {
                    return false;
                };
                self.numbers[at].store(i64::from(value != 0), Ordering::Relaxed);
            }
            Kind::Choice(choices) => {
                let chosen = choices.iter().position(|choice| choice.as_bytes() == value);
                let Some(chosen) = chosen.and_then(|at| i64::try_from(at).ok()) else {
                    return false;
                };
                self.numbers[at].store(chosen, Ordering::Relaxed);
            }
            Kind::Text | Kind::Secret | Kind::List => {
                let mut texts = self.texts.write().unwrap_or_else(PoisonError::into_inner);
                let values = texts.entry(definition.name).or_default();
                if definition.kind != Kind::List {
                    values.clear();
                }
                values.push(value.to_vec());
            }
        }
        self.publish();
        true
    }

    /// The arguments of the module: pairs of name and value. The error says which one is wrong.
    pub(super) fn load(&self, args: &[&[u8]]) -> Result<(), String> {
        let mut words = args.iter();
        let shown = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        while let Some(name) = words.next() {
            let Some(value) = words.next() else {
                return Err(format!("Value was not given to {}", shown(name)));
            };
            let Some((at, definition)) = find(name) else {
                self.keep_extra(name, value);
                continue;
            };
            if !self.store(at, definition, value) {
                return Err(format!(
                    "Failed setting config value {}: '{}' is not accepted",
                    shown(name),
                    shown(value)
                ));
            }
            if definition.owner == Owner::Python {
                self.keep_extra(definition.name.as_bytes(), value);
            }
        }
        Ok(())
    }

    /// All settings as `name:value`, for the log; of the user's own the names alone, since what they
    /// hold may be secret.
    pub(super) fn lines(&self) -> Vec<String> {
        let text = |value: &[u8]| {
            let value = String::from_utf8_lossy(value);
            without_secrets(&value).escape_debug().to_string()
        };
        let shown = |definition: &Definition| match self.get(definition.name.as_bytes()) {
            Value::Number(number) => number.to_string(),
            Value::Text(value) => text(&value),
            Value::List(values) => {
                let values: Vec<_> = values.iter().map(|value| text(value)).collect();
                values.join(" ")
            }
            Value::Unknown => String::new(),
        };
        let built_in = DEFINITIONS
            .iter()
            .map(|definition| format!("{}:{}", definition.name, shown(definition)));
        let extra = self.extra.read().unwrap_or_else(PoisonError::into_inner);
        let own = extra.keys().filter(|name| find(name).is_none());
        built_in
            .chain(own.map(|name| format!("{}:*****", text(name))))
            .collect()
    }

    /// The value of a setting.
    pub(super) fn get(&self, name: &[u8]) -> Value {
        let Some((at, definition)) = find(name) else {
            return self.extra(name).map_or(Value::Unknown, Value::Text);
        };
        let texts = self.texts.read().unwrap_or_else(PoisonError::into_inner);
        let values = || texts.get(definition.name).cloned().unwrap_or_default();
        match definition.kind {
            Kind::Integer(_) | Kind::Flag => {
                Value::Number(self.numbers[at].load(Ordering::Relaxed))
            }
            Kind::Choice(choices) => {
                let chosen = usize::try_from(self.numbers[at].load(Ordering::Relaxed));
                let choice = chosen.ok().and_then(|at| choices.get(at));
                Value::Text(choice.map_or_else(Vec::new, |choice| choice.as_bytes().to_vec()))
            }
            Kind::Text => Value::Text(values().pop().unwrap_or_default()),
            Kind::Secret => Value::Text(if values().is_empty() {
                Vec::new()
            } else {
                b"*****".to_vec()
            }),
            Kind::List => Value::List(values()),
        }
    }

    /// Changes a setting while the server runs. `value` is missing after the last word.
    pub(super) fn set(&self, name: &[u8], value: Option<&[u8]>) -> Set {
        let shown = String::from_utf8_lossy(name);
        let Some((at, definition)) = find(name) else {
            let Some(value) = value else {
                return Set::Refused(format!("(error) Value was not given to {shown}"));
            };
            self.keep_extra(name, value);
            return Set::Extra;
        };
        match (definition.owner, value) {
            (Owner::Core, _) if !definition.live => Set::Refused(format!(
                "(error) Config value {shown} not modifiable at runtime"
            )),
            (Owner::Core, Some(value)) if self.store(at, definition, value) => Set::Done,
            (Owner::Core, _) => {
                Set::Refused(format!("(error) Failed setting config value {shown}"))
            }
            (Owner::Python, None) => {
                Set::Refused(format!("(error) Value was not given to {shown}"))
            }
            (Owner::Python, _) if !definition.live => {
                Set::Refused(format!("(error) {shown} is not configurable at runtime"))
            }
            (Owner::Python, Some(value)) if self.store(at, definition, value) => {
                self.keep_extra(definition.name.as_bytes(), value);
                Set::Extra
            }
            (Owner::Python, Some(value)) => Set::Refused(format!(
                "Failed setting config value for key '{shown}' with value '{}'",
                String::from_utf8_lossy(value)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain() {
        for text in ["1", "-1", "0", "9223372036854775807"] {
            assert!(number(text.as_bytes()).is_some(), "{text}");
        }
        for text in [
            "",
            " 1",
            "+1",
            "01",
            "1.0",
            "1e3",
            "9223372036854775808",
            "-0",
        ] {
            assert!(number(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_value_is_stored_or_refused_with_the_text_of_its_owner() {
        let settings = Settings::new();
        assert_eq!(settings.set(b"maxexecutions", Some(b"7")), Set::Done);
        assert_eq!(settings.get(b"MAXEXECUTIONS"), Value::Number(7));
        assert_eq!(settings.limits().executions.load(Ordering::Relaxed), 7);
        let refused = |text: &str| Set::Refused(text.into());
        assert_eq!(
            settings.set(b"MaxExecutions", None),
            refused("(error) Failed setting config value MaxExecutions")
        );
        assert_eq!(
            settings.set(b"ExecutionThreads", Some(b"8")),
            refused("(error) Config value ExecutionThreads not modifiable at runtime")
        );
        assert_eq!(
            settings.set(b"CreateVenv", Some(b"1")),
            refused("(error) CreateVenv is not configurable at runtime")
        );
        assert_eq!(settings.set(b"colour", Some(b"blue")), Set::Extra);
        assert_eq!(settings.get(b"colour"), Value::Text(b"blue".to_vec()));
        assert_eq!(settings.get(b"Colour"), Value::Unknown);
        assert_eq!(
            settings.set(b"PythonAttemptTraceback", Some(b"0")),
            Set::Extra
        );
        assert_eq!(
            settings.extra(b"PythonAttemptTraceback").as_deref(),
            Some(b"0".as_slice())
        );
    }

    #[test]
    fn a_bad_argument_of_the_module_is_named() {
        let settings = Settings::new();
        assert_eq!(
            settings.load(&[b"ExecutionThreads", b"5", b"mine", b"x"]),
            Ok(())
        );
        assert_eq!(settings.threads(), 5);
        assert!(settings.load(&[b"ExecutionThreads", b"0"]).is_err());
        assert!(settings.load(&[b"mine"]).is_err());
    }
}
