//! Patterns of key names, with the meaning that Redis gives them (`*`, `?`, `[a-c]`, `[^x]`, `\`).

use memchr::memmem;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// `*`
    All,
    /// `prefix*`
    Prefix(Vec<u8>),
    /// `*word*`
    Contains(Box<memmem::Finder<'static>>),
    /// No special character at all.
    Exact(Vec<u8>),
    /// Anything else.
    Glob(Vec<u8>),
}

fn is_plain(text: &[u8]) -> bool {
    !text.iter().any(|c| b"*?[]\\".contains(c))
}

impl Pattern {
    /// Finds the cheapest way to test for a pattern. Every byte string is a pattern.
    pub fn new(text: &[u8]) -> Self {
        match text {
            b"*" => return Self::All,
            plain if is_plain(plain) => return Self::Exact(plain.to_vec()),
            _ => {}
        }
        let Some(head) = text.strip_suffix(b"*") else {
            return Self::Glob(text.to_vec());
        };
        if is_plain(head) {
            return Self::Prefix(head.to_vec());
        }
        match head.strip_prefix(b"*") {
            Some(word) if is_plain(word) && !word.is_empty() => {
                Self::Contains(Box::new(memmem::Finder::new(word).into_owned()))
            }
            _ => Self::Glob(text.to_vec()),
        }
    }

    /// Whether a key name matches.
    #[inline]
    pub fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => name.starts_with(prefix),
            Self::Contains(word) => word.find(name).is_some(),
            Self::Exact(text) => name == text,
            Self::Glob(text) => glob(text, name),
        }
    }
}

/// Matches by remembering the last `*` only: linear space, and no pattern makes it exponential.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(_) => one(pattern, p, name[n]),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                n += 1;
            }
            (None, Some((after, from))) => {
                p = after;
                n = from + 1;
                star = Some((after, n));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// Matches one character at `p`; the position after what matched.
fn one(pattern: &[u8], p: usize, c: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, c),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == c).then_some(p + 2),
        plain => (plain == c).then_some(p + 1),
    }
}

/// A `[...]` that begins before `p`. One that is never closed ends with the pattern, as in Redis.
fn class(pattern: &[u8], mut p: usize, c: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut found = false;
    loop {
        match pattern[p..] {
            [b'\\', escaped, ..] => {
                found |= escaped == c;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [] => break,
            [from, b'-', to, ..] => {
                found |= (from.min(to)..=from.max(to)).contains(&c);
                p += 3;
            }
            [plain, ..] => {
                found |= plain == c;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = Pattern::new(pattern.as_bytes());
        for name in yes {
            assert!(
                compiled.matches(name.as_bytes()),
                "{pattern} should match {name}"
            );
            assert!(
                glob(pattern.as_bytes(), name.as_bytes()),
                "{pattern} should glob {name}"
            );
        }
        for name in no {
            assert!(
                !compiled.matches(name.as_bytes()),
                "{pattern} should not match {name}"
            );
            assert!(
                !glob(pattern.as_bytes(), name.as_bytes()),
                "{pattern} should not glob {name}"
            );
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_in_redis() {
        check("*", &["", "a", "a*b"], &[]);
        check(
            "person:*",
            &["person:", "person:1"],
            &["person", "xperson:1"],
        );
        check("*mid*", &["mid", "amidb"], &["md"]);
        check("h?llo", &["hello", "hallo"], &["hllo", "heello"]);
        check("h[ae]llo", &["hello", "hallo"], &["hillo"]);
        check("h[^e]llo", &["hallo"], &["hello"]);
        check("h[a-b]llo", &["hallo", "hbllo"], &["hcllo"]);
        check("h[b-a]llo", &["hallo"], &["hcllo"]);
        check("a\\*b", &["a*b"], &["axb"]);
        check("a**b*c", &["abc", "axxbyyc"], &["ab"]);
        check("", &[""], &["a"]);
        check("[a", &["a"], &["b", ""]);
        check("a]", &["a]"], &["a"]);
        check("**", &["", "x"], &[]);
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!Pattern::new(pattern.as_bytes()).matches("a".repeat(4000).as_bytes()));
    }
}
