//! What may stand after REQUIREMENTS, and what is installed in its place.

use std::collections::HashSet;

use crate::engine::glob::Pattern;

/// Nobody needs a longer one.
const LONGEST: usize = 1024;

/// What a folder is called after a requirement, at the most.
const SHOWN: usize = 60;

/// Stands for what somebody asked for, in what is installed in its place.
const ITSELF: &str = "*";

/// A requirement that can not be installed any more as it is, and what is installed in its place.
#[derive(Debug, Clone)]
pub(crate) struct Alias {
    pattern: Pattern,
    instead: Parts,
}

/// What pip is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Without what their authors say that they need.
    pub(super) alone: Vec<String>,
    /// With that, in versions that go together.
    pub(super) whole: Vec<String>,
}

/// Clients of RedisGears. One names its repository, which is gone, as the requirement of every script
/// that it sends. PyPI has its last release, which asks for a cloudpickle and a redis that are too old
/// for the Pythons of today. The other one can not do with the redis of today, and does not say so.
const BUILT_IN: [&str; 2] = [
    "*git+https://github.com/RedisGears/redisgears-py* --no-deps gearsclient cloudpickle>=3 redis",
    "redgrease* * redis<5",
];

impl Alias {
    /// Those that everybody has.
    pub(crate) fn built_in() -> Vec<Self> {
        BUILT_IN.iter().flat_map(|text| Self::parse(text)).collect()
    }

    /// Reads `pattern [--no-deps] requirement ...`. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let pattern = words.next().ok_or("it is empty")?;
        let mut instead = Parts::default();
        let mut alone = false;
        for word in words {
            if word == "--no-deps" {
                alone = true;
                continue;
            }
            check(word)?;
            let part = word.to_owned();
            if alone {
                instead.alone.push(part);
            } else {
                instead.whole.push(part);
            }
            alone = false;
        }
        if (instead.alone.is_empty() && instead.whole.is_empty()) || alone {
            return Err(format!("it does not say what is installed for {pattern}"));
        }
        Ok(Self {
            pattern: Pattern::new(pattern.as_bytes()),
            instead,
        })
    }
}

impl Parts {
    /// Where somebody asks for `name`.
    pub(super) fn of(name: &str, aliases: &[Alias]) -> Self {
        let mut aliases = aliases.iter();
        let alias = aliases.find(|alias| alias.pattern.matches(name.as_bytes()));
        let Some(alias) = alias else {
            return Self {
                alone: Vec::new(),
                whole: vec![name.to_owned()],
            };
        };
        let mut parts = alias.instead.clone();
        for part in parts.alone.iter_mut().chain(&mut parts.whole) {
            if part == ITSELF {
                name.clone_into(part);
            }
        }
        parts
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &String> {
        self.alone.iter().chain(&self.whole)
    }
}

/// The project of which there are several wheels.
pub(super) fn twice(wheels: &[String]) -> Option<String> {
    let mut seen = HashSet::new();
    let mut projects = wheels.iter().map(|wheel| {
        let end = wheel.find('-').unwrap_or(wheel.len());
        normalized(&wheel[..end])
    });
    projects.find(|project| !seen.insert(project.clone()))
}

/// Whether a text can be a requirement: it is handed to pip as one word, and must not be taken for
/// an option.
pub(super) fn check(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("a requirement is empty".into());
    }
    if name.len() > LONGEST {
        return Err(format!("a requirement is longer than {LONGEST} bytes"));
    }
    if name.trim_start().starts_with('-') {
        return Err(format!("'{name}' is an option of pip, not a requirement"));
    }
    if name.chars().any(char::is_control) {
        return Err("a requirement has line ends or other control characters in it".into());
    }
    Ok(())
}

/// Whether an allow-list has a requirement. One that names a path or an URL must match as a whole,
/// any other one by the name of its project.
pub(super) fn is_allowed(name: &str, allowed: &[Allowed]) -> bool {
    let whole = name.trim();
    if is_elsewhere(whole) {
        let mut elsewhere = allowed.iter().filter(|allowed| allowed.elsewhere);
        return elsewhere.any(|allowed| allowed.pattern.matches(whole.as_bytes()));
    }
    let project = normalized(project(whole));
    allowed.iter().any(|allowed| {
        allowed.pattern.matches(whole.as_bytes()) || allowed.pattern.matches(project.as_bytes())
    })
}

/// What requirements may match: projects, or paths and URLs.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    pattern: Pattern,
    elsewhere: bool,
}

impl Allowed {
    /// One of these; a lone star is anything.
    pub(crate) fn new(pattern: &str) -> Self {
        Self {
            pattern: Pattern::new(pattern.as_bytes()),
            elsewhere: pattern == "*" || is_elsewhere(pattern),
        }
    }
}

/// Whether it is, or may be, a path or an URL rather than the name of a project.
fn is_elsewhere(name: &str) -> bool {
    const FILES: [&str; 9] = [
        ".whl", ".zip", ".gz", ".tgz", ".tar", ".bz2", ".tbz", ".xz", ".lzma",
    ];
    let lower = name.to_ascii_lowercase();
    let file = FILES.iter().any(|end| lower.contains(end));
    file || name.starts_with('.') || name.contains(['/', '\\', '@'])
}

