//! What listings show of registrations and their sessions.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Entry, Fires, Function, ListedSession, Registrations};
use crate::engine::Id;
use crate::python::Requirement;

impl Registrations {
    /// All registrations with what a listing shows, in the order in which they were registered. The
    /// server lock is held.
    pub(in crate::redis) fn list(&self) -> Vec<Listed> {
        let sessions = self.list_sessions();
        let texts: HashMap<_, _> = sessions
            .iter()
            .map(|listed| (Arc::as_ptr(&listed.session), listed.text()))
            .collect();
        let state = self.state();
        let list = state.entries.values().map(|entry| {
            let text = texts.get(&Arc::as_ptr(&entry.function.plan.context));
            Listed {
                session: text.cloned().unwrap_or_default(),
                ..Listed::of(entry)
            }
        });
        list.collect()
    }

    /// One of them, without its session. The server lock is held.
    pub(in crate::redis) fn listed(&self, id: Id) -> Option<Listed> {
        let state = self.state();
        let entry = state.entries.get(state.order_of.get(&id)?);
        entry.map(Listed::of)
    }
}

/// A registration in a listing.
pub(in crate::redis) struct Listed {
    pub(in crate::redis) function: Arc<Function>,
    /// Of a stream function.
    pub(in crate::redis) status: &'static str,
    /// The session, as a Python literal.
    pub(in crate::redis) session: String,
}

impl Listed {
    fn of(entry: &Entry) -> Self {
        Self {
            function: entry.function.clone(),
            status: match &entry.fires {
                Fires::Stream(consumer) => consumer.status(),
                _ => "OK",
            },
            session: String::new(),
        }
    }
}

impl ListedSession {
    /// It as a Python literal.
    pub(in crate::redis) fn text(&self) -> String {
        let session = &self.session;
        let ids = self.registrations.iter().map(|id| format!("'{id}'"));
        let needs = session.requirements().iter();
        let needs = needs.map(|one| requirement_text(one));
        let join = |list: Vec<String>| list.join(",");
        format!(
            "{{'sessionId':{id}, 'sessionName':{id}, 'sessionDescription':{}, 'refCount': {}, \
             'linkedTo': '{}', 'dead': {}, 'isInstallationNeeded':{}, \
             'registrationsList':[{}], 'depsList':[{}]}}",
            python_text(session.description().unwrap_or("null")),
            self.references,
            self.place(),
            if self.linked { "False" } else { "True" },
            u8::from(session.needed_installation()),
            join(ids.collect()),
            join(needs.collect()),
            id = python_text(session.id()),
        )
    }

    /// Where it is.
    pub(in crate::redis) fn place(&self) -> &'static str {
        if self.linked { "primary" } else { "None" }
    }
}

/// A requirement as a Python literal.
fn requirement_text(requirement: &Requirement) -> String {
    let wheels = requirement.wheels().unwrap_or_default();
    let wheels: Vec<_> = wheels.iter().map(|wheel| python_text(wheel)).collect();
    format!(
        "{{'name':{}, 'basePath':{}, 'wheels':[{}]}}",
        python_text(requirement.name()),
        python_text(&requirement.folder().to_string_lossy()),
        wheels.join(","),
    )
}

/// A text as a Python literal.
fn python_text(text: &str) -> String {
    let mut literal = String::from("'");
    for character in text.chars() {
        match character {
            '\'' | '\\' => {
                literal.push('\\');
                literal.push(character);
            }
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\0' => literal.push_str("\\x00"),
            _ => literal.push(character),
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    use super::python_text;

    #[test]
    fn texts_become_python_literals() {
        assert_eq!(python_text("it's"), r"'it\'s'");
        assert_eq!(python_text("a\\\n"), r"'a\\\n'");
    }
}
