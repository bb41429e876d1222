//! Which function has which consumer group of a stream.

use super::index::Names;
use super::{Entry, Registrations, streams};
use crate::engine::Trigger;
use crate::engine::wire::RegistrationWire;

impl Registrations {
    /// Chooses the consumer group of a stream function: a name that stays its own for as long as it
    /// is registered, and that the one after it takes over. `before` come with it, `left` are those
    /// of functions that go.
    pub(super) fn choose_group(
        &self,
        trigger: &mut Trigger,
        left: &mut Vec<(String, String)>,
        before: &[RegistrationWire],
    ) {
        let Trigger::Stream(stream) = trigger else {
            return;
        };
        // A function that replaces one goes on where that stopped.
        if let Some(at) = left.iter().position(|(prefix, _)| *prefix == stream.prefix) {
            stream.group = left.remove(at).1;
            return;
        }
        let names = Names::of(&stream.prefix);
        let state = self.state();
        // Also of those that can not run here: they keep their place.
        let there = state.entries.values().map(|entry| &entry.wire);
        let mut taken: Vec<&str> = there
            .chain(before)
            .filter_map(|wire| match &wire.trigger {
                Trigger::Stream(other) if Names::of(&other.prefix).overlaps(&names) => {
                    Some(other.group.as_str())
                }
                _ => None,
            })
            .collect();
        // And those that others of this change will take over.
        let later = left
            .iter()
            .filter(|(prefix, _)| Names::of(prefix).overlaps(&names));
        taken.extend(later.map(|(_, group)| group.as_str()));
        let shared = self.settings.shares_stream_groups();
        stream.group = (1..)
            .map(streams::group_name)
            .find(|group| shared || !taken.contains(&group.as_str()))
            .unwrap_or_default();
    }

    /// The groups of all functions on a stream but this one, also of those that can not run here.
    pub(super) fn other_groups(&self, key: &[u8], own: &str) -> Vec<String> {
        let state = self.state();
        let group = |entry: &Entry| match &entry.wire.trigger {
            Trigger::Stream(other)
                if other.group != own && Names::of(&other.prefix).matches(key) =>
            {
                Some(other.group.clone())
            }
            _ => None,
        };
        state.entries.values().filter_map(group).collect()
    }

    /// Whether a function has this group of a stream.
    pub(super) fn has_group(&self, key: &[u8], group: &str) -> bool {
        let has = |entry: &Entry| {
            matches!(&entry.wire.trigger, Trigger::Stream(stream)
                if stream.group == group && Names::of(&stream.prefix).matches(key))
        };
        self.state().entries.values().any(has)
    }

    /// Prefix and group of each stream function of a session.
    pub(super) fn groups_of(&self, session: &str) -> Vec<(String, String)> {
        let state = self.state();
        let own = |entry: &&Entry| entry.wire.session == session;
        let group = |entry: &Entry| match &entry.wire.trigger {
            Trigger::Stream(stream) => Some((stream.prefix.clone(), stream.group.clone())),
            _ => None,
        };
        state
            .entries
            .values()
            .filter(own)
            .filter_map(group)
            .collect()
    }
}