/// The path that it is, if so: neither an URL nor a name. Extras may follow it.
pub(super) fn path(name: &str) -> Option<&str> {
    let path = name.trim().split('[').next().unwrap_or_default();
    let is_path = path.contains('/') && !path.contains([':', '@', ';']);
    is_path.then_some(path)
}

/// The name of the project: what comes before versions, extras and markers.
fn project(name: &str) -> &str {
    let other = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
    name.split(other).next().unwrap_or_default()
}

/// As PyPI compares names.
fn normalized(project: &str) -> String {
    let mut name = String::with_capacity(project.len());
    for c in project.chars() {
        let c = if "-_.".contains(c) {
            '-'
        } else {
            c.to_ascii_lowercase()
        };
        if c != '-' || !name.ends_with('-') {
            name.push(c);
        }
    }
    name
}

/// What a folder can be called after a requirement. Passwords in URLs stay out of it.
pub(super) fn of_folder(name: &str) -> String {
    let name = without_secrets(name);
    let name = name.chars().take(SHOWN);
    let kept = |c: char| c.is_ascii_alphanumeric() || "-_.=<>!~+,[]".contains(c);
    let safe: String = name.map(|c| if kept(c) { c } else { '_' }).collect();
    // Not a hidden one, nor a way up.
    if safe.starts_with('.') {
        format!("_{safe}")
    } else {
        safe
    }
}

/// Text for the log: users and passwords of URLs are hidden.
pub(super) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("://") {
        shown.push_str(head);
        shown.push_str("://");
        let end = tail.find(['/', ' ', '\'', '"', '\n']);
        let (authority, after) = tail.split_at(end.unwrap_or(tail.len()));
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str("****@");
                shown.push_str(host);
            }
            None => shown.push_str(authority),
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_is_one_word_for_pip() {
        for good in [
            "redis",
            "redis>=4,<5",
            "./a b.whl",
            "pkg[extra]",
            "git+https://host/x.git@main",
            "x; python_version < '3'",
            "it's",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "  ",
            "-r file",
            " --index-url=x",
            "a\nb",
            "a\0b",
            "a\rb",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&"x".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn paths_are_told_from_urls_and_names() {
        for (name, want) in [
            ("a/b", Some("a/b")),
            (" ./x[extra] ", Some("./x")),
            ("redis", None),
            ("git+https://host/x.git", None),
            ("x @ file:///y", None),
            ("x; python_version < 'a/b'", None),
        ] {
            assert_eq!(path(name), want, "{name}");
        }
    }

    #[test]
    fn an_allow_list_knows_projects_by_name_and_the_rest_as_a_whole() {
        let allowed: Vec<_> = ["redis", "my-*", "git+https://host/ours/*", "./wheels/*.whl"]
            .map(Allowed::new)
            .to_vec();
        for good in [
            "redis",
            "Redis==4.5.1",
            "redis[hiredis]>=4",
            "my_tools",
            "My.Tools ; python_version > '3'",
            "git+https://host/ours/x.git",
            "./wheels/x.whl",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in [
            "rediss",
            "redis @ https://elsewhere/redis.whl",
            "redis-1.whl",
            "./redis",
            "git+https://host/theirs/x.git",
            "https://elsewhere/my-x.whl",
            "my-x.tar.gz",
            "my-x.zip[extra]",
            ".",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
        assert!(!is_allowed("redis", &[]));
    }

    #[test]
    fn an_alias_says_what_is_installed_instead() {
        let aliases = Alias::built_in();
        let parts = |name| {
            let parts = Parts::of(name, &aliases);
            (parts.alone.join(" "), parts.whole.join(" "))
        };
        assert_eq!(
            parts("git+https://github.com/RedisGears/redisgears-py.git"),
            ("gearsclient".into(), "cloudpickle>=3 redis".into())
        );
        assert_eq!(
            parts("redgrease[runtime]==0.3"),
            (String::new(), "redgrease[runtime]==0.3 redis<5".into())
        );
        assert_eq!(parts("redis"), (String::new(), "redis".into()));
        for bad in ["", "old", "old --no-deps", "old -r"] {
            assert!(Alias::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_project_has_one_wheel() {
        let wheels = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let one = wheels(&["a-1-py3-none-any.whl", "a_b-1-py3-none-any.whl"]);
        assert_eq!(twice(&one), None);
        let two = wheels(&["A.b-2-py3-none-any.whl", "a_b-1-py3-none-any.whl"]);
        assert_eq!(twice(&two).as_deref(), Some("a-b"));
    }

    #[test]
    fn folders_have_safe_names() {
        assert_eq!(of_folder("redis==4.5.1"), "redis==4.5.1");
        assert_eq!(of_folder("../../etc"), "_.._.._etc");
        assert_eq!(of_folder("a b'c"), "a_b_c");
        assert!(!of_folder("git+https://me:secret@host/x").contains("secret"));
        assert_eq!(of_folder(&"é".repeat(300)).len(), SHOWN);
    }

    #[test]
    fn secrets_are_hidden() {
        let hidden = without_secrets("from git+https://me:se@cret@host/x.git and ssh://h/y");
        assert_eq!(hidden, "from git+https://****@host/x.git and ssh://h/y");
        assert_eq!(without_secrets("plain"), "plain");
    }
}
