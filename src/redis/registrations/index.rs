//! Registrations by the names of keys: nothing is walked that can not match.

use std::collections::{BTreeMap, HashMap};

/// Which names: one, or all that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// The one.
    Exact(Vec<u8>),
    /// All that begin with this.
    Beginning(Vec<u8>),
}

impl Names {
    /// By the rule of `prefix`: a `*` at its end, and only there, stands for anything.
    pub(super) fn of(prefix: &str) -> Self {
        match prefix.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning.into()),
            None => Self::Exact(prefix.into()),
        }
    }

    /// Whether a name is one of them.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Beginning(beginning) => name.starts_with(beginning),
        }
    }

    /// Whether some name is one of both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), names) | (names, Self::Exact(name)) => names.matches(name),
            (Self::Beginning(a), Self::Beginning(b)) => a.starts_with(b) || b.starts_with(a),
        }
    }
}

/// Values by a name, or by the beginning of names.
type ByName<T> = HashMap<Vec<u8>, Vec<(u64, T)>>;

/// Values by names, with the order in which they came.
#[derive(Debug)]
pub(super) struct Index<T> {
    exact: ByName<T>,
    /// By the length of the beginning: a lookup for each length there is.
    beginnings: BTreeMap<usize, ByName<T>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            beginnings: BTreeMap::new(),
        }
    }
}

impl<T: Clone> Index<T> {
    /// Adds a value.
    pub(super) fn insert(&mut self, names: &Names, order: u64, value: T) {
        let values = match names {
            Names::Exact(name) => self.exact.entry(name.clone()).or_default(),
            Names::Beginning(beginning) => self
                .beginnings
                .entry(beginning.len())
                .or_default()
                .entry(beginning.clone())
                .or_default(),
        };
        values.push((order, value));
    }

    /// Appends the values for a name, with their order.
    pub(super) fn find(&self, name: &[u8], found: &mut Vec<(u64, T)>) {
        if !self.exact.is_empty()
            && let Some(values) = self.exact.get(name)
        {
            found.extend_from_slice(values);
        }
        for (&len, beginnings) in &self.beginnings {
            let Some(beginning) = name.get(..len) else {
                break;
            };
            if let Some(values) = beginnings.get(beginning) {
                found.extend_from_slice(values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_star_at_the_end_is_special() {
        assert!(Names::of("a*").matches(b"a"));
        assert!(Names::of("a*").matches(b"a*b"));
        assert!(!Names::of("a").matches(b"ab"));
        assert!(!Names::of("*a").matches(b"xa"));
        assert!(Names::of("a?*").matches(b"a?b"));
        assert!(!Names::of("a?*").matches(b"axb"));
        assert!(Names::of("").matches(b""));
        assert!(!Names::of("").matches(b"a"));
    }

    #[test]
    fn names_overlap_where_one_name_is_in_both() {
        let check = |a: &str, b: &str| Names::of(a).overlaps(&Names::of(b));
        assert!(check("a*", "ab*") && check("ab*", "a*") && check("ab", "a*") && check("*", "x"));
        assert!(!check("a*", "b*") && !check("a", "b") && !check("ab*", "a"));
    }

    #[test]
    fn an_index_finds_what_matching_one_by_one_finds() {
        let prefixes = ["*", "a*", "ab*", "ab", "abc*", "b*", "", "*b", "abcd"];
        let mut index = Index::default();
        for (order, prefix) in prefixes.iter().enumerate() {
            index.insert(&Names::of(prefix), order as u64, *prefix);
        }
        for name in ["", "a", "ab", "abc", "abcd", "abcde", "b", "*b", "c"] {
            let mut found = Vec::new();
            index.find(name.as_bytes(), &mut found);
            found.sort_unstable();
            let want: Vec<_> = prefixes
                .iter()
                .enumerate()
                .filter(|(_, prefix)| Names::of(prefix).matches(name.as_bytes()))
                .map(|(order, prefix)| (order as u64, *prefix))
                .collect();
            assert_eq!(found, want, "{name}");
        }
    }
}
