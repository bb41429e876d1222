//! The indices of the table: what an event or a command looks for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hooks::{Hook, Hooked};
use super::index::Index;
use super::{CommandFunction, Fires, Registrations};
use crate::engine::{CommandTrigger, Trigger};

impl Registrations {
    /// Makes the indices anew from the entries. The server lock is held.
    pub(super) fn index(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let (mut keys, mut hooks) = (0, 0);
        state.triggers.clear();
        state.hooked.clear();
        state.keys_by_event.clear();
        state.keys_of_all_events = Index::default();
        state.streams.clear();
        state.streams_by_name = Index::default();
        for (&order, entry) in &state.entries {
            match &entry.fires {
                Fires::Broken => {}
                Fires::Stream(consumer) => {
                    let names = consumer.names();
                    state.streams_by_name.insert(names, order, consumer.clone());
                    state.streams.push(consumer.clone());
                }
                Fires::Keys(function) => {
                    keys += 1;
                    match &function.events {
                        None => state.keys_of_all_events.insert(
                            &function.names,
                            order,
                            function.clone(),
                        ),
                        Some(events) => {
                            for event in events {
                                state
                                    .keys_by_event
                                    .entry(event.clone())
                                    .or_default()
                                    .insert(&function.names, order, function.clone());
                            }
                        }
                    }
                    for command in function.commands.iter().flatten() {
                        hooks += 1;
                        if let Some(spec) = state.specs.get(command) {
                            let hooked = state.hooked.entry(command.clone());
                            hooked
                                .or_insert_with(|| Hooked::new(spec.clone()))
                                .keys
                                .push((order, function.names.clone()));
                        }
                    }
                }
                Fires::Command(function) => match &function.function.trigger {
                    Trigger::Command {
                        what: CommandTrigger::Named(name),
                        ..
                    } => {
                        state
                            .triggers
                            .insert(name.clone().into_bytes(), function.clone());
                    }
                    Trigger::Command {
                        what:
                            CommandTrigger::Hook {
                                command,
                                key_prefix,
                            },
                        ..
                    } => {
                        hooks += 1;
                        let name = command.to_ascii_lowercase().into_bytes();
                        if let Some(spec) = state.specs.get(&name) {
                            let hook = Hook {
                                function: function.clone(),
                                key_prefix: key_prefix.clone().map(String::into_bytes),
                            };
                            let hooked = state.hooked.entry(name);
                            hooked
                                .or_insert_with(|| Hooked::new(spec.clone()))
                                .chain
                                .insert(0, hook);
                        }
                    }
                    Trigger::Keys(_) | Trigger::Stream(_) => {}
                },
            }
            if let (
                Fires::Broken,
                Trigger::Command {
                    what: CommandTrigger::Named(name),
                    ..
                },
            ) = (&entry.fires, &entry.function.trigger)
            {
                // It answers why it can not run.
                let function = CommandFunction {
                    function: entry.function.clone(),
                    lane: None,
                };
                state
                    .triggers
                    .insert(name.clone().into_bytes(), Arc::new(function));
            }
        }
        self.keys.store(keys, Ordering::Relaxed);
        self.hooks.store(hooks, Ordering::Relaxed);
        self.streams.store(state.streams.len(), Ordering::Relaxed);
    }
}
